"""Selection in a training loop of one's own: three lines, without the environment."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gstds.gradient_noise import noise_share
from gstds.memory import SampleMemory
from gstds.noise import STREAMS, fan_out, policy_seed
from gstds.schedules import Schedule, make_schedule
from gstds.store import FeatureStore
from gstds.validation import check_integer, check_number
from gstds.views import checked_weights, fitted, observation_bounds, padded, step_noise
from policies._ranks import Ranks
from policies._reference_view import ReferenceView
from policies.base import Policy, RunContext, Transition
from policies.registry import make_policy

if TYPE_CHECKING:
    import torch

__all__ = ["Selector"]

Indices = npt.NDArray[np.int64]
HISTORY = ("last_losses", "visited", "age", "train_loss", "mean_last_loss")
LEARNER_VIEWS = (
    "learner_losses",
    "learner_margin",
    "learner_entropy",
    "learner_probabilities",
    "learner_embeddings",
)
_STATE = (
    "step",
    "_spent",
    "_keep_ratio",
    "_drawn",
    "_kept",
    "_updates",
    "_batch_size",
    "_begun",
    "_spent_at_validation",
    "_reward",
    "_width",
)


class _Shown(dict[str, npt.NDArray[np.float32]]):
    """An observation that says what to do about what it cannot show."""

    refused: dict[str, str] = {}  # noqa: RUF012  (replaced, never changed)

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        if name in self.refused:
            raise ValueError(self.refused[name])
        if name not in self:
            raise KeyError(f"{name!r} is not shown: a policy declares what it reads in `needs`")
        return super().__getitem__(name)


class Selector:
    """Says which samples of each drawn batch to train on, in any training loop.

    The policy sees what it sees in the environment, and its random choices have the same key (seed,
    step, sample): for the same policy, seed and order of samples the same samples are kept.

    Args:
        policy: A policy's name, ``module:Class``, or a policy.
        store: Cached features with reference losses, or their folder; None for a policy that needs
            neither. `gstds.prepare.prepare_store` makes one.
        total_steps: Drawn batches of the whole run (of this process): what schedules run on.
        seed: The run's seed.
        schedule: Keep-ratio schedule, or its name; for a policy that is named and follows one.
        keep: Wanted mean keep ratio of the schedule named.
        labels: Class (n,) of each training sample, for a policy that reads them.
        reference_losses: Losses (n,) in nats, or their file; None for the store's own.
        rows: Row of the store (n,) for each sample, where it is not the sample's own index.
        num_samples: Number of training samples, where neither store nor labels say it.
        num_classes: Number of classes, where neither store nor labels say it.
        batch_size: Samples of a drawn batch; None for the first one's.
        sample_flops: Operations of a forward and backward of one sample; None counts a forward as
            one, a forward and backward as three, and nothing for spectral solves or the policy's
            own arithmetic.
        forward_flops: Operations of a forward of one sample; None for a third of the above.
        price: What full training's compute costs, in nats of validation loss, in the reward.
        distributed: Whether to agree with the other processes on what the loss is divided by; None
            if ``torch.distributed`` is initialized.
        device: Where the tensors returned are; also where processes exchange counts.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the policy is unknown, or needs what is not given; the message says what.
        StoreError: If the store is missing or damaged.

    Attributes:
        policy: The policy.
        step: Batches drawn so far.
        ahead: True if batches are selected before the ones drawn earlier were trained on.
        mean_keep: Samples kept by samples drawn, so far.
    """

    def __init__(
        self,
        policy: Policy | str,
        store: FeatureStore | str | Path | None,
        total_steps: int,
        *,
        seed: int = 0,
        schedule: Schedule | str | None = None,
        keep: float | None = None,
        labels: Any = None,
        reference_losses: npt.ArrayLike | str | Path | None = None,
        rows: npt.ArrayLike | None = None,
        num_samples: int | None = None,
        num_classes: int | None = None,
        batch_size: int | None = None,
        sample_flops: float | None = None,
        forward_flops: float | None = None,
        price: float = 0.1,
        distributed: bool | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.policy, self.name = _resolve(policy, schedule, keep)
        self.total_steps = check_integer("total_steps", total_steps, low=1)
        self._seed = check_integer("seed", seed)
        self._selection_seed = fan_out(self._seed, STREAMS)["selection"]
        self._needs = {name: dict(options) for name, options in self.policy.needs.items()}
        self._reference = ReferenceView(self._needs, store, reference_losses, rows, self.name)
        self._labels = None if labels is None else _numbers(labels).astype(np.int64)
        self._samples, self._classes = self._sizes(num_samples, num_classes)
        self._memory = SampleMemory(self._samples, self._classes)
        self._batch_size = batch_size and check_integer("batch_size", batch_size, low=1)
        self._free_solves = sample_flops is None
        self._sample_flops = check_number("sample_flops", sample_flops or 3.0, low=0)
        self._forward_flops = float(forward_flops or self._sample_flops / 3)
        self._price, self._device = price, device
        self._ranks = Ranks(distributed, device)
        self._learns = type(self.policy).learn is not Policy.learn
        self._begun, self.ahead = False, False
        self.step, self._spent, self._keep_ratio = 0, 0.0, 1.0
        self._drawn = self._kept = self._updates = self._width = 0
        self._validation: tuple[float, float] | None = None
        self._gradient_noise: float | None = None
        self._spent_at_validation, self._reward = 0.0, 0.0
        self._last: dict[str, Any] | None = None

    # ------------------------------------------------------------------ what is called

    def select(
        self, indices: Any, learner_losses: Any = None, **learner: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Say which samples of a drawn batch to train on.

        Args:
            indices: Index (n,) of each drawn sample among the training samples.
            learner_losses: The learner's losses (n,) of the batch now, from a forward in
                evaluation mode, for a policy that needs them.
            **learner: What else of `learner_margin`, `learner_entropy`, `learner_probabilities`,
                `learner_embeddings` the policy needs.

        Returns:
            Positions (k,) of the kept samples in the batch, and their weights (k,). The loss to
            minimize is the sum of weight times loss over the kept samples: what it is divided by is
            in the weights already, over all processes if there are several.

        Raises:
            ValueError: If an index lies outside the data, if losses that the policy needs are
                missing, or if the policy returns something that are no weights.
        """
        batch = self._checked_indices(indices)
        views = self._learner_views(len(batch), {"learner_losses": learner_losses, **learner})
        if "learner_embeddings" in views:
            self._width = views["learner_embeddings"].shape[1]
        self._begin(len(batch))
        observation = self._look(batch, views)
        self._teach(observation)
        size = len(observation["valid"])
        weights = checked_weights(
            self.policy.act(observation),
            size,
            self.policy.max_weight,
            where=f"(policy {self.name!r}, step {self.step})",
            name="weights",
        )
        self._remember(batch, observation, weights)
        return self._answer(weights[: len(batch)])

    def observe_losses(self, indices: Any, losses: Any) -> None:
        """Tell the losses of the samples just trained on: what stale losses are made of.

        Args:
            indices: Index (k,) of each sample, in any order.
            losses: Its loss (k,), as training computed it, not weighted.

        Raises:
            ValueError: If the lengths differ or an index lies outside the data.
        """
        batch = self._checked_indices(indices, allow_empty=True)
        values = _numbers(losses).astype(np.float32)
        if values.shape != batch.shape:
            raise ValueError(
                f"losses must have one number for each of the {len(batch)} indices, got shape "
                f"{values.shape}; use reduction='none'"
            )
        self._note_trained(batch, values)
        batch, values = self._ranks.gather(batch, values)
        self._updates += 1
        if len(batch):
            self._memory.remember(batch, values, max(0, self.step - 1) / self.total_steps)

    def observe_validation(self, loss: float, accuracy: float = 0.0) -> None:
        """Tell the loss in nats and the accuracy in [0, 1] on validation samples.

        For a policy that needs `validation_loss` or learns from a reward, which is the drop of this
        loss since the call before, minus ``price`` times the share of compute spent meanwhile.
        """
        loss = check_number("loss", loss, low=0)
        if self._validation is not None and self._begun:
            spent = (self._spent - self._spent_at_validation) / self._full_flops
            self._reward += self._validation[0] - loss - self._price * spent
        self._validation = (loss, check_number("accuracy", accuracy, low=0, high=1))
        self._spent_at_validation = self._spent

    def observe_gradient_noise(self, samples: float) -> None:
        """Tell the gradient noise scale in samples, for a policy that needs `gradient_noise`.

        `gstds.gradient_noise.NoiseScale` estimates it from the gradients of a loop of one's own.
        """
        if samples != math.inf:
            samples = check_number("samples", samples, low=0)
        self._gradient_noise = noise_share(samples)

    @property
    def mean_keep(self) -> float:
        """Samples kept by samples drawn, so far."""
        return self._kept / max(1, self._drawn)

    # ------------------------------------------------------------------ begin

    def _sizes(self, samples: int | None, classes: int | None) -> tuple[int, int]:
        if samples is None:
            known = None if self._labels is None else len(self._labels)
            samples = known or self._reference.samples
        if classes is None:
            highest = None if self._labels is None else int(self._labels.max()) + 1
            classes = highest or self._reference.classes
        for name, value in (("num_samples", samples), ("num_classes", classes)):
            if value is None:
                raise ValueError(f"{name} is not known; pass {name}=, or labels= of all samples")
        return check_integer("num_samples", samples, low=1), check_integer(
            "num_classes", classes, low=1
        )

    def _begin(self, drawn: int) -> None:
        if self._begun:
            return
        n = self._batch_size = self._batch_size or drawn
        per_epoch = max(1, math.ceil(self._samples / (n * self._ranks.count)))
        epochs = max(1, round(self.total_steps / per_epoch))
        self._full_flops = epochs * self._samples * self._sample_flops / self._ranks.count
        self._context = RunContext(
            batch_size=n,
            budget_flops=self._full_flops,
            embedding_dim=self._width,
            epochs=epochs,
            feature_dim=self._reference.dim or 0,
            forward_flops=self._forward_flops,
            max_draws=self.total_steps,
            num_classes=self._classes,
            num_samples=self._samples,
            sample_flops=self._sample_flops,
            setting="equal-epochs",
            steps_per_epoch=per_epoch,
            total_steps=self.total_steps,
        )
        self.policy.reset(policy_seed(self._seed), self._context)
        self._begun = True

    # ------------------------------------------------------------------ what the policy sees

    def _look(self, batch: Indices, views: dict[str, Any]) -> _Shown:
        raw, flops = self._reference.view(batch)
        self._spent += 0.0 if self._free_solves else flops
        self._spent += len(batch) * self._forward_flops if views else 0.0
        progress = min(1.0, self.step / self.total_steps)
        loss, accuracy = self._validation or (0.0, 0.0)
        raw |= views | self._memory.view(batch, progress)
        raw |= {
            "valid": np.ones(len(batch), dtype=np.float32),
            "noise": step_noise(self._selection_seed, self.step, batch),
            "labels": np.zeros(len(batch)) if self._labels is None else self._labels[batch],
            "progress": progress,
            "budget_left": 1.0 - self._spent / self._full_flops,
            "keep_ratio": self._keep_ratio,
            "train_loss": self._memory.train_loss,
            "mean_last_loss": self._memory.mean_last_loss,
            "validation_loss": loss,
            "validation_accuracy": accuracy,
            "gradient_noise": self._gradient_noise or 0.0,
        }
        return self._shown(raw, max(len(batch), self._batch_size or 0))

    def _shown(self, raw: dict[str, Any], n: int) -> _Shown:
        embeddings = raw.get("learner_embeddings")
        width = None if embeddings is None else np.shape(embeddings)[1]
        dim = self._reference.dim
        bounds = observation_bounds(self._needs, n, self._classes, dim, width)
        shown = _Shown(
            {
                name: fitted(raw[name], low, high, shape[0])
                for name, (low, high, shape) in bounds.items()
            }
        )
        shown.refused = self._refused()
        return shown

    def _refused(self) -> dict[str, str]:
        who = f"policy {self.name!r} reads"
        refused = {}
        if self._labels is None:
            refused["labels"] = f"labels: {who} them; pass labels= to Selector"
        if self._kept and (self.ahead or not self._updates):
            mend = "call selector.observe_losses(indices[kept], losses) after each update"
            if self.ahead:
                mend = "it is not known ahead of training: call selector.select inside the loop"
            refused |= {name: f"{name}: {who} it; {mend}" for name in HISTORY}
        if {"validation_loss", "validation_accuracy"} & set(self._needs) and not self._validation:
            mend = "call selector.observe_validation(loss, accuracy) before select"
            for name in ("validation_loss", "validation_accuracy"):
                refused[name] = f"{name}: {who} it; {mend}"
        if self._gradient_noise is None:
            mend = "call selector.observe_gradient_noise(samples) before select"
            refused["gradient_noise"] = f"gradient_noise: {who} it; {mend}"
        return refused

    def _learner_views(self, n: int, given: dict[str, Any]) -> dict[str, Any]:
        views = {}
        for name in given:
            if name not in LEARNER_VIEWS:
                raise TypeError(f"select has no argument {name!r}; it knows {LEARNER_VIEWS}")
        for name in LEARNER_VIEWS:
            if name not in self._needs:
                continue
            if given.get(name) is None:
                raise ValueError(
                    f"{name}: policy {self.name!r} needs it; call "
                    f"selector.select(indices, {name}=...) with the learner's on this batch"
                )
            views[name] = _numbers(given[name])
            if len(views[name]) != n:
                raise ValueError(f"{name} must have {n} rows, got shape {views[name].shape}")
        return views

    def _checked_indices(self, indices: Any, *, allow_empty: bool = False) -> Indices:
        batch = _numbers(indices)
        if batch.ndim != 1 or (len(batch) == 0 and not allow_empty):
            raise ValueError(f"indices must have shape (n,), n > 0, got {batch.shape}")
        if len(batch) and batch.dtype.kind not in "iu":
            raise TypeError(f"indices must be whole numbers, got {batch.dtype}")
        if len(batch) and (batch.min() < 0 or batch.max() >= self._samples):
            raise ValueError(
                f"indices must lie in [0, {self._samples - 1}], got {batch.min()} to {batch.max()};"
                " the store, the labels or num_samples must cover all training samples"
            )
        return batch.astype(np.int64)

    # ------------------------------------------------------------------ what it answers

    def _remember(self, batch: Indices, shown: _Shown, weights: npt.NDArray[np.float32]) -> None:
        kept = int((weights[: len(batch)] > 0).sum())
        self._spent += kept * self._sample_flops
        if not self._free_solves:
            self._spent += self.policy.step_flops(len(batch), kept, self._context)
        self._keep_ratio = kept / len(batch)
        self._drawn += len(batch)
        self._kept += kept
        self.step += 1
        if self._learns:
            self._last = {
                "observation": dict(shown),
                "weights": weights,
                "indices": batch,
                "losses": np.zeros(len(batch), dtype=np.float32),
                "trained": np.zeros(len(batch), dtype=np.float32),
            }

    def _answer(self, weights: npt.NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        kept = np.flatnonzero(weights > 0)
        own = len(kept) if self.policy.normalizer == "kept" else len(weights)
        # Averaging gradients over processes divides by their count: take that back.
        scale = self._ranks.count / max(1, self._ranks.total(own))
        return (
            torch.as_tensor(kept, dtype=torch.int64, device=self._device),
            torch.as_tensor(weights[kept] * scale, dtype=torch.float32, device=self._device),
        )

    # ------------------------------------------------------------------ what it learns

    def _note_trained(self, batch: Indices, losses: npt.NDArray[np.float32]) -> None:
        if self._last is None:
            return
        place = {int(index): at for at, index in enumerate(self._last["indices"])}
        for index, loss in zip(batch, losses, strict=True):
            if int(index) in place:
                self._last["losses"][place[int(index)]] = loss
                self._last["trained"][place[int(index)]] = 1.0

    def _teach(self, following: _Shown) -> None:
        """Hand the policy the step before, now that what came of it is known."""
        last, self._last = self._last, None
        if self.policy.uses_reward and self._validation is None:
            raise ValueError(
                f"reward: policy {self.name!r} learns from one; call "
                "selector.observe_validation(loss, accuracy) before select, and again at each "
                "evaluation"
            )
        if last is None:
            return
        n = len(last["weights"])
        if self._kept and not self._updates:
            raise ValueError(
                f"losses: policy {self.name!r} learns from them; "
                "call selector.observe_losses(indices[kept], losses) after each update"
            )
        info = {
            "losses": padded(last["losses"], n),
            "trained": padded(last["trained"], n) > 0,
            "indices": last["indices"],
            "drawn": len(last["indices"]),
            "kept": int((last["weights"] > 0).sum()),
            "step": self.step,
            "progress": min(1.0, self.step / self.total_steps),
            "keep_ratio": self._keep_ratio,
            "train_loss": self._memory.train_loss,
            "charged_flops": self._spent,
        }
        reward, self._reward = self._reward, 0.0
        self.policy.learn(Transition(last["observation"], last["weights"], reward, following, info))

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as arrays and JSON-able values."""
        state = {name.strip("_"): getattr(self, name) for name in _STATE}
        return state | {
            "validation": list(self._validation) if self._validation else None,
            "gradient_noise": self._gradient_noise,
            "memory": self._memory.state_dict(),
            "policy": self.policy.state_dict(),
            "last": self._last,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned, in a selector made with the same arguments."""
        self._begun = False
        self._batch_size = state["batch_size"]
        self._width = int(state.get("width", 0))
        if state["begun"]:
            self._begin(int(state["batch_size"]))
        for name in ("spent", "keep_ratio", "spent_at_validation", "reward"):
            setattr(self, f"_{name}", float(state[name]))
        for name in ("drawn", "kept", "updates"):
            setattr(self, f"_{name}", int(state[name]))
        self.step = int(state["step"])
        told = state["validation"]
        self._validation = (float(told[0]), float(told[1])) if told else None
        noise = state.get("gradient_noise")
        self._gradient_noise = None if noise is None else float(noise)
        self._memory.load_state_dict(state["memory"])
        self.policy.load_state_dict(state["policy"])
        self._last = state["last"]


def _numbers(values: Any) -> npt.NDArray[Any]:
    """Return an array of whatever holds numbers, tensors on any device included."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu() if values.is_floating_point() else values.cpu()
    return np.asarray(values)


def _resolve(
    policy: Policy | str, schedule: Schedule | str | None, keep: float | None
) -> tuple[Policy, str]:
    if isinstance(policy, Policy):
        if schedule is not None or keep is not None:
            raise ValueError(
                f"schedule must be None for a policy that is made already, got {schedule!r}, "
                f"keep {keep!r}; give the schedule to {type(policy).__name__}(...)"
            )
        return policy, type(policy).__name__
    if isinstance(schedule, str) or (schedule is None and keep is not None):
        schedule = make_schedule(schedule or "sigmoid", keep=keep)
    return make_policy(policy, schedule=schedule), policy
