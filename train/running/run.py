"""One run: reset; act; step; learn; track; checkpoint."""

from __future__ import annotations

import contextlib
import logging
import math
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gstds.common.checksummed_json import read_json, sealed
from gstds.common.files import pending_json, write_bytes, write_json
from gstds.common.noise import fan_out
from gstds.common.process_group import Group
from gstds.common.state import StateError, all_finite, latest_state, save_state, state_digest
from gstds.observation.batch_view import checked_weights
from gstds.policies import RunContext, Transition
from gstds.train.running.description import record_head
from gstds.train.running.ending import RunFailedError, StopFlag, interruptible
from gstds.train.running.folder import configured, finished_result, held
from gstds.train.running.options import RunConfig, identity
from gstds.train.running.record import KeptRecord, diverged, finite_or_none, step_metrics
from gstds.train.running.resources import check_space, reproducible, space_needed
from gstds.train.running.setup import make_env, make_run_policy
from gstds.train.tracking.tracker import NullTracker, Tracker

__all__ = [
    "RunFailedError",
    "Runner",
    "StopFlag",
    "execute",
    "finished_result",
    "interruptible",
]

_log = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]
Evaluated = Callable[[dict[str, Any]], None]
MAX_LOGGED_STEPS = 1000
CHECKPOINT_EVERY = 200


