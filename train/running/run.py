"""One run: reset; act; step; learn; record; checkpoint."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gstds.common.noise import fan_out
from gstds.common.process_group import Group
from gstds.observation.batch_view import checked_weights
from gstds.policies import RunContext, Transition
from gstds.train.running.checkpoints import CHECKPOINT_EVERY, Checkpoints, check_space, space_needed
from gstds.train.running.ending import RunFailedError, StopFlag, diverged, interruptible
from gstds.train.running.folder import configured, finished_result, held
from gstds.train.running.options import RunConfig
from gstds.train.running.record import Record, record_head
from gstds.train.running.setup import make_env, make_run_policy, reproducible
from gstds.train.tracking.log import RunLog
from gstds.train.tracking.uploader import Upload

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


class Runner:
    """Drives one policy through one run.

    Args:
        config: The run's options.
        folder: Where configuration, log, checkpoints and results go.
        upload: Delivers the log to MLflow; None for nobody.
        checkpoint_every: Steps between checkpoints; 0 for none.
        tags: Tags of the record.
        progress: Called with a phase, what is done, and the total.
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
        upload: Upload | None = None,
        checkpoint_every: int = CHECKPOINT_EVERY,
        tags: dict[str, str] | None = None,
        progress: Progress | None = None,
        group: Group | None = None,
    ) -> None:
        self.config, self.folder, self.group = config, Path(folder), group or Group()
        self.upload, self.tags = upload, tags or {}
        self.policy = make_run_policy(config)
        self.env = make_env(config, self.policy, progress, self.group)
        self.log = RunLog(self.folder if self.group.leads else None)
        self.record = Record(config, self.folder, self.env, self.log)
        self.checkpoints = Checkpoints(self.folder, checkpoint_every)
        self._progress = progress or (lambda phase, done, total: None)
        self._failure: BaseException | None = None
        self._intact = False

    def run(self, stop: StopFlag | None = None, *, resume: bool = False) -> dict[str, Any]:
        """Train to the end, or until ``stop``; return the result, as it stands in the JSON file.

        Args:
            stop: Looked at after each step.
            resume: Go on from the folder's newest checkpoint, or start over if there is none.

        Raises:
            StateError: If every checkpoint is damaged.
            ValueError: If the log that is to be gone on with is damaged.
        """
        stop = stop or StopFlag()
        state = self.checkpoints.latest() if resume else None
        observation, _ = self.env.reset(seed=self.config.seed)
        self._begin_log(resume, state["env"]["step_count"] if state else 0)
        status, error, start = "finished", "", time.perf_counter()
        try:
            observation = self._begin(observation, state)
            start = time.perf_counter() - self.record.elapsed
            status = self._loop(observation, stop, start)
        except KeyboardInterrupt:
            status = "interrupted"
        except (Exception, SystemExit) as problem:  # sys.exit in a plug-in
            status, error = "failed", traceback.format_exc()
            self._failure = problem
            self._keep_what_was_trained()
        self.record.elapsed = time.perf_counter() - start
        return self._end(status, error)

    def _loop(self, observation: dict[str, Any], stop: StopFlag, start: float) -> str:
        env, record = self.env, self.record
        done = not env.running
        while not done:
            before = record.training_seconds()
            with env.ledger.timed("policy"):
                weights = self._ask(observation)
            self.group.check_same(weights, env.step_count)
            self._intact = False
            following, reward, terminated, truncated, info = env.step(weights)
            self._intact = True
            with env.ledger.timed("policy"):
                self.policy.learn(Transition(observation, weights, reward, following, info))
            observation, done = following, terminated or truncated
            record.step(info, weights, evaluate=info["evaluate"] and self.group.leads)
            record.kept.clock(record.training_seconds() - before)
            self._progress("training", info["step"], record.total)
            self._refuse_an_empty_epoch(info)
            if diverged(info, env.steps_per_epoch):
                return "diverged"
            stopping = self.group.any(stop.is_set)
            if not done and self.checkpoints.due(info["step"], stopping):
                record.elapsed = time.perf_counter() - start
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
        epoch = self.record.kept.masks()[-steps:] if info["kept"] == 0 else None
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

    def _end(self, status: str, error: str) -> dict[str, Any]:
        if not self.group.leads:  # the first process evaluates, and keeps the record
            return {"status": status, "steps": self.env.step_count, "error": error}
        result, unwritten = self.record.end(status, error, self.group.size)
        self._failure = unwritten or self._failure
        if self.upload:
            self.upload.remind()
        return result

    # ------------------------------------------------------------------ begin and go on

    def _begin_log(self, resume: bool, step: int) -> None:
        tags = {"device": self.env.learner.device.type, **self.tags}
        head = record_head(self.config, self.env.data, self.folder, tags)
        self.log.begin(**head, steps=self.record.total, resume=resume, step=step)
        if self.upload and self.group.leads:
            self.upload.begin(self.folder, self.log.run_id)

    def _begin(self, observation: dict[str, Any], state: dict[str, Any] | None) -> dict[str, Any]:
        context = RunContext(**self.env.context())
        self.policy.reset(fan_out(self.config.seed, ("policy",))["policy"] % 2**32, context)
        if state:
            observation = self._restore(state)
        self._intact = True
        return observation

    def _restore(self, state: dict[str, Any]) -> dict[str, Any]:
        try:
            observation: dict[str, Any] = self.env.load_state_dict(state["env"])
            self.policy.load_state_dict(state["policy"])
            self.record.load_state_dict(state)
            self._warn_of_processes(int(state.get("processes", 1)))
        # Whole, but of another run or release: what then is missing can be anything.
        except (Exception, SystemExit) as error:
            raise self.checkpoints.misfit(error) from error
        return observation

    def _warn_of_processes(self, before: int) -> None:
        if before != self.group.size and self.group.leads:
            _log.warning(
                "the run was begun by %d processes and goes on with %d: sums in another order "
                "differ in the last bits",
                before,
                self.group.size,
            )

    def _keep_what_was_trained(self) -> None:
        """Save a checkpoint of a run that failed between two steps: a mended policy can go on."""
        if not self._intact or self.checkpoints.every == 0:
            return
        try:
            self._save_checkpoint()
        except (Exception, SystemExit) as error:  # it failed before; that it fails again is no news
            _log.warning("no checkpoint of the failed run: %s", error)

    def _save_checkpoint(self) -> None:
        self.log.sync()  # what a resumed run does not repeat is on the disk
        parts = {"policy": self.policy.state_dict(), "processes": self.group.size}
        self.checkpoints.save(self.env, parts | self.record.state_dict())
        if self.upload:
            self.upload.remind(at_once=False)


def execute(
    config: RunConfig,
    folder: str | Path,
    *,
    upload: Upload | None = None,
    stop: StopFlag | None = None,
    resume: bool = False,
    checkpoint_every: int = CHECKPOINT_EVERY,
    tags: dict[str, str] | None = None,
    progress: Progress | None = None,
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
    address = upload.address() if upload else None
    group = group or Group()
    with held(folder) as made, reproducible(config.deterministic):
        with configured(folder, config, command, address, resume, made), group.in_turn():
            runner = Runner(
                config,
                folder,
                upload=upload,
                checkpoint_every=checkpoint_every,
                tags=tags,
                progress=progress,
                group=group,
            )
            check_space(folder, space_needed(runner.env, checkpoints=checkpoint_every > 0))
        with interruptible(stop) if stop else contextlib.nullcontext():
            result = runner.run(stop, resume=resume)
    runner.raise_failure(result)
    return result
