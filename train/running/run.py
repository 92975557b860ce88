"""One run: reset; act; step; learn; record; checkpoint."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from gstds.common.noise import policy_seed
from gstds.common.process_group import Group
from gstds.common.state import (
    StateError,
    all_finite,
    fingerprints,
    latest_state,
    save_state,
    undeclared_changes,
)
from gstds.observation.batch_view import checked_weights
from gstds.observation.shown import Shown
from gstds.policies import Policy, RunContext
from gstds.policies.base import begin_run, transition_of
from gstds.train.running.ending import RunFailedError, StopFlag, interruptible
from gstds.train.running.folder import (
    check_space,
    finished_result,
    held,
    open_folder,
    space_needed,
)
from gstds.train.running.options import RunConfig
from gstds.train.running.record import Record
from gstds.train.running.setup import make_env, make_run_policy, reproducible
from gstds.train.tracking.log import RunLog
from gstds.train.tracking.uploader import Upload

_log = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]
CHECKPOINT_EVERY = 200


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
    note: Callable[[str], None] | None = None,
    command: str = "",
    group: Group | None = None,
) -> dict[str, Any]:
    """Do one run in a folder, or return its result if it has one and ``resume`` is set.

    Of several processes that train together the first keeps the record; the others train alone.

    Args:
        config: The run's options.
        folder: Where configuration, log, checkpoints and results go.
        upload: Delivers the log to MLflow; None for nobody.
        stop: Looked at after each step, and set by the first signal; None for neither.
        resume: Go on from the folder's newest checkpoint, or start over if there is none.
        checkpoint_every: Steps between checkpoints; 0 for none.
        tags: Tags of the record.
        progress: Called with a phase, what is done, and the total.
        note: Called with what was read, before anything is computed.
        command: The command that asked for it.
        group: The processes that train together; None for this one alone.

    Returns:
        The result, as it stands in the JSON file.

    Raises:
        ValueError: If an option is unknown or out of range, or the data or reference is unusable.
        OSError: If a file cannot be read or written.
        StateError: If every checkpoint is damaged.
        RunFailedError: If the policy or the environment raised; the run is recorded as failed.
        FolderInUseError: If another process runs in the folder.
    """
    folder, group = Path(folder), group or Group()
    done = finished_result(folder) if resume else None
    if done:
        return done
    policy = make_run_policy(config)
    address = upload.address() if upload else None
    with contextlib.ExitStack() as here:
        made = here.enter_context(held(folder)) if group.leads else []
        here.enter_context(reproducible(config.deterministic))
        if group.leads and not resume:
            open_folder(folder, config, command=command, tracking=address)

        def ready(env: Any) -> None:
            if group.leads:
                check_space(folder, space_needed(env, checkpoints=checkpoint_every > 0))
                if note:
                    from gstds.envs.data.datasets import describe

                    note(describe(env.data))

        with group.in_turn():
            every = checkpoint_every if group.leads else 0
            env = make_env(config, policy, progress, group, ready)
            run = _Run(config, folder, policy, group, upload, every, progress, env)
        made.clear()  # from here on it holds a run
        if stop:
            here.enter_context(interruptible(stop))
        result = run.train(stop or StopFlag(), tags or {}, resume)
    if run.failure is not None:
        raise RunFailedError(config, folder, result, run.failure) from run.failure
    return result


@dataclass
class _Run:
    """Drives one policy through one run."""

    config: RunConfig
    folder: Path
    policy: Policy
    group: Group
    upload: Upload | None
    checkpoint_every: int
    progress: Progress | None
    env: Any

    def __post_init__(self) -> None:
        """Make what the run needs."""
        self.log = RunLog(self.folder if self.group.leads else None)
        self.record = Record(self.config, self.folder, self.env, self.log)
        self.failure: BaseException | None = None
        self._intact = False  # between two steps

    def train(self, stop: StopFlag, tags: dict[str, str], resume: bool) -> dict[str, Any]:
        """Train to the end, or until ``stop``; return the result."""
        state = latest_state(self.folder / "checkpoints") if resume else None
        observation, _ = self.env.reset(seed=self.config.seed)
        step = state["env"]["step_count"] if state else 0
        self.record.begin(tags, resume=resume, step=step)
        if self.upload:
            self.upload.begin(self.folder, self.log.run_id)
        status, error = "finished", ""
        try:
            begin_run(self.policy, policy_seed(self.config.seed), RunContext(**self.env.context()))
            self._made = fingerprints(self.policy)
            observation = self._restored(state) if state else observation
            self._intact = True
            self.record.start_clock()
            status = self._loop(observation, stop)
        except KeyboardInterrupt:
            status = "interrupted"
        except (Exception, SystemExit) as problem:  # sys.exit in a plug-in
            status, error, self.failure = "failed", traceback.format_exc(), problem
            if self._intact and self.checkpoint_every:  # so that a mended policy can go on
                self._save_checkpoint(Exception, SystemExit)
        self.record.stop_clock()
        if not self.group.leads:  # the first process evaluates, and keeps the record
            return {"status": status, "steps": self.env.step_count, "error": error}
        result, unwritten = self.record.end(status, error, self.group.size)
        self.failure = unwritten or self.failure
        if self.upload:
            self.upload.remind()
        return result

    def _loop(self, observation: dict[str, Any], stop: StopFlag) -> str:
        env, policy, record = self.env, self.policy, self.record
        done, name = not env.status.running, self.config.policy
        seen = Shown(observation, name)
        while not done:
            with env.ledger.timed("policy"):
                weights = checked_weights(
                    policy.act(seen),
                    env.options.batch_size,
                    policy.max_weight,
                    where=f"(step {env.step_count})",
                    name="weights",
                )
            self.group.check_same(weights, env.step_count)
            self._intact = False
            observation, reward, terminated, truncated, info = env.step(weights)
            self._intact = True
            with env.ledger.timed("policy"):
                following = Shown(observation, name)
                told = {k: v.copy() if hasattr(v, "copy") else v for k, v in info.items()}
                policy.learn(transition_of(policy, seen, weights, reward, following, told))
            seen, done = following, terminated or truncated
            record.step(info, weights, evaluate=info["evaluate"] and self.group.leads)
            if self.progress:
                self.progress("training", info["step"], record.total)
            if info["skipped_in_a_row"] >= env.steps_per_epoch or not isfinite(sum(info["losses"])):
                return "diverged"
            stopping, every = self.group.any(stop.is_set), self.checkpoint_every
            if not done and every and (stopping or info["step"] % every == 0):
                self._save_checkpoint(OSError)  # a full disk
            if stopping and not done:
                return "interrupted"
        return "finished"

    # ------------------------------------------------------------------ checkpoints

    def _save_checkpoint(self, *spared: type[BaseException]) -> None:
        """Save all that the run needs to go on; an error that is spared costs that alone."""
        env, record, made = self.env, self.record, self._made
        record.stop_clock()
        forgotten = undeclared_changes(made, self.policy) if made else []
        if forgotten:
            told = f"the run changes {', '.join(forgotten)} of policy {self.config.policy!r}"
            _log.warning("%s, which a resumed run forgets; state = %s", told, tuple(forgotten))
            made.clear()  # once is enough
        self.log.sync()  # what a resumed run does not repeat is on the disk
        try:
            parts = {"policy": self.policy.state_dict(), "processes": self.group.size}
            state = {"env": env.state_dict(), **parts, **record.state_dict()}
            with env.ledger.timed("checkpoint"):
                if all_finite(env.learner.model.state_dict()):
                    save_state(self.folder / "checkpoints", env.step_count, state)
                else:
                    _log.warning("no checkpoint at step %d: weights not finite", env.step_count)
        except spared as error:
            _log.warning("no checkpoint at step %d: %s", env.step_count, error)
        if self.upload:
            self.upload.remind(at_once=False)

    def _restored(self, state: dict[str, Any]) -> dict[str, Any]:
        """Take up a checkpoint; return its observation."""
        try:
            observation: dict[str, Any] = self.env.load_state_dict(state["env"])
            self.policy.load_state_dict(state["policy"])
            self.record.load_state_dict(state)
            before = int(state.get("processes", 1))
        # Whole, but of another run or release: what then is missing can be anything.
        except (Exception, SystemExit) as error:
            raise StateError(
                f"the checkpoint in {self.folder / 'checkpoints'} does not fit this run "
                f"({type(error).__name__}: {error}); delete the folder to start over"
            ) from error
        if before != self.group.size and self.group.leads:
            now = f"was begun by {before} processes and goes on with {self.group.size}"
            _log.warning("the run %s: sums in another order differ in the last bits", now)
        return observation