class Runner:
    """Drives one policy through one run.

    Args:
        config: The run's options.
        folder: Where configuration, checkpoints and results go.
        tracker: Keeps the record.
        checkpoint_every: Steps between checkpoints; 0 for none.
        tags: Tags of the record.
        progress: Called with a phase, what is done, and the total.
        evaluated: Called with each evaluation's row of the history.
        group: The processes that train together; None for this one alone.

    Raises:
        ValueError: If an option is unknown or out of range, or the data or reference is unusable.
        OSError: If a file cannot be read or written.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: str | Path,
        *,
        tracker: Tracker | None = None,
        checkpoint_every: int = CHECKPOINT_EVERY,
        tags: dict[str, str] | None = None,
        progress: Progress | None = None,
        evaluated: Evaluated | None = None,
        group: Group | None = None,
    ) -> None:
        self.config, self.folder, self.group = config, Path(folder), group or Group()
        self.tracker: Tracker = tracker or NullTracker()
        self.checkpoint_every = checkpoint_every
        self.tags = tags or {}
        self._progress = progress or (lambda phase, done, total: None)
        self._evaluated = evaluated or (lambda row: None)
        self.policy = make_run_policy(config)
        self.env = make_env(config, self.policy, progress, self.group)
        self.ledger = self.env.ledger
        self.history: list[dict[str, Any]] = []
        self.kept = KeptRecord(
            self.env.options.batch_size, self.env.data.train.labels, self.env.data.num_classes
        )
        self._elapsed = 0.0
        self._failure: Exception | SystemExit | None = None
        self._intact = False
        self._total = min(self.env.total_steps, self.env.max_draws)
        self._log_every = max(1, math.ceil(self._total / MAX_LOGGED_STEPS))
        self._checkpoints = self.folder / "checkpoints"
        self._record = self.folder / "record.json"

    # ------------------------------------------------------------------ the loop

    def run(self, stop: StopFlag | None = None, *, resume: bool = False) -> dict[str, Any]:
        """Train to the end, or until ``stop``; return the result, as it stands in the JSON file.

        Args:
            stop: Looked at after each step.
            resume: Go on from the folder's newest checkpoint, or start over if there is none.

        Raises:
            StateError: If every checkpoint is damaged.
        """
        stop = stop or StopFlag()
        if not resume and self.group.leads:
            self._record.unlink(missing_ok=True)
        state = latest_state(self._checkpoints) if resume else None
        observation, _ = self.env.reset(seed=self.config.seed)
        self.ledger = self.env.ledger
        self._start_tracker(state)
        status, error, start = "finished", "", time.perf_counter()
        try:
            observation = self._begin(observation, state)
            start = time.perf_counter() - self._elapsed
            status = self._loop(observation, stop, start)
        except KeyboardInterrupt:
            status = "interrupted"
        except (Exception, SystemExit) as problem:  # sys.exit in a plug-in
            status, error = "failed", traceback.format_exc()
            self._failure = problem
            self._keep_what_was_trained()
        self._elapsed = time.perf_counter() - start
        return self._end(status, error)

    def _loop(self, observation: dict[str, Any], stop: StopFlag, start: float) -> str:
        done = not self.env.status.running
        while not done:
            before = self._training_seconds()
            with self.ledger.timed("policy"):
                weights = self._ask(observation)
            self.group.check_same(weights, self.env.step_count)
            self._intact = False
            following, reward, terminated, truncated, info = self.env.step(weights)
            self._intact = True
            with self.ledger.timed("policy"):
                self.policy.learn(Transition(observation, weights, reward, following, info))
            observation, done = following, terminated or truncated
            self._track(info, weights)
            self.kept.clock(self._training_seconds() - before)
            self._refuse_an_empty_epoch(info)
            if diverged(info, self.env.steps_per_epoch):
                return "diverged"
            stopping = self.group.any(stop.is_set)
            if not done and self._checkpoint_due(info["step"], stopping):
                self._elapsed = time.perf_counter() - start
                self._save_checkpoint()
            if stopping and not done:
                return "interrupted"
        return "finished"

    def _ask(self, observation: dict[str, Any]) -> Any:
        """Return the policy's weights (N,).

        Raises:
            ValueError: If they are no weights.
        """
        return checked_weights(
            self.policy.act(observation),
            self.env.options.batch_size,
            self.policy.max_weight,
            where=f"(step {self.env.step_count})",
            name="weights",
        )

    def _refuse_an_empty_epoch(self, info: dict[str, Any]) -> None:
        """Raise if nothing was kept for a whole epoch: skipping is legal, this is a mistake."""
        steps = self.env.steps_per_epoch
        epoch = self.kept.masks()[-steps:] if info["kept"] == 0 else None
        if epoch is not None and len(epoch) == steps and not epoch.any():
            raise ValueError(
                f"the policy kept nothing for a whole epoch, {steps} batches; "
                "its weights must not all be zero"
            )

    def raise_failure(self, result: dict[str, Any]) -> None:
        """Raise what ended the run, if something did.

        Args:
            result: What `run` returned.

        Raises:
            RunFailedError: If the policy or the environment raised.
        """
        if self._failure is not None:
            raise RunFailedError(self.config, result, self._failure) from self._failure

    # ------------------------------------------------------------------ begin and resume

    def _begin(self, observation: dict[str, Any], state: dict[str, Any] | None) -> dict[str, Any]:
        context = RunContext(**self.env.context())
        self.policy.reset(fan_out(self.config.seed, ("policy",))["policy"] % 2**32, context)
        if state:
            observation = self._restore(state)
        self.ledger = self.env.ledger
        self._intact = True
        return observation

    def _restore(self, state: dict[str, Any]) -> dict[str, Any]:
        try:
            observation: dict[str, Any] = self.env.load_state_dict(state["env"])
            self.policy.load_state_dict(state["policy"])
            self.kept.load_state_dict(state["kept"])
            self.history = [dict(row) for row in state["history"]]
            self._elapsed = float(state["elapsed"])
            self._warn_of_processes(int(state.get("processes", 1)))
        # Whole, but of another run or release: what then is missing can be anything.
        except (Exception, SystemExit) as error:
            raise StateError(
                f"the checkpoint in {self._checkpoints} does not fit this run "
                f"({type(error).__name__}: {error}); delete the folder to start over"
            ) from error
        return observation

    def _warn_of_processes(self, before: int) -> None:
        if before != self.group.size and self.group.leads:
            _log.warning(
                "the run was begun by %d processes and goes on with %d: sums in another order "
                "differ in the last bits",
                before,
                self.group.size,
            )

    def _start_tracker(self, state: dict[str, Any] | None) -> None:
        tracked = state["tracker"] if state else {}
        if tracked:
            self.tracker.load_state_dict(tracked)
        head = record_head(self.config, self.env.data, self.folder, self.tags)
        run_id = tracked.get("run_id")
        run_id = self.tracker.start(**head, resume=run_id) if run_id else self._open_record(head)
        write_json(self._record, {"run_id": run_id})

    def _open_record(self, head: dict[str, Any]) -> str:
        """Go on with the record of a try that was killed before its first checkpoint, or begin one.

        The repeated steps have the values that they had, and the tracker logs none twice.
        """
        noted = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            noted = str(read_json(self._record)["run_id"] or "")
        if noted:
            with contextlib.suppress(ValueError):  # another store, or the run was deleted
                return self.tracker.start(**head, resume=noted)
        return self.tracker.start(**head)

    # ------------------------------------------------------------------ track and checkpoint

    def _track(self, info: dict[str, Any], weights: Any) -> None:
        self.kept.add(info, weights)
        step, evaluate = info["step"], info["evaluate"]
        with self.ledger.timed("track"):
            if evaluate or step % self._log_every == 0:
                self.tracker.log(step_metrics(info), step)
            self._progress("training", step, self._total)
        if evaluate:
            self._evaluate(info)

    def _evaluate(self, info: dict[str, Any]) -> None:
        result = self.env.monitor("selection_validation")
        row = {
            "step": info["step"],
            "epoch": info["epoch"],
            "progress": info["progress"],
            "charged_flops": info["charged_flops"],
            "seconds": self._training_seconds(),
            "val_accuracy": result.accuracy,
            "val_loss": finite_or_none(result.loss),
            "train_loss": finite_or_none(info["train_loss"]),
            "keep_ratio": info["keep_ratio"],
            "mean_keep": self.kept.mean_keep,
            "class_coverage": self.kept.take_coverage(),
            "seen": float((self.env.visits > 0).mean()),
        }
        self.history.append(row)
        self._evaluated(row)
        metrics = {
            "val/accuracy": result.accuracy,
            "val/loss": result.loss,
            "selection/mean_keep": row["mean_keep"],
            "selection/class_coverage": row["class_coverage"],
            "selection/seen": row["seen"],
            # Here and nowhere else: over a metric as x axis the UI joins grouped runs point by
            # point, not by step, so cost and accuracy must have the same steps.
            "cost/charged_flops": row["charged_flops"],
            "time/training": row["seconds"],
        }
        # A checkpoint does not hold its own seconds: the phase is there before the first one.
        phases = {"checkpoint": 0.0} | self.ledger.seconds
        metrics |= {f"time/{phase}": s for phase, s in phases.items()}
        metrics |= {f"cost/{phase}_flops": f for phase, f in self.ledger.flops.items()}
        self.tracker.log(metrics, info["step"])

    def _training_seconds(self) -> float:
        """Seconds of the run so far, without monitoring: what selecting and training took."""
        phases = ("load", "train", "spectral", "score", "evaluate", "policy", "track")
        return float(sum(self.ledger.seconds.get(phase, 0.0) for phase in phases))

    def _checkpoint_due(self, step: int, stopping: bool) -> bool:
        every = self.checkpoint_every
        return every > 0 and (stopping or step % every == 0)

    def _keep_what_was_trained(self) -> None:
        """Save a checkpoint of a run that failed between two steps: a mended policy can go on."""
        if not self._intact or self.checkpoint_every == 0:
            return
        try:
            self._save_checkpoint()
        except (Exception, SystemExit) as error:  # it failed before; that it fails again is no news
            _log.warning("no checkpoint of the failed run: %s", error)

    def _save_checkpoint(self) -> None:
        state = {
            "env": self.env.state_dict(),
            "policy": self.policy.state_dict(),
            "kept": self.kept.state_dict(),
            "history": self.history,
            "tracker": self.tracker.state_dict(),
            "elapsed": self._elapsed,
            "processes": self.group.size,
        }
        with self.ledger.timed("checkpoint"):
            if not all_finite(self.env.learner.model.state_dict()):
                _log.warning("no checkpoint at step %d: weights not finite", self.env.step_count)
                return
            try:
                save_state(self._checkpoints, self.env.step_count, state)
            except OSError as error:
                _log.warning("no checkpoint at step %d: %s", self.env.step_count, error)

    # ------------------------------------------------------------------ the end

    def _end(self, status: str, error: str) -> dict[str, Any]:
        if status == "finished" and not math.isfinite(self.env.status.train_loss):
            status = "diverged"
        ended = status in ("finished", "diverged")
        test = self.env.monitor("test") if ended and self.config.test else None
        result = self._result(status, test)
        if error:
            result["error"] = f"step {result['steps']}: {error.strip().splitlines()[-1]}"
            self.tracker.log_text(error, "traceback.txt")
        # A run with a result is not repeated: it has one only when its record is out of our hands.
        with contextlib.ExitStack() as pending:
            self._write(result, ended, pending)
            self._track_final(result)
            self.tracker.finish(result["status"])
        return result

    def _write(self, result: dict[str, Any], ended: bool, pending: contextlib.ExitStack) -> None:
        """Write the result, then what shows it; what cannot be written is told, not raised."""
        try:
            pending.enter_context(pending_json(self.folder / "result.json", sealed(result)))
        except OSError as error:
            result |= {"status": "failed", "error": f"the result was not written: {error}"}
            self._failure = OSError(
                f"{self.folder / 'result.json'} cannot be written ({error.strerror}); free some "
                f"space, then: gstds run --resume {self.folder}"
            )
            return
        if not ended:
            return
        try:
            self._write_artifacts(result)
        except OSError as error:
            _log.warning("%s: plots and kept samples were not written: %s", self.folder, error)

    def _result(self, status: str, test: Any) -> dict[str, Any]:
        env, ledger = self.env, self.ledger
        at_end = env.status
        reference = env.task.reference
        seconds = dict(ledger.seconds)
        if reference:
            seconds |= reference.seconds
        return {
            "policy": self.config.policy,
            "seed": self.config.seed,
            "dataset": self.config.dataset,
            "learner": self.config.learner,
            "setting": self.config.setting,
            "run_id": self.tracker.run_id,
            "identity": identity(self.config),
            "status": status,
            "test_accuracy": test.accuracy if test else None,
            "test_loss": finite_or_none(test.loss) if test else None,
            "worst_class_accuracy": min(test.class_accuracy) if test else None,
            "val_accuracy": self.history[-1]["val_accuracy"] if self.history else None,
            "train_loss": finite_or_none(at_end.train_loss),
            "mean_keep": self.kept.mean_keep,
            "charged_flops": ledger.charged_flops,
            "reference_flops": ledger.reference_flops,
            "full_flops": env.full_flops,
            "budget_flops": env.budget_flops,
            "flops_by_phase": dict(ledger.flops),
            "seconds": self._training_seconds(),
            "wall_seconds": self._elapsed,
            "reference_system_seconds": self.kept.reference_system_seconds(),
            "seconds_by_phase": seconds,
            "steps": env.step_count,
            "processes": self.group.size,
            "samples_trained": int(env.visits.sum()),
            "samples_drawn": self.kept.drawn,
            "samples_closing": len(at_end.closing),
            "skipped_updates": at_end.skipped,
            "seen": float((env.visits > 0).mean()),
            "class_coverage": self._coverage(),
            "under_budget": at_end.truncated,
            "reference_accuracy": reference.accuracy if reference else None,
            "weights_sha256": state_digest(env.learner.model.state_dict()),
            "history": self.history,
        }

    def _coverage(self) -> float | None:
        values = [row["class_coverage"] for row in self.history]
        return math.fsum(values) / len(values) if values else None

    def _write_artifacts(self, result: dict[str, Any]) -> None:
        from gstds.train.figures.plots import plot_run

        kept = self.folder / "kept.npz"
        self.kept.save(kept, visits=self.env.visits, order_seed=self.env.draws.seed)
        ratios = self.kept.keep_sequence() / self.env.options.batch_size
        write_bytes(self.folder / "run.png", plot_run(self.history, ratios.tolist()))
        write_json(self.folder / "history.json", result["history"])
        for name in ("kept.npz", "run.png", "config.json"):
            if (self.folder / name).exists():
                self.tracker.log_file(self.folder / name)

    def _track_final(self, result: dict[str, Any]) -> None:
        names = ("test_accuracy", "test_loss", "worst_class_accuracy", "mean_keep", "charged_flops")
        more = ("reference_flops", "seconds", "wall_seconds", "steps", "seen", "class_coverage")
        every = (*names, *more, "reference_system_seconds", "val_accuracy")
        values = {f"final/{n}": result[n] for n in every if result[n] is not None}
        if result["status"] in ("finished", "diverged"):
            values["final/relative_compute"] = result["charged_flops"] / result["full_flops"]
            values["final/tracking_share"] = self.tracker.seconds() / max(self._elapsed, 1e-9)
        self.tracker.log(values, result["steps"])


def execute(
    config: RunConfig,
    folder: str | Path,
    *,
    tracker: Tracker | None = None,
    stop: StopFlag | None = None,
    resume: bool = False,
    checkpoint_every: int = CHECKPOINT_EVERY,
    tags: dict[str, str] | None = None,
    progress: Progress | None = None,
    evaluated: Evaluated | None = None,
    command: str = "",
    group: Group | None = None,
) -> dict[str, Any]:
    """Do one run in a folder, or return its result if it has one and ``resume`` is set.

    Raises:
        ValueError: If an option is unknown or out of range, or the data or reference is unusable.
        OSError: If a file cannot be read or written.
        RunFailedError: If the policy or the environment raised; the run is recorded as failed.
        FolderInUseError: If another process runs in the folder.
    """
    folder = Path(folder)
    if resume:
        done = finished_result(folder)
        if done:
            return done
    make_run_policy(config)
    address = tracker.address() if tracker else None
    group = group or Group()
    with held(folder) as made, reproducible(config.deterministic):
        with configured(folder, config, command, address, resume, made), group.in_turn():
            runner = Runner(
                config,
                folder,
                tracker=tracker,
                checkpoint_every=checkpoint_every,
                tags=tags,
                progress=progress,
                evaluated=evaluated,
                group=group,
            )
            check_space(folder, space_needed(runner.env, checkpoints=checkpoint_every > 0))
            # After the data, so that a run that cannot begin makes no store.
            runner.tracker.prepare()
        with interruptible(stop) if stop else contextlib.nullcontext():
            result = runner.run(stop, resume=resume)
    runner.raise_failure(result)
    return result
