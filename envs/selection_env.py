"""`gstds/DataSelection-v0`: a step is one drawn batch, an action its per-sample loss weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces

from envs.augment import augment, normalize
from envs.datasets import Split
from envs.draws import Draws
from envs.learner import Evaluation, Learner, resolve_device
from envs.observation import LOSS_BOUND, batch_space, fit_to_space
from envs.options import EnvOptions
from envs.rewards import Interval, evaluates, reward_function
from envs.scores import spectral_view
from envs.world import Progress, World, load_world
from gstds.cost import Ledger
from gstds.noise import fan_out, keyed_bits
from gstds.selection import uniform

__all__ = ["DataSelectionEnv"]

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
_STREAMS = ("order", "augmentation", "initialization", "selection")
_EVALUATION_BATCH = 512
_TINY = 1e-9


class DataSelectionEnv(gymnasium.Env[dict[str, Array], Array]):
    """Train a network; at each step say which samples of the drawn batch are worth training on.

    ## Action space
    ``Box(0, w_max, (N,), float32)``: the loss weight of each sample of the drawn batch. 0 drops the
    sample before its image is loaded. All zeros skips the batch: no update, and no charge but what
    was already spent on scoring. Weights of padding are ignored. A larger or negative weight, a NaN
    or another shape is a ``ValueError``.

    ## Observation space
    A flat ``Dict`` of float32 boxes. Always there:

    | name | shape | min | max | meaning |
    |---|---|---|---|---|
    | last_losses | (N,) | 0 | 100 | learner loss in nats when last trained on; log C before |
    | visited | (N,) | 0 | 1 | 1 if the sample was ever trained on |
    | age | (N,) | 0 | 1 | share of the run since it was last trained on; 1 if never |
    | labels | (N,) | 0 | C - 1 | class, as the learner is told |
    | valid | (N,) | 0 | 1 | 0 for the padding of a short last batch |
    | noise | (N,) | 0 | 1 | uniform, a function of (seed, step, sample): for pickers |
    | progress | (1,) | 0 | 1 | share of the run done: draws, or budget spent |
    | budget_left | (1,) | 0 | 1 | share of the budget left; equal epochs: of full training's |
    | keep_ratio | (1,) | 0 | 1 | share kept in the step before; 1 at the start |
    | train_loss | (1,) | 0 | 100 | mean loss of the samples last trained on: biased by selection |
    | mean_last_loss | (1,) | 0 | 100 | mean of the last losses of all training samples |

    If named in ``observe``, computed and charged: ``spectral_scores`` (N,) with ``lambda2``,
    ``eigengap``, ``effective_nodes`` (1,), all relative to their maximum; ``reference_losses``
    (N,); ``learner_losses`` (N,), a forward of all N in evaluation mode on the augmented view;
    ``features`` (N, D), unit rows; ``degrees`` (N,), mean similarity to the batch;
    ``validation_loss`` and ``validation_accuracy`` (1,) of the last reward-validation evaluation.

    ## Rewards
    By name, see `envs.rewards`; by default, at evaluations, the drop of the reward-validation loss
    minus ``price`` times the share of the budget spent meanwhile; 0 in between.

    ## Starting state
    A freshly initialized learner. ``reset(seed=)`` fans out into order, augmentation,
    initialization and selection.

    ## Episode end
    Terminated when the epochs are done or the budget is spent; truncated after ``max_draws``.
    Under an equal budget the last remainder, too small to pay for another batch, is spent on a
    uniform subset of the next one, without asking.

    ## Arguments
    See `envs.options.EnvOptions`.

    ## Version history
    v0: first version.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (gymnasium's own attribute)

    def __init__(
        self,
        *,
        render_mode: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        self.render_mode = render_mode
        self.options = EnvOptions.from_mapping(options)
        self.device = resolve_device(self.options.device)
        self.world: World = load_world(self.options, progress)
        self.data = self.world.data
        self.ledger = Ledger()
        self._draws = Draws(len(self.data.train), self.options.batch_size, 0)
        self.steps_per_epoch = self._draws.steps_per_epoch
        self.total_steps = self.options.epochs * self.steps_per_epoch
        self.max_draws = self.options.draws_allowed(self.total_steps)
        self._reward = reward_function(self.options.reward)
        self._make_spaces()
        self._learner = self._new_learner(0)
        self._set_budget()
        self._first = True
        self._running = False

    # ------------------------------------------------------------------ what never changes

    def _make_spaces(self) -> None:
        options, reference = self.options, self.world.reference
        dim = reference.store.dim if reference else None
        n = options.batch_size
        self._space = batch_space(options.observe, n, self.data.num_classes, dim)
        self.observation_space = self._space  # type: ignore[assignment]  # gymnasium types it so
        self.action_space = spaces.Box(0.0, options.w_max, (n,), np.float32)

    def _new_learner(self, seed: int) -> Learner:
        return Learner(
            self.options.learner_options(),
            shape=self.data.image_shape,
            classes=self.data.num_classes,
            seed=seed,
            device=self.device,
        )

    def _set_budget(self) -> None:
        options, learner = self.options, self._learner
        self.sample_flops = learner.train_flops
        self.full_flops = options.epochs * len(self.data.train) * self.sample_flops
        share = options.budget if options.setting == "equal-budget" else 1.0
        self.budget_flops = share * self.full_flops
        self._consumes_validation = evaluates(options.reward) or bool(
            {"validation_loss", "validation_accuracy"} & set(options.observe)
        )
        size = len(self.data.reward_validation)
        self._evaluation_flops = size * learner.forward_flops if self._consumes_validation else 0.0
        if options.charge_reference:
            self._charge_reference_to_budget()
        if options.setting == "equal-budget":
            self._check_budget_pays_a_batch()

    def _charge_reference_to_budget(self) -> None:
        reference = self.world.reference
        cost = reference.features_flops + reference.probe_flops if reference else 0.0
        if cost >= self.budget_flops:
            raise ValueError(
                f"charge_reference leaves nothing to train with: the reference costs {cost:.3g} "
                f"FLOP, the budget is {self.budget_flops:.3g}; raise --budget or --epochs"
            )
        self.budget_flops -= cost

    def _check_budget_pays_a_batch(self) -> None:
        options = self.options
        needed = options.batch_size * self.sample_flops + 2 * self._evaluation_flops
        if "learner_losses" in options.observe:
            needed += options.batch_size * self._learner.forward_flops
        if self.budget_flops < needed:
            raise ValueError(
                f"budget={options.budget:g} of {options.epochs} epochs is {self.budget_flops:.3g} "
                f"FLOP, less than one batch with its evaluations ({needed:.3g}); "
                "raise --budget or --epochs, or lower --batch-size"
            )

    def context(self) -> dict[str, Any]:
        """Return the facts of the run that a policy may want at its reset."""
        return {
            "batch_size": self.options.batch_size,
            "budget_flops": self.budget_flops,
            "epochs": self.options.epochs,
            "forward_flops": self._learner.forward_flops,
            "max_draws": self.max_draws,
            "num_classes": self.data.num_classes,
            "num_samples": len(self.data.train),
            "sample_flops": self.sample_flops,
            "setting": self.options.setting,
            "steps_per_epoch": self.steps_per_epoch,
            "total_steps": self.total_steps,
        }

    # ------------------------------------------------------------------ reset

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
        if seed is None and self._first:
            seed = self.options.seed
        super().reset(seed=seed)
        run_seed = int(self.np_random.integers(2**31)) if seed is None else int(seed)
        self._first = False
        self._begin(run_seed)
        observation = self._look()
        return observation, self._info()

    def _begin(self, run_seed: int) -> None:
        n, classes = len(self.data.train), self.data.num_classes
        self.run_seed = run_seed
        self._seeds = fan_out(run_seed, _STREAMS)
        self._draws = Draws(n, self.options.batch_size, self._seeds["order"])
        self._learner = self._new_learner(self._seeds["initialization"])
        self._learner.set_progress(0.0)
        self.ledger = Ledger()
        self._charge_reference()
        self.step_count = 0
        self._solved: tuple[int, dict[str, Any], float] | None = None
        self._running, self._truncated = True, False
        self._last_losses = np.full(n, math.log(classes), dtype=np.float32)
        self._last_trained = np.full(n, -1.0, dtype=np.float64)
        self.visits = np.zeros(n, dtype=np.int64)
        self._carried: list[tuple[int, int, float]] = []
        self._train_loss, self._keep_ratio = math.log(classes), 1.0
        self._evaluations_done, self._draws_at_evaluation = 0, 0
        self._spent_at_evaluation = 0.0
        self._validation = self._evaluate_for_reward()
        self._closing: Indices = np.empty(0, dtype=np.int64)

    def _charge_reference(self) -> None:
        reference = self.world.reference
        if reference:
            self.ledger.charge("features", reference.features_flops)
            self.ledger.charge("probe", reference.probe_flops)

    # ------------------------------------------------------------------ progress and budget

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]: drawn batches, or budget spent."""
        if self.options.setting == "equal-epochs":
            return min(1.0, self.step_count / self.total_steps)
        return min(1.0, self.ledger.charged_flops / self.budget_flops)

    @property
    def learner(self) -> Learner:
        """The network under training."""
        return self._learner

    @property
    def _left(self) -> float:
        """What can still be spent, with the evaluations to come set aside."""
        return self.budget_flops - self.ledger.charged_flops - self._evaluation_flops

    # ------------------------------------------------------------------ observation

    def _look(self, *, charge: bool = True) -> dict[str, Array]:
        """Draw the next batch, score it, and return the observation."""
        self._batch = self._draws.batch(self.step_count)
        self._images: torch.Tensor | None = None
        raw = self._score_batch(charge)
        raw |= self._batch_state() | self._run_state()
        self._observation = fit_to_space(raw, self._space)
        return self.observation()

    def observation(self) -> dict[str, Array]:
        """Return the current observation, as fresh arrays."""
        return {name: value.copy() for name, value in self._observation.items()}

    def _score_batch(self, charge: bool) -> dict[str, Any]:
        """Return the optional observations; what they cost is charged unless it was before."""
        observe, reference, batch = self.options.observe, self.world.reference, self._batch
        raw: dict[str, Any] = {}
        if reference:
            view, flops = self._spectral(self.step_count)
            raw |= view
            if charge:
                self.ledger.charge("spectral", flops)
            raw["reference_losses"] = reference.losses[batch]
        if "learner_losses" in observe:
            with self.ledger.timed("score"):
                self._images = self._load(batch, self._draws.epoch(self.step_count))
                raw["learner_losses"] = self._learner.losses(self._images, self._labels(batch))
            if charge:
                self.ledger.charge("score", len(batch) * self._learner.forward_flops)
        return raw

    def _spectral(self, step: int) -> tuple[dict[str, Any], float]:
        """Return what the cached features say of a step's batch, and its cost; solved once."""
        reference = self.world.reference
        if reference is None:
            return {}, 0.0
        if self._solved is None or self._solved[0] != step:
            with self.ledger.timed("spectral"):
                features = reference.features(self._draws.batch(step))
                self._solved = (step, *spectral_view(features, self.options.observe))
        return self._solved[1], self._solved[2]

    def _decision_flops(self, step: int) -> float:
        """Return what scoring a step's batch and training on all of it costs, at most."""
        size = len(self._draws.batch(step))
        flops = (size + len(self._carried)) * self.sample_flops + self._spectral(step)[1]
        if "learner_losses" in self.options.observe:
            flops += size * self._learner.forward_flops
        return flops

    def _batch_state(self) -> dict[str, Any]:
        batch = self._batch
        trained = self._last_trained[batch]
        return {
            "last_losses": self._last_losses[batch],
            "visited": self.visits[batch] > 0,
            "age": np.where(trained < 0, 1.0, self.progress - trained),
            "labels": self.data.train.labels[batch],
            "valid": np.ones(len(batch), dtype=np.float32),
            "noise": self._noise(self.step_count, batch),
        }

    def _run_state(self) -> dict[str, Any]:
        validation = self._validation
        return {
            "progress": self.progress,
            "budget_left": 1.0 - self.ledger.charged_flops / self.budget_flops,
            "keep_ratio": self._keep_ratio,
            "train_loss": self._train_loss,
            "mean_last_loss": float(np.mean(self._last_losses, dtype=np.float64)),
            "validation_loss": validation.loss if validation else 0.0,
            "validation_accuracy": validation.accuracy if validation else 0.0,
        }

    def _noise(self, step: int, batch: Indices) -> npt.NDArray[np.float64]:
        bits = keyed_bits(self._seeds["selection"], step, indices=batch) >> np.uint64(40)
        return bits.astype(np.float64) * 2.0**-24

    def _end_of_run_view(self) -> dict[str, Array]:
        """Return the observation after the last step: no batch, all padding."""
        self._batch = np.empty(0, dtype=np.int64)
        empty = np.zeros(0, dtype=np.float32)
        raw: dict[str, Any] = dict.fromkeys(self._space.spaces, empty)
        raw |= self._run_state()
        for name in ("lambda2", "eigengap", "effective_nodes"):
            raw[name] = 0.0
        if "features" in raw:
            shape = self._space["features"].shape or (0, 0)
            raw["features"] = np.zeros((0, shape[1]), dtype=np.float32)
        self._observation = fit_to_space(raw, self._space)
        return self.observation()

    # ------------------------------------------------------------------ step

    def step(self, action: Array) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """Train on the drawn batch with the given weights (N,); see the class.

        Raises:
            ValueError: If the action has another shape, a NaN, or a weight outside [0, w_max].
            RuntimeError: If the run has ended or was not begun by `reset`.
        """
        if not self._running:
            raise RuntimeError("the run has ended or was not begun: call reset first")
        weights = self._checked(action)
        batch = self._batch
        losses, trained = self._train(weights)
        self._keep_ratio = int((weights > 0).sum()) / len(batch)
        self.step_count += 1
        terminated = self._close_or_go_on()
        self._truncated = not terminated and self.step_count >= self.max_draws
        done = terminated or self._truncated
        evaluate, reward = self._evaluate_if_due(done)
        self._running = not done
        view = self._end_of_run_view() if done else self._look()
        info = self._info(evaluate=evaluate)
        info |= {
            "indices": self._pad_indices(batch),
            "losses": self._pad(losses),
            "trained": self._pad(trained) > 0,
            "drawn": len(batch),
            "kept": int((weights > 0).sum()),
        }
        return view, reward, terminated, self._truncated, info

    def _checked(self, action: Array) -> Array:
        weights = np.asarray(action)
        where = f"(step {self.step_count})"
        n, high = self.options.batch_size, self.options.w_max
        if weights.shape != (n,):
            raise ValueError(f"action must have shape ({n},), got {weights.shape} {where}")
        if weights.dtype.kind not in "fiub":
            raise ValueError(f"action must hold numbers, got {weights.dtype} {where}")
        weights = weights.astype(np.float32)
        legal = np.isfinite(weights) & (weights >= 0) & (weights <= high * (1 + 1e-6))
        if not legal.all():
            bad = int(np.argmin(legal))
            raise ValueError(
                f"action must lie in [0, {high:g}], got {weights[bad]} at position {bad} {where}; "
                "raise w_max for larger weights"
            )
        weights = np.where(weights < self.options.drop_below, np.float32(0), weights)
        return weights[: len(self._batch)]

    def _train(self, weights: Array) -> tuple[Array, Array]:
        """Update on the kept samples; return the batch's losses (n,) and which were trained on."""
        batch, epoch = self._batch, self._draws.epoch(self.step_count)
        losses, trained = np.zeros(len(batch), np.float32), np.zeros(len(batch), np.float32)
        kept = np.flatnonzero(weights > 0)
        carried = self._carried
        if len(kept) == 0 or len(kept) + len(carried) < self._learner.min_batch:
            self._carried += [(int(batch[i]), epoch, float(weights[i])) for i in kept]
            return losses, trained
        self._carried = []
        normalizer = len(kept) if self.options.normalizer == "kept" else len(batch)
        losses[kept] = self._update(batch[kept], weights[kept], epoch, carried, normalizer, kept)
        trained[kept] = 1.0
        return losses, trained

    def _update(
        self,
        indices: Indices,
        weights: Array,
        epoch: int,
        carried: list[tuple[int, int, float]],
        normalizer: int,
        positions: npt.NDArray[np.intp] | None = None,
    ) -> Array:
        """Train once, carried samples first; return the losses of ``indices``."""
        with self.ledger.timed("load"):
            if self._images is not None and positions is not None:
                images = self._images[torch.as_tensor(positions, device=self.device)]
            else:
                images = self._load(indices, epoch)
            extra = [self._load(np.array([i]), e) for i, e, _ in carried]
            every = np.concatenate([np.array([i for i, _, _ in carried], np.int64), indices])
            all_images = torch.cat([*extra, images]) if extra else images
        weight = np.concatenate([np.array([w for _, _, w in carried], np.float32), weights])
        self._learner.set_progress(self.progress)
        with self.ledger.timed("train"):
            losses = self._learner.update(
                all_images,
                self._labels(every),
                torch.as_tensor(weight, device=self.device),
                normalizer + len(carried),
                step=self.step_count,
            )
        self.ledger.charge("train", len(every) * self.sample_flops)
        self._remember(every, losses)
        return losses[len(carried) :]

    def _remember(self, indices: Indices, losses: Array) -> None:
        finite = np.clip(np.nan_to_num(losses, nan=LOSS_BOUND), 0.0, LOSS_BOUND)
        self._last_losses[indices] = finite
        self._last_trained[indices] = self.progress
        np.add.at(self.visits, indices, 1)
        self._train_loss = float(np.mean(losses, dtype=np.float64))

    def _close_or_go_on(self) -> bool:
        """Say whether the run is over; under an equal budget, spend a last remainder first."""
        if self.options.setting == "equal-epochs":
            return self.step_count >= self.total_steps
        if self.step_count >= self.max_draws:
            return False
        if self._left >= self._decision_flops(self.step_count):
            return False
        self._close()
        return True

    def _close(self) -> None:
        """Train, unscored, on as many uniformly drawn samples as the remainder pays for."""
        self._images = None
        count = math.floor(self._left / self.sample_flops + _TINY) - len(self._carried)
        closing: list[Indices] = []
        while count > 0:
            batch = self._draws.batch(self.step_count)
            epoch = self._draws.epoch(self.step_count)
            take = min(count, len(batch))
            if take + len(self._carried) < self._learner.min_batch:
                break
            chosen = batch[uniform(take, self._noise(self.step_count, batch))]
            weights = np.ones(take, dtype=np.float32)
            carried, self._carried = self._carried, []
            self._update(chosen, weights, epoch, carried, take)
            closing.append(chosen)
            count -= take
            self.step_count += 1
        self._closing = np.concatenate(closing) if closing else np.empty(0, dtype=np.int64)

    # ------------------------------------------------------------------ evaluation and reward

    def _evaluate_if_due(self, done: bool) -> tuple[bool, float]:
        """Say whether an evaluation is due, and return the reward."""
        wanted = self.options.evaluations or self.options.epochs
        due = int(self.progress * wanted + 1e-6) > self._evaluations_done
        spacing = max(1, self.max_draws // wanted)
        late = self.options.setting == "equal-budget" and (
            self.step_count - self._draws_at_evaluation >= spacing
        )
        affordable = self.options.setting == "equal-epochs" or self._left >= self._evaluation_flops
        if not done and not ((due or late) and affordable):
            return False, 0.0
        self._evaluations_done = max(self._evaluations_done, int(self.progress * wanted + 1e-6))
        self._draws_at_evaluation = self.step_count
        return True, self._reward_now(done)

    def _reward_now(self, done: bool) -> float:
        if not self._consumes_validation or self._validation is None:
            return 0.0
        before = self._validation
        now = self._evaluate_for_reward()
        if now is None:
            return 0.0
        spent = self.ledger.charged_flops
        interval = Interval(
            loss_before=min(before.loss, LOSS_BOUND),
            loss_now=min(now.loss, LOSS_BOUND) if math.isfinite(now.loss) else LOSS_BOUND,
            accuracy_now=now.accuracy,
            spent_share=(spent - self._spent_at_evaluation) / self.budget_flops,
            done=done,
            price=self.options.price,
        )
        self._validation, self._spent_at_evaluation = now, spent
        return float(self._reward(interval))

    def _evaluate_for_reward(self) -> Evaluation | None:
        if not self._consumes_validation:
            return None
        with self.ledger.timed("evaluate"):
            result = self._learner.evaluate(self._batches(self.data.reward_validation))
        self.ledger.charge("evaluate", self._evaluation_flops)
        return result

    def monitor(self, split: str) -> Evaluation:
        """Evaluate the learner on a split, for the record: counted, not charged.

        Args:
            split: ``selection_validation``, ``reward_validation`` or ``test``.
        """
        part: Split = getattr(self.data, split)
        with self.ledger.timed("monitor"):
            result = self._learner.evaluate(self._batches(part))
        self.ledger.charge("monitor", len(part) * self._learner.forward_flops)
        return result

    # ------------------------------------------------------------------ images

    def _load(self, indices: Indices, epoch: int) -> torch.Tensor:
        """Return the augmented, normalized images of training samples: a function of the key."""
        data = self.data
        images = data.train.gather(indices).to(self.device)
        images = augment(
            images, indices, seed=self._seeds["augmentation"], epoch=epoch, pad=data.pad,
            flip=data.flip,
        )  # fmt: skip
        return normalize(images, data.mean, data.std, channels_last=True)

    def _labels(self, indices: Indices) -> torch.Tensor:
        return torch.as_tensor(self.data.train.labels[indices], device=self.device)

    def _batches(self, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(split), _EVALUATION_BATCH):
            rows = np.arange(start, min(start + _EVALUATION_BATCH, len(split)))
            raw = split.gather(rows).to(self.device)
            images = normalize(raw, self.data.mean, self.data.std, channels_last=True)
            yield images, torch.as_tensor(split.labels[rows], device=self.device)

    # ------------------------------------------------------------------ info

    def _pad(self, values: Array) -> Array:
        out = np.zeros(self.options.batch_size, dtype=np.float32)
        out[: len(values)] = values
        return out

    def _pad_indices(self, indices: Indices) -> Indices:
        out = np.full(self.options.batch_size, -1, dtype=np.int64)
        out[: len(indices)] = indices
        return out

    def _info(self, *, evaluate: bool = False) -> dict[str, Any]:
        """Return what a tracker logs: deterministic, no clock in it."""
        return {
            "step": self.step_count,
            "epoch": self._draws.epoch(max(0, self.step_count - 1)),
            "progress": self.progress,
            "train_loss": self._train_loss,
            "keep_ratio": self._keep_ratio,
            "charged_flops": self.ledger.charged_flops,
            "carried": len(self._carried),
            "closing": self._closing.copy(),
            "evaluate": evaluate,
            "under_budget": self._truncated,
            "next_indices": self._pad_indices(self._batch),
        }

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a run in progress consists of, as arrays and JSON-able values.

        Raises:
            RuntimeError: If no run was begun.
        """
        if not hasattr(self, "run_seed"):
            raise RuntimeError("there is no run to save: call reset first")
        validation = self._validation
        return {
            "learner": self._learner.state_dict(),
            "ledger": self.ledger.state_dict(),
            "last_losses": self._last_losses.copy(),
            "last_trained": self._last_trained.copy(),
            "visits": self.visits.copy(),
            "closing": self._closing.copy(),
            "generator": copy.deepcopy(self.np_random.bit_generator.state),
            "run_seed": self.run_seed,
            "step_count": self.step_count,
            "running": self._running,
            "truncated": self._truncated,
            "carried": [list(item) for item in self._carried],
            "train_loss": self._train_loss,
            "keep_ratio": self._keep_ratio,
            "evaluations_done": self._evaluations_done,
            "draws_at_evaluation": self._draws_at_evaluation,
            "spent_at_evaluation": self._spent_at_evaluation,
            "validation": [validation.loss, validation.accuracy, list(validation.class_accuracy)]
            if validation
            else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> dict[str, Array]:
        """Take up a run where `state_dict` left it; return the observation it waits on."""
        if self._first:
            super().reset(seed=int(state["run_seed"]))
        self._first = False
        self.np_random.bit_generator.state = state["generator"]
        consumes, self._consumes_validation = self._consumes_validation, False
        self._begin(int(state["run_seed"]))
        self._consumes_validation = consumes
        self._learner.load_state_dict(state["learner"])
        self.ledger.load_state_dict(state["ledger"])
        self._last_losses = np.array(state["last_losses"], dtype=np.float32)
        self._last_trained = np.array(state["last_trained"], dtype=np.float64)
        self.visits = np.array(state["visits"], dtype=np.int64)
        self._closing = np.array(state["closing"], dtype=np.int64)
        self._carried = [(int(i), int(e), float(w)) for i, e, w in state["carried"]]
        for name in ("step_count", "evaluations_done", "draws_at_evaluation"):
            setattr(self, name if name == "step_count" else f"_{name}", int(state[name]))
        for name in ("train_loss", "keep_ratio", "spent_at_evaluation"):
            setattr(self, f"_{name}", float(state[name]))
        self._running, self._truncated = bool(state["running"]), bool(state["truncated"])
        saved = state["validation"]
        self._validation = Evaluation(saved[0], saved[1], tuple(saved[2])) if saved else None
        return self._look(charge=False) if self._running else self._end_of_run_view()
