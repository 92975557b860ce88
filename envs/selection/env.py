"""`gstds/DataSelection-v0`: a step is one drawn batch, an action its per-sample loss weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from gstds.common.checks import check_number, require_entries
from gstds.common.noise import STREAMS, fan_out
from gstds.common.process_group import Group
from gstds.common.state import entries
from gstds.envs.batches.loader import Loader
from gstds.envs.batches.order import Draws
from gstds.envs.learner.learner import (
    Evaluation,
    Learner,
    embedding_width,
    resolve_device,
    with_gradients,
)
from gstds.envs.selection.run_parts import Evaluator, RunParts, check_pays_a_batch, make_budget
from gstds.envs.selection.scorer import Scorer
from gstds.envs.selection.standing import NOT_RUNNING, StandingEnv, check_render_mode, picture
from gstds.envs.selection.trainer import Trainer
from gstds.envs.task.options import EnvOptions
from gstds.envs.task.task import Progress, Task, load_dataset, load_task, needs_reference
from gstds.observation.batch_view import batch_view, checked_weights, padded, padded_indices
from gstds.observation.cost import Ledger
from gstds.observation.spec import WHOLE_NUMBERS, asked_of, observation_bounds
from gstds.options.fields import from_keywords
from gstds.reference.networks import check_reference

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
_NO_SAMPLES: Indices = np.empty(0, dtype=np.int64)
PolicyFlops = Callable[[int, int, Mapping[str, Any]], float]


@dataclass(frozen=True)
class RunStatus:
    """How a run stands, beside what the ``info`` of its steps says.

    Attributes:
        running: Whether there are steps to come.
        truncated: Whether it was cut off after ``max_draws``.
        train_loss: Mean loss of the samples last trained on.
        skipped: Updates that were dropped, their loss or gradient not being finite.
        closing: Samples (k,) that the last remainder of an equal budget was spent on.
    """

    running: bool
    truncated: bool
    train_loss: float
    skipped: int
    closing: Indices


class DataSelectionEnv(StandingEnv):
    """Train a network; at each step say which samples of the drawn batch are worth training on.

    ## Action space
    ``Box(0, w_max, (N,), float32)``: the loss weight of each sample of the drawn batch. 0 drops the
    sample before its image is loaded. All zeros skips the batch: no update, and no charge but what
    was already spent on scoring. Weights of padding are ignored. A larger or negative weight, a NaN
    or another shape is a ``ValueError``.

    ## Observation space
    A flat ``Dict`` of float32 boxes, one for each row of `gstds.observation.spec.OBSERVATIONS`
    (docs/observations.md, ``gstds list observations``) that costs nothing, and for those that cost
    something if named in ``observe``: they are computed and charged.

    What the learner says is said in evaluation mode of the augmented view that the kept samples are
    then trained on: one forward of all N, charged once however many of its rows are named.

    ## Rewards
    By name, see `gstds.envs.task.rewards`; by default, at evaluations, the drop of the
    reward-validation loss minus ``price`` times the share of the budget spent meanwhile; 0 in
    between.

    ## Starting state
    A freshly initialized learner. ``reset(seed=)`` fans out into order, augmentation,
    initialization and selection.

    ## Episode end
    Terminated when the epochs are done or the budget is spent; truncated after ``max_draws``.
    Under an equal budget the last remainder, too small to pay for another batch, is spent on a
    uniform subset of the next one, without asking.

    ## Arguments
    See docs/options.md; and ``policy_flops``, which says what a policy's own arithmetic takes:
    samples drawn, samples kept, `context()` -> operations, charged as ``policy``; ``group``: the
    processes that train one learner together; ``ahead=False``, which scores a batch when it is
    asked for, not while the one before is trained on, to the same result; and
    ``before_reference``, called with the environment when data and learner are there, before
    anything that takes long.

    Attributes:
        learner: The network under training.
        trainer: What updates the network: it knows each sample's last loss, and who waits.
        draws: Which samples each step draws, and in which epoch.
        loader: What the network is fed: augmented images and labels of training samples.
        scorer: What computes the optional observations of a drawn batch.
        running: Whether there are steps to come.
        sample_flops: Operations of a forward and backward of one sample.
        full_flops: Operations of full training: every sample in every epoch.
        budget_flops: What the run may spend; under equal epochs, what full training costs.

    ## Version history
    v0: first version.
    """

    state: tuple[str, ...] = ("learner", "ledger", "trainer", "_evaluator", "_closing")
    state += ("_np_random", "run_seed", "step_count", "running", "_truncated", "_keep_ratio")

    @with_gradients
    def __init__(
        self,
        *,
        render_mode: str | None = None,
        progress: Progress | None = None,
        policy_flops: PolicyFlops | None = None,
        group: Group | None = None,
        ahead: bool = True,
        before_reference: Callable[[DataSelectionEnv], None] | None = None,
        **options: Any,
    ) -> None:
        self.render_mode, self.ahead = check_render_mode(render_mode), ahead
        self.options = from_keywords(EnvOptions, options, "DataSelectionEnv.__init__")
        self._group = group or Group()
        self.device = resolve_device(self.options.device)
        # What is cheap to find out comes before the features of all images are computed.
        if needs_reference(self.options):
            check_reference(self.options.reference)
        self.data, n = load_dataset(self.options), self.options.batch_size
        self.ledger = Ledger()
        self.draws = Draws(len(self.data.train), n, 0)
        self.steps_per_epoch = self.draws.steps_per_epoch
        self.total_steps = self.options.epochs * self.steps_per_epoch
        self.max_draws = self.options.draws_allowed(self.total_steps)
        self.learner = self._new_learner(0)
        seen = "learner_embeddings" in self.options.observe
        self._embedding_width = embedding_width(self.learner) if seen else 0
        without = make_budget(self.options, self.learner, Task(self.data, None))
        check_pays_a_batch(without, self.options, self.learner, 0.0)
        if before_reference:
            before_reference(self)
        self.task = load_task(self.options, progress)
        self._budget = make_budget(self.options, self.learner, self.task)
        self.sample_flops = self.learner.train_flops
        self.full_flops, self.budget_flops, self._evaluation_flops = self._budget
        self._make_spaces()
        self._policy_flops = policy_flops
        self._context = self.context()
        choosing = self._choosing_flops(n, n)
        check_pays_a_batch(self._budget, self.options, self.learner, choosing)
        self._shown = _NO_SAMPLES, np.empty(0, dtype=bool)

    def _make_spaces(self) -> None:
        options, reference = self.options, self.task.reference
        n, classes = options.batch_size, self.data.num_classes
        dim = self._feature_dim = reference.store.dim if reference else 0
        self._bounds = observation_bounds(options.observe, n, classes, dim, self._embedding_width)
        boxes: dict[str, spaces.Space[Any]] = {
            name: spaces.Box(low, high, shape, np.int64 if name in WHOLE_NUMBERS else np.float32)
            for name, (low, high, shape) in self._bounds.items()
        }
        self.observation_space = spaces.Dict(boxes)
        self.action_space = spaces.Box(0.0, options.w_max, (n,), np.float32)

    def _new_learner(self, seed: int) -> Learner:
        return Learner(
            self.options,
            shape=self.data.image_shape,
            classes=self.data.num_classes,
            seed=seed,
            device=self.device,
            measure_noise=bool(asked_of(self.options.observe, "gradients")),
            group=self._group,
        )

    def context(self) -> dict[str, Any]:
        """Return the facts of the run that a policy may want at its reset."""
        return {
            "batch_size": self.options.batch_size,
            "budget_flops": self.budget_flops,
            "embedding_dim": self._embedding_width,
            "epochs": self.options.epochs,
            "feature_dim": self._feature_dim,
            "forward_flops": self.learner.forward_flops,
            "max_draws": self.max_draws,
            "num_classes": self.data.num_classes,
            "num_samples": len(self.data.train),
            "sample_flops": self.sample_flops,
            "setting": self.options.setting,
            "steps_per_epoch": self.steps_per_epoch,
            "total_steps": self.total_steps,
        }

    @with_gradients
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start a new run; see the class.

        Args:
            seed: Seed of the run; None takes the environment's, then draws from its generator.
            options: None are known.

        Raises:
            ValueError: If an option is given.
        """
        if options:
            raise ValueError(f"reset takes no options, got {sorted(options)}")
        seed = self.options.seed if seed is None and self._first else seed
        super().reset(seed=seed)
        self._begin(int(self.np_random.integers(2**31)) if seed is None else int(seed))
        self._evaluator.begin()
        observation = self._look()
        return observation, self.info()

    def _begin(self, run_seed: int) -> None:
        self._first, self._shown = False, (_NO_SAMPLES, np.empty(0, dtype=bool))
        self.run_seed, self.step_count, self._keep_ratio = run_seed, 0, 1.0
        self.running, self._truncated, self._closing = True, False, _NO_SAMPLES
        options, data, reference = self.options, self.data, self.task.reference
        seeds = self._seeds = fan_out(run_seed, STREAMS)
        ledger = self.ledger = Ledger()
        if reference:
            ledger.charge("features", reference.features_flops)
            ledger.charge("probe", reference.probe_flops)
        draws = self.draws = Draws(len(data.train), options.batch_size, seeds["order"])
        learner = self.learner = self._new_learner(seeds["initialization"])
        loader = self.loader = Loader(data, self.device, seeds["augmentation"])
        budget, group = self._budget, self._group
        run = RunParts(options, self.task, budget, draws, learner, loader, ledger, group)
        self.scorer = Scorer(run, ahead=self.ahead)
        self._evaluator = Evaluator(run, self.max_draws)
        self.trainer = Trainer(run, lambda: self.progress)
        learner.set_progress(0.0)

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]: drawn batches, or budget spent."""
        if self.options.setting == "equal-epochs":
            return min(1.0, self.step_count / self.total_steps)
        return min(1.0, self.ledger.charged_flops / self.budget_flops)

    @property
    def batch(self) -> Indices:
        """Samples (k,) of the drawn batch that the next action is for; none after the end."""
        return self._batch.copy()

    @property
    def status(self) -> RunStatus:
        """How the run stands."""
        return RunStatus(
            running=self.running,
            truncated=self._truncated,
            train_loss=self.trainer.memory.train_loss,
            skipped=self.trainer.skipped,
            closing=self._closing.copy(),
        )

    @property
    def visits(self) -> Indices:
        """How often each training sample was trained on (n,)."""
        return self.trainer.memory.visits

    @property
    def _left(self) -> float:
        """What can still be spent, with the evaluations to come set aside."""
        return self.budget_flops - self.ledger.charged_flops - self._evaluation_flops

    def _look(self, *, charge: bool = True) -> dict[str, Array]:
        """Draw the next batch, score it, and return the observation; after the end, of no batch."""
        self._batch = self.draws.batch(self.step_count) if self.running else _NO_SAMPLES
        scored = self.scorer.score(self.step_count, charge=charge) if self.running else {}
        self._observation = batch_view(
            self._bounds,
            self._batch,
            self.trainer.memory,
            seed=self._seeds["selection"],
            step=self.step_count,
            progress=self.progress,
            budget_left=1.0 - self.ledger.charged_flops / self.budget_flops,
            keep_ratio=self._keep_ratio,
            labels=self.data.train.labels[self._batch],
            gradient_noise=self.learner.gradient_noise,
            **scored,
            **self._evaluator.view(),
        )
        return self.observation()

    def observation(self) -> dict[str, Array]:
        """Return the current observation, as fresh arrays."""
        return {name: value.copy() for name, value in self._observation.items()}

    @with_gradients
    def step(self, action: Array) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """Train on the drawn batch with the given weights (N,); see the class.

        Raises:
            ValueError: If the action has another shape, a NaN, or a weight outside [0, w_max].
            RuntimeError: If the run has ended or was not begun by `reset`.
        """
        if not self.running:
            raise RuntimeError(NOT_RUNNING)
        batch, options, n = self._batch, self.options, self.options.batch_size
        where, mend = f"(step {self.step_count})", "raise w_max for larger weights"
        weights = checked_weights(action, n, options.w_max, where=where, mend=mend)[: len(batch)]
        weights = np.where(weights < options.drop_below, np.float32(0), weights)
        kept = int((weights > 0).sum())
        self.ledger.charge("policy", self._choosing_flops(len(batch), kept))
        following = self.step_count + 1
        ahead = min(self.trainer.draws_until_update(kept), self.max_draws - following)
        self.scorer.begin(following, ahead)
        losses, trained = self.trainer.train(
            batch, weights, step=self.step_count, images=self.scorer.images
        )
        self._keep_ratio, self._shown = kept / len(batch), (batch, weights > 0)
        self.step_count += 1
        terminated = self._close_or_go_on()
        self._truncated = not terminated and self.step_count >= self.max_draws
        done = terminated or self._truncated
        if done:
            self.trainer.flush(step=self.step_count)
        affordable = options.setting == "equal-epochs" or (
            self._left >= self._evaluation_flops + self._decision_flops()
        )
        evaluate, reward = self._evaluator.if_due(
            done=done, progress=self.progress, step=self.step_count, affordable=affordable
        )
        self.running = not done
        view = self._look()
        info = self.info(evaluate=evaluate) | {
            "indices": padded_indices(batch, n),
            "losses": padded(losses, n),
            "trained": padded(trained, n) > 0,
            "drawn": len(batch),
            "kept": kept,
            "waiting": len(self.trainer.carried),
        }
        return view, reward, terminated, self._truncated, info

    def _close_or_go_on(self) -> bool:
        """Say whether the run is over; under an equal budget, spend a last remainder first."""
        if self.options.setting == "equal-epochs":
            return self.step_count >= self.total_steps
        if self.step_count >= self.max_draws or self._left >= self._decision_flops():
            return False
        self.trainer.flush(step=self.step_count)
        self._closing, self.step_count = self.trainer.spend(
            self._left, step=self.step_count, seed=self._seeds["selection"]
        )
        return True

    def _decision_flops(self) -> float:
        """Return what deciding on the next batch and training on all of it costs, at most."""
        drawn = len(self.draws.batch(self.step_count))
        deciding = self.scorer.flops(self.step_count) + self._choosing_flops(drawn, drawn)
        return (drawn + len(self.trainer.carried)) * self.sample_flops + deciding

    def _choosing_flops(self, drawn: int, kept: int) -> int:
        """Return what the policy's own arithmetic takes, in whole operations: sums stay exact."""
        flops = self._policy_flops(drawn, kept, self._context) if self._policy_flops else 0
        return math.ceil(check_number("step_flops", flops, low=0))

    def render(self) -> Any:
        """Return the batch drawn last as a picture (H, W, 3) in uint8, the kept images framed.

        Before the first step it is the batch that waits, without a frame.
        """
        batch, kept = self._shown if len(self._shown[0]) else (self._batch, np.False_)
        images = self.data.train.gather(batch).numpy()
        return picture(images, np.broadcast_to(kept, len(batch)), self.options.batch_size)

    def _made_with(self) -> dict[str, Any]:
        own = {"policy_flops": self._policy_flops, "group": self._group, "ahead": self.ahead}
        return vars(self.options) | own | {"render_mode": self.render_mode}

    def monitor(self, split: str) -> Evaluation:
        """Evaluate the learner on a split, for the record: counted, not charged.

        Args:
            split: ``selection_validation``, ``reward_validation`` or ``test``.
        """
        return self._evaluator.monitor(split)

    def info(self, *, evaluate: bool = False) -> dict[str, Any]:
        """Return what a tracker logs of the run as it stands: deterministic, no clock in it.

        Args:
            evaluate: Whether an evaluation has just fallen due.
        """
        return {
            "step": self.step_count,
            "epoch": self.draws.epoch(max(0, self.step_count - 1)),
            "progress": self.progress,
            "train_loss": self.trainer.memory.train_loss,
            "keep_ratio": self._keep_ratio,
            "charged_flops": self.ledger.charged_flops,
            "carried": len(self.trainer.carried),
            "skipped": self.trainer.skipped,
            "skipped_in_a_row": self.trainer.skipped_in_a_row,
            "closing": self._closing.copy(),
            "evaluate": evaluate,
            "under_budget": self._truncated,
            "next_indices": padded_indices(self._batch, self.options.batch_size),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a run in progress consists of, as arrays and JSON-able values.

        Raises:
            RuntimeError: If no run was begun.
        """
        if not hasattr(self, "run_seed"):
            raise RuntimeError("there is no run to save: call reset first")
        return super().state_dict()

    @with_gradients
    def load_state_dict(self, state: Mapping[str, Any]) -> dict[str, Array]:
        """Take up a run where `state_dict` left it; return the observation it waits on.

        Raises:
            ValueError: If the state lacks an entry; the run in progress stays.
        """
        require_entries(state, entries(self))
        if self._first:
            super().reset(seed=int(state["run_seed"]))
        self._begin(int(state["run_seed"]))
        super().load_state_dict(state)
        return self._look(charge=False)
