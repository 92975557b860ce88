"""Selection in a training loop of one's own: three lines, without the environment."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_integer, check_number
from gstds.common.noise import STREAMS, fan_out, policy_seed
from gstds.common.state import Stateful, entries
from gstds.observation.batch_view import batch_view, checked_weights, padded
from gstds.observation.gradient_noise import noise_share
from gstds.observation.memory import SampleMemory
from gstds.observation.spec import observation_bounds
from gstds.policies.base import Policy, RunContext, Transition
from gstds.policies.dropin.arguments import (
    check_device,
    check_needs,
    checked_labels,
    policy_code,
    resolve_policy,
)
from gstds.policies.dropin.observed import (
    TELL,
    Shown,
    checked_indices,
    floats,
    learner_views,
    refusals,
)
from gstds.policies.dropin.processes import Ranks
from gstds.policies.dropin.reference_signals import ReferenceView
from gstds.policies.dropin.state import check_same_run, note_losses, portable, restored
from gstds.selection.schedules import Schedule
from gstds.store.feature_store import FeatureStore

if TYPE_CHECKING:
    import torch

__all__ = ["Selector"]

Indices = npt.NDArray[np.int64]


class Selector(Stateful):
    """Says which samples of each drawn batch to train on, in any training loop.

    The policy sees what it sees in the environment, and its random choices have the same key (seed,
    step, sample): for the same policy, seed and order of samples the same samples are kept.

    Args:
        policy: A policy's name, ``module:Class``, or a policy.
        store: Cached features with reference losses, or their folder; None for a policy that needs
            neither. `gstds.prepare_store` makes one.
        total_steps: Drawn batches of the whole run (of this process): what schedules run on.
        seed: The run's seed.
        schedule: Keep-ratio schedule, or its name; for a policy that is named and follows one.
        keep: Wanted mean keep ratio of the schedule named.
        labels: Class (n,) of each training sample, for a policy that reads them.
        reference_losses: Losses (n,) in nats, or their file; None for the store's own.
        rows: Row of the store (n,) for each sample, where it is not the sample's own index.
        num_samples: Number of training samples, where neither store nor labels say it.
        num_classes: Number of classes, where neither store nor labels say it.
        batch_size: Samples of a drawn batch, what an epoch's steps are counted with; None for the
            first one's. Where batch sizes differ, give their mean.
        sample_flops: Operations of a forward and backward of one sample; None counts a forward as
            one, a forward and backward as three, and nothing for spectral solves or the policy's
            own arithmetic.
        forward_flops: Operations of a forward of one sample; None for a third of the above.
        price: What full training's compute costs, in nats of validation loss, in the reward.
        distributed: Whether to agree with the other processes on what the loss is divided by; None
            if ``torch.distributed`` is initialized when the first batch is selected.
        device: Where the tensors returned are; also where processes exchange counts.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the policy is unknown, or needs what is not given; the message says what.
        StoreError: If the store is missing or damaged.

    Attributes:
        policy: The policy.
        step: Batches drawn so far.
        ahead: True if batches are selected before the ones drawn earlier were trained on.
        learns: True if the policy learns from each step.
        kept_elsewhere: Samples of the last batch that other processes kept.
        mean_keep: Samples kept by samples drawn, so far.
    """

    state: tuple[str, ...] = ("step", "_batch_size", "_begun", "_validation", "_gradient_noise")
    state += ("_memory", "_last", "_drawn", "_kept", "_untold", "_empty", "_width", "_spent")
    state += ("_keep_ratio", "_spent_at_validation", "_reward")

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
        self.policy, self.name = resolve_policy(policy, schedule, keep)
        self.total_steps = check_integer("total_steps", total_steps, low=1)
        self._seed = check_integer("seed", seed)
        self._selection_seed = fan_out(self._seed, STREAMS)["selection"]
        self._needs = check_needs(self.name, self.policy)
        self._reference = ReferenceView(self._needs, store, reference_losses, rows, self.name)
        self._labels = checked_labels(labels)
        sizes = self._reference.sizes(num_samples, num_classes, self._labels)
        self._samples, self._classes = sizes
        self._memory = SampleMemory(self._samples, self._classes)
        self._batch_size = batch_size
        if batch_size is not None:
            self._batch_size = check_integer("batch_size", batch_size, low=1)
        self._take_costs(sample_flops, forward_flops)
        self._price = check_number("price", price, low=0)
        self._device = check_device(device)
        self._ranks = Ranks(distributed, device)
        self.learns = type(self.policy).learn is not Policy.learn
        self._begun, self.ahead, self._warned = False, False, False
        self._begun_with = 1
        self.step, self._spent, self._keep_ratio = 0, 0.0, 1.0
        self._drawn = self._kept = self._width = 0
        self._untold = self._empty = self.kept_elsewhere = 0
        self._validation: tuple[float, float] | None = None
        self._gradient_noise: float | None = None
        self._spent_at_validation, self._reward = 0.0, 0.0
        self._last: dict[str, Any] | None = None

    def _take_costs(self, sample: float | None, forward: float | None) -> None:
        self._free_solves = sample is None
        sample = 3.0 if sample is None else sample
        self._sample_flops = check_number("sample_flops", sample, low=0, open_low=True)
        forward = self._sample_flops / 3 if forward is None else forward
        self._forward_flops = check_number("forward_flops", forward, low=0)

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
            TypeError: If an argument has the wrong type.
            ValueError: If an index lies outside the data, if losses that the policy needs are
                missing or no losses, if the policy raises or returns something that are no weights,
                or if it kept nothing for a whole epoch.
            RuntimeError: If ``torch.distributed`` was initialized or left since the first batch.
        """
        batch = checked_indices(indices, self._samples)
        told = {"learner_losses": learner_losses, **learner}
        n, width = len(batch), self._width
        views = learner_views(self.name, self._needs, told, n, self._classes, width)
        if "learner_embeddings" in views:
            self._width = views["learner_embeddings"].shape[1]
        self._begin(n, self._ranks.settle())
        self._warn_of_the_end()
        observation = self._look(batch, views)
        self._teach(observation)
        with policy_code(self.name, self.step):
            answer = self.policy.act(observation)
        weights = checked_weights(
            answer,
            len(observation["valid"]),
            self.policy.max_weight,
            where=f"(policy {self.name!r}, step {self.step})",
            name="weights",
        )
        self._remember(batch, observation, weights)
        return self._answer(weights[:n])

    def observe_losses(self, indices: Any, losses: Any) -> None:
        """Tell the losses of the samples just trained on: what stale losses are made of.

        Args:
            indices: Index (k,) of each sample, in any order.
            losses: Its loss (k,), as training computed it, not weighted.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the lengths differ or an index lies outside the data.
            RuntimeError: If ``torch.distributed`` was initialized or left since the first batch.
        """
        batch = checked_indices(indices, self._samples, allow_empty=True)
        values = np.atleast_1d(floats("losses", losses))
        if values.shape != batch.shape:
            raise ValueError(
                f"losses must have one number for each of the {len(batch)} indices, got shape "
                f"{values.shape}; use reduction='none'"
            )
        self._ranks.settle()
        if self._last is not None:
            note_losses(self._last, batch, values)
        self._untold = 0
        batch, values = self._ranks.gather(batch, values)
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

        `gstds.observation.gradient_noise.NoiseScale` estimates it from the gradients of a loop of
        one's own.
        """
        if samples != math.inf:
            samples = check_number("samples", samples, low=0)
        self._gradient_noise = noise_share(samples)

    @property
    def mean_keep(self) -> float:
        """Samples kept by samples drawn, so far."""
        return self._kept / max(1, self._drawn)

    # ------------------------------------------------------------------ begin

    def _begin(self, drawn: int, ranks: int) -> None:
        if self._begun and ranks == self._begun_with:
            return
        # A state may be taken up before the process group is made: then it outlives this.
        learned = self.policy.state_dict() if self._begun else None
        n = self._batch_size = self._batch_size or drawn
        per_epoch = max(1, math.ceil(self._samples / (n * ranks)))
        epochs = max(1, round(self.total_steps / per_epoch))
        self._full_flops = epochs * self._samples * self._sample_flops / ranks
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
        with policy_code(self.name, self.step):
            self.policy.reset(policy_seed(self._seed), self._context)
            if learned is not None:
                self.policy.load_state_dict(learned)
        self._begun, self._begun_with = True, ranks

    def _warn_of_the_end(self) -> None:
        if self.step < self.total_steps or self._warned:
            return
        self._warned = True
        warnings.warn(
            f"total_steps={self.total_steps} batches are drawn, and more follow: schedules stay "
            "where they ended; make the Selector with the number of batches of the whole run",
            stacklevel=3,
        )

    # ------------------------------------------------------------------ what the policy sees

    def _look(self, batch: Indices, views: dict[str, Any]) -> Shown:
        raw, flops = self._reference.view(batch)
        self._spent += 0.0 if self._free_solves else flops
        self._spent += len(batch) * self._forward_flops if views else 0.0
        loss, accuracy = self._validation or (0.0, 0.0)
        n = max(len(batch), self._batch_size or 0)
        sizes = (n, self._classes, self._reference.dim, self._width)
        if self._labels is not None:
            raw = raw | {"labels": self._labels[batch]}
        view = batch_view(
            observation_bounds(self._needs, *sizes),
            batch,
            self._memory,
            seed=self._selection_seed,
            step=self.step,
            progress=min(1.0, self.step / self.total_steps),
            budget_left=1.0 - self._spent / self._full_flops,
            keep_ratio=self._keep_ratio,
            gradient_noise=self._gradient_noise or 0.0,
            validation_loss=loss,
            validation_accuracy=accuracy,
            **raw,
            **views,
        )
        lacking = {
            "data": self._labels is None,
            "memory": bool(self._untold or (self.ahead and self._kept)),
            "evaluation": self._validation is None,
            "gradients": self._gradient_noise is None,
        }
        shown = Shown(view)
        shown.refused = refusals(self.name, view, lacking, ahead=self.ahead)
        return shown

    # ------------------------------------------------------------------ what it answers

    def _remember(self, batch: Indices, shown: Shown, weights: npt.NDArray[np.float32]) -> None:
        kept = int((weights[: len(batch)] > 0).sum())
        self._spent += kept * self._sample_flops
        if not self._free_solves:
            with policy_code(self.name, self.step):
                self._spent += self.policy.step_flops(len(batch), kept, self._context)
        self._keep_ratio = kept / len(batch)
        self._drawn += len(batch)
        self._kept += kept
        self._untold += kept > 0
        self.step += 1
        if self.learns:
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
        divisor, together = self._ranks.totals(own, len(kept))
        self.kept_elsewhere = together - len(kept)
        self._empty = 0 if together else self._empty + 1
        self._refuse_an_empty_epoch()
        # Averaging gradients over processes divides by their count: take that back.
        scale = self._ranks.count / max(1, divisor)
        return (
            torch.as_tensor(kept, dtype=torch.int64, device=self._device),
            torch.as_tensor(weights[kept] * scale, dtype=torch.float32, device=self._device),
        )

    def _refuse_an_empty_epoch(self) -> None:
        """Raise if nothing was kept for a whole epoch: skipping is legal, this is a mistake."""
        steps = self._context.steps_per_epoch
        if self._empty >= steps:
            raise ValueError(
                f"the policy kept nothing for a whole epoch, {steps} batches; its weights must not "
                f"all be zero (policy {self.name!r}, step {self.step - 1})"
            )

    # ------------------------------------------------------------------ what it learns

    def _teach(self, following: Shown) -> None:
        """Hand the policy the step before, now that what came of it is known."""
        last = self._last
        if self.policy.uses_reward and self._validation is None:
            raise ValueError(
                f"reward: policy {self.name!r} learns from one; call "
                "selector.observe_validation(loss, accuracy) before select, and again at each "
                "evaluation"
            )
        if last is None:
            return
        if self._untold:
            raise ValueError(f"losses: policy {self.name!r} learns from them; {TELL}")
        self._last = None
        n = len(last["weights"])
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
        step = Transition(last["observation"], last["weights"], reward, following, info)
        with policy_code(self.name, self.step):
            self.policy.learn(step)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot of everything: tensors and JSON-able values, for any checkpoint.

        Raises:
            TypeError: If the policy's own state holds something else.
        """
        with policy_code(self.name, self.step):
            learned = self.policy.state_dict()
        learned = portable(learned, f"state of policy {self.name!r}")
        return {**self._made_with(), **portable(super().state_dict()), "policy": learned}

    def _made_with(self) -> dict[str, Any]:
        return {
            "policy_class": type(self.policy).__qualname__,
            "num_samples": self._samples,
            "num_classes": self._classes,
            "seed": self._seed,
            "total_steps": self.total_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned, in a selector made with the same arguments.

        Arrays may stand for tensors. What is refused changes nothing.

        Raises:
            TypeError: If it is no such state.
            ValueError: If an entry is missing, or is of another run; the message names it.
        """
        check_same_run(state, (*entries(self), "policy"), self._made_with())
        before = dict(vars(self))
        learned = restored(self.state_dict()["policy"]) if self._begun else None
        try:
            self._take_up(restored(state))
        except Exception as error:
            vars(self).update(before)
            if learned is not None:
                self.policy.load_state_dict(learned)
            raise ValueError(
                f"the state cannot be taken up by policy {self.name!r}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _take_up(self, state: Mapping[str, Any]) -> None:
        self._memory = SampleMemory(self._samples, self._classes)
        super().load_state_dict(state)
        begun, self._begun = self._begun, False
        if begun:
            self._begin(int(state["batch_size"]), self._ranks.count)
        self.policy.load_state_dict(state["policy"])
