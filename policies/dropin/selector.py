"""Selection in a training loop of one's own: three lines, without the environment."""

from __future__ import annotations

import copy
import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from gstds.common import checks
from gstds.common.noise import STREAMS, fan_out, policy_seed
from gstds.common.process_group import Group, ProcessGroup
from gstds.common.state import Stateful, entries, portable, restored
from gstds.observation.batch_view import batch_view, checked_weights, numbers
from gstds.observation.gradient_noise import noise_share
from gstds.observation.memory import SampleMemory
from gstds.observation.shown import Shown
from gstds.observation.spec import observation_bounds
from gstds.policies.base import AnySchedule, Array, Indices, Policy, RunContext, transition_of
from gstds.policies.dropin import observed
from gstds.policies.dropin.arguments import Samples, check_needs, described, resolve_policy
from gstds.store.feature_store import FeatureStore


class Selector(Stateful):
    """Says which samples of each drawn batch to train on, in any training loop.

    The policy sees what it sees in the environment, and its random choices have the same key (seed,
    step, sample): for the same policy, seed and order of samples the same samples are kept.

    Args:
        policy: A policy's name, ``module:Class``, or a policy.
        store: Cached features with reference losses, or their folder; None for a policy that needs
            neither. `gstds.prepare_store` makes one.
        total_steps: Drawn batches of the whole run (of this process): what schedules run on; None
            if nobody knows, then `select` is told the progress.
        seed: The run's seed.
        schedule: Keep-ratio schedule, or its name; for a policy that is named and follows one.
        keep: Wanted mean keep ratio of the schedule named.
        labels: Class (n,) of each training sample, for a policy that reads them: a number or a
            name, or soft labels (n, C), of which the likeliest counts.
        reference_losses: Losses (n,), or their file; None for the store's own.
        rows: Row of the store (n,) for each sample, where it is not the sample's own index.
        num_samples: Number of training samples, where neither store nor labels say it.
        num_classes: Number of classes, where neither store nor labels say it; None for a loss that
            is no classification's.
        ids: What each training sample is called (n,), text for one, where `indices` are no
            positions; it says the number of samples too.
        batch_size: Samples of a drawn batch, what an epoch's steps are counted with; None for the
            first one's. Where batch sizes differ, give their mean.
        sample_flops: Operations of a forward and backward of one sample; None counts three, and
            nothing for spectral solves or the policy's own arithmetic.
        forward_flops: Operations of a forward of one sample; None for a third of the above.
        price: What full training's compute costs, in units of the validation loss, in the reward.
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
        held: The state that is saved in the middle of such an epoch, None outside of one.
        passed: The number and the beginning of the epoch before, where it has a number.
        learns: True if the policy learns from each step.
        kept_elsewhere: Samples of the last batch that other processes kept.
        mean_keep: Samples kept by samples drawn, so far.
        set_aside: How many losses told were not finite.
    """

    state: tuple[str, ...] = ("step", "_batch_size", "_begun", "_told", "_memory")
    state += ("_last", "_drawn", "_kept", "_untold", "_empty", "_width", "_spent")
    state += ("_keep_ratio", "_spent_at_validation", "_reward", "_progress", "set_aside")
    state += ("_indices",)

    def __init__(
        self,
        policy: Policy | str,
        store: FeatureStore | str | Path | None,
        total_steps: int | None,
        *,
        seed: int = 0,
        schedule: AnySchedule = None,
        keep: float | None = None,
        labels: Any = None,
        reference_losses: npt.ArrayLike | str | Path | None = None,
        rows: npt.ArrayLike | None = None,
        num_samples: int | None = None,
        num_classes: int | None = None,
        ids: Any = None,
        batch_size: int | None = None,
        sample_flops: float | None = None,
        forward_flops: float | None = None,
        price: float = 0.1,
        distributed: bool | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.policy, self.name = resolve_policy(policy, schedule, keep)
        self._parameters = described(self.policy)
        self.total_steps = total_steps
        if total_steps is not None:
            self.total_steps = checks.check_integer("total_steps", total_steps, low=1)
        self._seed = checks.check_integer("seed", seed)
        self._selection_seed = fan_out(self._seed, STREAMS)["selection"]
        self._needs = check_needs(self.name, self.policy)
        told = (store, reference_losses, rows, labels, num_samples, num_classes, ids)
        self._samples = Samples(self.name, self._needs, *told)
        self._indices = observed.DrawnIndices(self._samples.count)
        self._memory = SampleMemory(self._samples.count, self._samples.classes)
        if batch_size is not None:
            batch_size = checks.check_integer("batch_size", batch_size, low=1)
        self._batch_size = self._given_size = batch_size
        self._free_solves = sample_flops is None
        sample = 3.0 if sample_flops is None else sample_flops
        self._sample_flops = checks.check_number("sample_flops", sample, low=0, open_low=True)
        forward = self._sample_flops / 3 if forward_flops is None else forward_flops
        self._forward_flops = checks.check_number("forward_flops", forward, low=0)
        self._price = checks.check_number("price", price, low=0)
        self._ranks = Ranks(distributed, device)
        self.learns = type(self.policy).learn is not Policy.learn
        self.ahead = self._begun = self._told_of_undrawn = self._told_of_strange = False
        self.step = self.set_aside = self._drawn = self._kept = self._width = 0
        self._untold = self._empty = self.kept_elsewhere = 0
        self._spent = self._progress = self._spent_at_validation = self._reward = 0.0
        self._keep_ratio, self._begun_with = 1.0, 1
        self._told: dict[str, float] = {}
        self._last: dict[str, Any] | None = None
        self.held: dict[str, Any] | None = None
        self.passed: dict[str, Any] | None = None

    # ------------------------------------------------------------------ what is called

    @observed.eager
    def select(
        self,
        indices: Any,
        learner_losses: Any = None,
        *,
        progress: float | None = None,
        **learner: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Say which samples of a drawn batch to train on.

        Args:
            indices: Index (n,) of each drawn sample among the training samples, or its id.
            learner_losses: The learner's losses (n,) of the batch now, from a forward in
                evaluation mode, for a policy that needs them; what is not finite ranks last.
            progress: Share of the run done, in [0, 1], where ``total_steps`` is None.
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
        batch = self._checked(indices)
        told = {"learner_losses": learner_losses, **learner}
        sizes = {"N": len(batch), "C": self._samples.classes, "H": self._width}
        views = observed.learner_views(self.name, self._needs, told, sizes)
        if "learner_losses" in views:
            views["learner_losses"] = self._finite(batch, views["learner_losses"])
        self._progress = self._progress_told(progress)
        if "learner_embeddings" in views:
            self._width = views["learner_embeddings"].shape[1]
        self._begin(len(batch), self._ranks.settle().size)
        if self.step == self.total_steps:
            text = "batches are drawn, and more follow: schedules stay where they ended; make the "
            text += "Selector with the number of batches of the whole run"
            warnings.warn(f"total_steps={self.total_steps} {text}", stacklevel=2)
        observation = self._look(batch, views)
        self._teach(observation)
        with checks.users_code(self._who):
            answer = self.policy.act(observation)
        n, highest = len(observation["valid"]), self.policy.max_weight
        where = f"(policy {self.name!r}, step {self.step})"
        weights = checked_weights(answer, n, highest, where=where, name="weights")
        return self._answer(batch, observation, weights)

    @observed.eager
    def select_together(
        self, batches: Sequence[Any], **options: Any
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Say which samples to train on of batches whose gradients are added up for one update.

        They are selected from as one drawn batch, and count as one: the weights are divided by what
        is kept of all of them.

        Args:
            batches: Indices (n,) of each.
            **options: As for `select`: a list with what is of each batch, or of all of them, one
                after the other.

        Returns:
            What `select` returns, for each of the batches.

        Raises:
            ValueError: If there is no batch, or as `select`.
        """
        if not len(batches) or np.ndim(batches[0]) == 0:
            raise ValueError(
                f"batches must hold at least one batch of indices, got {batches!r:.80}"
            )
        lengths = [len(batch) for batch in batches]
        parts = {name: told for name, told in options.items() if isinstance(told, list | tuple)}
        for name, told in parts.items():
            if [np.shape(one)[:1] for one in told] == [(length,) for length in lengths]:
                options[name] = [one for part in told for one in part]
        kept, weights = self.select([one for batch in batches for one in batch], **options)
        ends = np.cumsum(lengths)
        cuts = np.searchsorted(kept.cpu().numpy(), ends)
        starts, sizes = (ends - lengths).tolist(), np.diff(cuts, prepend=0)
        pieces = zip(kept.split(sizes.tolist()), weights.split(sizes.tolist()), starts, strict=True)
        return [(positions - start, own) for positions, own, start in pieces]

    def _progress_told(self, progress: float | None) -> float:
        if (progress is None) == (self.total_steps is None):
            raise ValueError(
                f"progress is told where total_steps is None, and nowhere else, got {progress!r} "
                f"beside total_steps={self.total_steps}; where it is None call selector.select("
                "indices, progress=...) with the share of the run done, in [0, 1]"
            )
        if self.total_steps is not None:
            return min(1.0, self.step / self.total_steps)
        return checks.check_fraction("progress", progress)

    def _finite(self, batch: Indices, losses: Array) -> Array:
        """Return losses (n,) of a batch, the least in place of those not finite: they rank last."""
        wrong = ~np.isfinite(losses)
        if wrong.any():
            if not self.set_aside:
                text = f"{int(wrong.sum())} of {len(losses)} losses are not finite: set aside, the "
                text += "samples rank last; later ones are counted in selector.set_aside"
                warnings.warn(f"{text} (step {self.step})", stacklevel=4)
            self.set_aside += int(wrong.sum())
            instead = self._memory.shown(batch) if wrong.all() else losses[~wrong].min()
            return np.where(wrong, instead, losses)
        return losses

    def _checked(self, indices: Any, *, empty: bool = False) -> Indices:
        if not self.ahead or numbers(indices).dtype.kind not in "iu":
            indices = self._samples.positions(indices)  # a sampler draws positions
        mend = "; pass ids= to Selector if that is what the samples are called"
        batch = observed.whole_numbers("indices", indices, mend, kinds="iu", empty=empty)
        last = self._samples.count - 1
        if len(batch) and batch.max() > last:
            raise ValueError(
                f"indices must lie in [0, {last}], got {batch.min()} to {batch.max()};"
                " the store, the labels or num_samples must cover all training samples"
            )
        return batch

    @observed.eager
    def observe_losses(self, indices: Any, losses: Any) -> None:
        """Tell the losses of the samples just trained on: what stale losses are made of.

        Args:
            indices: Index (k,) of each sample, in any order.
            losses: Its loss (k,), as training computed it, not weighted, in any unit and of any
                sign. What is not finite is set aside, counted and warned of once: the sample ranks
                last until a finite loss is told.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the lengths differ or an index lies outside the data.
            RuntimeError: If ``torch.distributed`` was initialized or left since the first batch.
        """
        batch = self._checked(indices, empty=True)
        values = observed.per_sample("losses", losses, len(batch))
        everyones = self._ranks.gather(batch, values)
        strange = ~self._indices.drawn[batch]
        if self.step and strange.any() and not self._told_of_strange:
            self._told_of_strange = True
            text = f"losses are told of samples that were never drawn, {batch[strange][0]} for one"
            warnings.warn(f"{text}; pass indices[kept], not the positions kept", stacklevel=3)
        self._untold = 0
        if len(everyones[0]):
            self._memory.remember(*everyones, self._progress)
        finite = self._finite(batch, values)
        if self._last is not None:
            _note_losses(self._last, batch, finite)

    @observed.eager
    def observe_validation(self, loss: float, accuracy: float = 0.0) -> None:
        """Tell the loss, any finite number, and the accuracy in [0, 1] on validation samples.

        For a policy that needs `validation_loss` or learns from a reward, which is the drop of this
        loss since the call before, minus ``price`` times the share of compute spent meanwhile.
        """
        loss = checks.check_number("loss", loss)
        accuracy = checks.check_number("accuracy", accuracy, low=0, high=1)
        if "validation_loss" in self._told and self._begun:
            spent = self._share(self._spent - self._spent_at_validation)
            self._reward += self._told["validation_loss"] - loss - self._price * spent
        self._told |= {"validation_loss": loss, "validation_accuracy": accuracy}
        self._spent_at_validation = self._spent

    @observed.eager
    def observe_gradient_noise(self, samples: float) -> None:
        """Tell the gradient noise scale in samples, for a policy that needs `gradient_noise`.

        `gstds.observation.gradient_noise.NoiseScale` estimates it from the gradients of a loop of
        one's own.
        """
        if samples != math.inf:
            samples = checks.check_number("samples", samples, low=0)
        self._told["gradient_noise"] = noise_share(samples)

    def _share(self, flops: float) -> float:
        """Return the share of the budget that operations are; of a length unknown, by progress."""
        if self.total_steps is None:
            return self._progress * flops / max(self._spent, 1e-12)
        return flops / self._context.budget_flops

    @property
    def _who(self) -> str:
        return f"policy {self.name!r} (step {self.step})"

    @property
    def mean_keep(self) -> float:
        """Samples kept by samples drawn, so far."""
        return self._kept / max(1, self._drawn)

    # ------------------------------------------------------------------ what a step is made of

    def _begin(self, drawn: int, ranks: int) -> None:
        if self._begun and ranks == self._begun_with:
            return
        # A state may be taken up before the process group is made: then it outlives this.
        learned = self.policy.state_dict() if self._begun else None
        n = self._batch_size = self._batch_size or drawn
        known = self._samples
        per_epoch = max(1, math.ceil(known.count / (n * ranks)))
        steps = self.total_steps or 0  # 0 where nobody knows: the context then says so
        epochs = max(1, round(steps / per_epoch)) if steps else 0
        self._context = RunContext(
            batch_size=n,
            budget_flops=epochs * known.count * self._sample_flops / ranks,
            embedding_dim=self._width,
            epochs=epochs,
            feature_dim=known.dim,
            forward_flops=self._forward_flops,
            max_draws=steps,
            num_classes=known.classes,
            num_samples=known.count,
            sample_flops=self._sample_flops,
            setting="equal-epochs",
            steps_per_epoch=per_epoch,
            total_steps=steps,
        )
        with checks.users_code(self._who):
            self.policy.reset(policy_seed(self._seed), self._context)
            if learned is not None:
                self.policy.load_state_dict(learned)
        self._begun, self._begun_with = True, ranks

    def _look(self, batch: Indices, views: dict[str, Any]) -> Shown:
        known = self._samples
        raw, flops = known.view(batch)
        self._spent += 0.0 if self._free_solves else flops
        self._spent += len(batch) * self._forward_flops if views else 0.0
        n = max(len(batch), self._batch_size or 0)
        view = batch_view(
            observation_bounds(self._needs, n, known.classes, known.dim, self._width),
            batch,
            self._memory,
            seed=self._selection_seed,
            step=self.step,
            progress=self._progress,
            budget_left=1.0 - self._share(self._spent),
            keep_ratio=self._keep_ratio,
            **self._told,
            **raw,
            **views,
        )
        lacking = {
            "data": known.labels is None,
            "memory": bool(self._untold or (self.ahead and self._kept)),
            "evaluation": "validation_loss" not in self._told,
            "gradients": "gradient_noise" not in self._told,
        }
        refused = observed.refusals(view, self.name, lacking, ahead=self.ahead)
        return Shown(view, self.name, refused)

    def _teach(self, following: Shown) -> None:
        """Hand the policy the step before, now that what came of it is known."""
        last = self._last
        if self.policy.uses_reward and "validation_loss" not in self._told:
            raise ValueError(
                f"reward: policy {self.name!r} learns from one; call "
                "selector.observe_validation(loss, accuracy) before select, and again at each "
                "evaluation"
            )
        if last is None:
            return
        if self._untold:
            raise ValueError(f"losses: policy {self.name!r} learns from them; {observed.TELL}")
        self._last = None
        info = last | {
            "step": self.step,
            "progress": self._progress,
            "keep_ratio": self._keep_ratio,
            "train_loss": self._memory.train_loss,
            "charged_flops": self._spent,
        }
        seen, weights = info.pop("observation"), info.pop("weights")
        reward, self._reward = self._reward, 0.0
        with checks.users_code(self._who):
            self.policy.learn(transition_of(self.policy, seen, weights, reward, following, info))

    def _answer(
        self, batch: Indices, shown: Shown, weights: Array
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Count what was answered, remember it, and return it as the loop needs it."""
        n, kept = len(batch), np.flatnonzero(weights[: len(batch)] > 0)
        self._spent += len(kept) * self._sample_flops
        if not self._free_solves:
            with checks.users_code(self._who):
                self._spent += self.policy.step_flops(n, len(kept), self._context)
        self._keep_ratio = len(kept) / n
        self._drawn += n
        self._kept += len(kept)
        self._note_drawn(batch)
        self._untold += len(kept) > 0
        self.step += 1
        if self.learns:
            none = {"losses": np.zeros_like(weights), "trained": np.zeros(len(weights), bool)}
            self._last = {"observation": dict(shown), "weights": weights, "indices": batch}
            self._last |= {"drawn": n, "kept": len(kept), **none}
        own = len(kept) if self.policy.normalizer == "kept" else n
        divisor, together = self._ranks.totals(own, len(kept))
        self.kept_elsewhere = together - len(kept)
        self._empty = 0 if together else self._empty + 1
        steps = self._context.steps_per_epoch
        if self._empty >= steps:  # skipping is legal, this is a mistake
            raise ValueError(
                f"the policy kept nothing for a whole epoch, {steps} batches; its weights must not "
                f"all be zero (policy {self.name!r}, step {self.step - 1})"
            )
        # Averaging gradients over processes divides by their count: take that back.
        scaled = weights[kept] * np.float32(self._begun_with / max(1, divisor))
        device = self._ranks.device
        return torch.as_tensor(kept, device=device), torch.as_tensor(scaled, device=device)

    def _note_drawn(self, batch: Indices) -> None:
        self._indices.take(batch)
        named = hasattr(self.policy, "keep") or hasattr(self.policy, "keep_ratio")
        if named and self.step + 1 == self._drawn == self._kept == 10:
            text = "of each batch at least one sample is kept, which for batches of one is all"
            warnings.warn(f"{text}: call selector.select_together([...])", stacklevel=5)
        at_end = (self.step + 1) % self._context.steps_per_epoch == 0
        if self._begun_with > 1 or not at_end or self._told_of_undrawn:
            return
        if never := self._indices.never():
            self._told_of_undrawn = True
            text = f"{never} of {self._samples.count} samples are never drawn, by all appearance: "
            text += "epochs are counted, and the samples known, by num_samples (or labels, rows, "
            text += "store); give those of the samples that you draw from, or their ids="
            warnings.warn(f"{text}, unless the others come later", stacklevel=5)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot of everything: tensors and JSON-able values, for any checkpoint.

        While a `SelectionSampler` goes through an epoch it is of the epoch's beginning.

        Raises:
            TypeError: If the policy's own state holds something else.
        """
        if self.held is not None:
            return copy.deepcopy(self.held)
        with checks.users_code(self._who):
            learned = self.policy.state_dict()
        learned = portable(learned, f"state of policy {self.name!r}")
        own = {**self._made_with(), **portable(super().state_dict()), "policy": learned}
        own["parameters"] = dict(self._parameters)
        return own if self.passed is None else {**own, "passed": copy.deepcopy(self.passed)}

    def _made_with(self) -> dict[str, Any]:
        return {
            "policy_class": type(self.policy).__qualname__,
            "num_samples": self._samples.count,
            "num_classes": self._samples.classes,
            "ids": self._samples.ids_digest(self._samples.count),
            "seed": self._seed,
            "total_steps": self.total_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned, in a selector made with the same arguments.

        There may be more samples now, behind those that there were, more steps, another batch size
        and other parameters of the policy: that is told in a warning, and schedules go on at the
        share of the new length that is done. Arrays may stand for tensors. What is refused changes
        nothing.

        Raises:
            TypeError: If it is no such state.
            ValueError: If an entry is missing, or is of another run; the message names it.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be what state_dict returned, got {type(state).__name__}")
        own = self._made_with()
        checks.require_entries(state, (*own, *entries(self), "policy"))
        saved, size = state.get("parameters", {}), state["batch_size"]
        told = [(name, saved.get(name, text), text) for name, text in self._parameters.items()]
        told += [("batch_size", size, str(self._given_size or size))]
        others = [
            f"{name} {was!s:.60} -> {now!s:.60}" for name, was, now in told if str(was) != now
        ]
        for name in ("num_samples", "total_steps"):
            if (own[name] or 0) > (state[name] or math.inf):
                others.append(f"{name} {state[name]} -> {own[name]}")
                own[name] = state[name]
        own["ids"] = self._samples.ids_digest(own["num_samples"])
        for name, value in own.items():
            if state[name] != value:
                text = f"the state is of {name} {state[name]!r}, this selector of {value!r}"
                raise ValueError(f"{text}; make it with the same arguments")
        wanted = (own["num_samples"],)
        for name in ("last_losses", "last_trained", "visits", "known"):
            shape = tuple(np.shape(state["memory"].get(name)))
            if shape != wanted:
                raise ValueError(f"the state's {name} must have shape {wanted}, got {shape}")
        before, taken = dict(vars(self)), restored(state)
        learned = portable(self.policy.state_dict()) if self._begun else None
        try:
            self.held, self.passed = None, taken.get("passed")
            self._memory = SampleMemory(self._samples.count, self._samples.classes)
            self._indices = observed.DrawnIndices(self._samples.count)
            super().load_state_dict(taken)
            self._batch_size = self._given_size or self._batch_size
            self._memory.grow(self._samples.count)
            self._indices.grow(self._samples.count)
            begun, self._begun = self._begun, False
            if begun:
                self._begin(int(self._batch_size or 1), self._ranks.now().size)
            self.policy.load_state_dict(taken["policy"])
        except Exception as error:
            vars(self).update(before)
            if learned is not None:
                self.policy.load_state_dict(restored(learned))
            text = f"the state cannot be taken up by policy {self.name!r}"
            raise ValueError(f"{text}: {type(error).__name__}: {error}") from error
        if others:
            text = f"the state is of a selector that was made otherwise: {', '.join(others)}"
            text += "; what is new counts as not seen yet"
            warnings.warn(f"{text}, and what this one was made with holds", stacklevel=2)


def _note_losses(last: Mapping[str, Any], indices: Indices, losses: Array) -> None:
    """Write down the losses (k,) of a step's samples (k,) in the step's record."""
    # An index may be drawn twice: of its places the kept ones are told first, each once.
    places = defaultdict(list)
    drawn = last["indices"]
    for at in np.argsort(last["weights"][: len(drawn)] <= 0, kind="stable"):
        places[int(drawn[at])].append(at)
    for index, loss in zip(indices.tolist(), losses, strict=True):
        if spots := places.get(index):
            at = spots.pop(0) if len(spots) > 1 else spots[0]
            last["losses"][at], last["trained"][at] = loss, True


class Ranks:
    """The processes that train one network together; one of them where nothing is distributed.

    They are counted when the first batch is selected: a process group may be made after the
    selector, as Lightning does.

    Args:
        distributed: False to look at this process alone; None to look whether
            ``torch.distributed`` is initialized; True to insist on it.
        device: Where tensors must be to be exchanged.

    Raises:
        TypeError: If ``distributed`` is no bool.
        ValueError: If there is no device of that name.
    """

    def __init__(self, distributed: bool | None, device: torch.device | str) -> None:
        if distributed is not None and not isinstance(distributed, bool):
            raise TypeError(f"distributed must be True, False or None, got {distributed!r}")
        self._wanted, self.device = distributed, device
        self._settled: Group | None = None
        try:
            torch.device(device)
        except (RuntimeError, TypeError) as error:
            text = f"device must be a torch device, such as 'cpu' or 'cuda:0', got {device!r}"
            raise ValueError(text + ": " + str(error).partition("\n")[0]) from error

    def now(self) -> Group:
        """Return the processes that there are at this moment."""
        ready = dist.is_available() and dist.is_initialized()
        if self._wanted and not ready:
            text = "call torch.distributed.init_process_group first, or leave distributed out"
            raise ValueError(f"distributed must not be True without a process group; {text}")
        alone = self._wanted is False or not ready
        return Group() if alone else ProcessGroup(torch.device(self.device))

    def settle(self) -> Group:
        """Return the processes that there are, from now on for good.

        Raises:
            ValueError: If ``distributed`` is True and no process group was initialized.
            RuntimeError: If there were others at the call before.
        """
        now = self.now()
        self._settled = self._settled or now
        if now.size != self._settled.size:
            raise RuntimeError(
                f"torch.distributed has {now.size} processes, and had {self._settled.size} when "
                "the selector was first used; make the process group before the first batch and "
                "keep it, or pass distributed=False"
            )
        return self._settled

    def totals(self, *values: int) -> tuple[int, ...]:
        """Return the sum of each number over all processes."""
        return tuple(self.settle().join(np.array(values, dtype=np.int64)).tolist())

    def gather(self, indices: Indices, losses: Array) -> tuple[Indices, Array]:
        """Return the samples and losses of all processes, in the order of their ranks."""
        group = self.settle()
        lengths = np.zeros(group.size, dtype=np.int64)
        lengths[group.rank] = len(indices)
        ends = group.join(lengths).cumsum()
        # float64 holds indices up to 2^53 and every float32 loss exactly: one exchange for both.
        both = np.zeros((2, ends[-1]), dtype=np.float64)
        both[:, ends[group.rank] - len(indices) : ends[group.rank]] = indices, losses
        joined = group.join(both)
        return joined[0].astype(np.int64), joined[1].astype(np.float32)
