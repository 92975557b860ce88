"""A run's record as it goes on: its log, its history, what it kept, and its result at the end."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.checksummed_json import sealed
from gstds.common.files import pending_json, write_bytes, write_json, write_text
from gstds.common.state import Stateful, state_digest
from gstds.options.fields import by_group
from gstds.train.figures.metrics import as_logged
from gstds.train.running.kept import KeptRecord
from gstds.train.running.options import RunConfig, identity
from gstds.train.tracking.delivery import read_target
from gstds.train.tracking.log import DataInput, RunLog, own_commit

if TYPE_CHECKING:
    from gstds.envs import DataSelectionEnv
    from gstds.envs.data.datasets import Data

__all__ = ["Record", "record_head"]

_log = logging.getLogger(__name__)
_MOST_LOGGED_STEPS = 1000


class Record(Stateful):
    """What one run tells about itself.

    Args:
        config: The run's options.
        folder: Its folder.
        env: Its environment.
        log: Its log.
    """

    state = ("kept", "history", "elapsed")

    def __init__(self, config: RunConfig, folder: Path, env: DataSelectionEnv, log: RunLog) -> None:
        self.config, self.folder, self.env, self.log = config, folder, env, log
        self.history: list[dict[str, Any]] = []
        train = env.data.train
        self.kept = KeptRecord(env.options.batch_size, train.labels, env.data.num_classes)
        self.elapsed = 0.0
        self.total = min(env.total_steps, env.max_draws)
        self._log_every = max(1, math.ceil(self.total / _MOST_LOGGED_STEPS))

    # ------------------------------------------------------------------ while it goes on

    def training_seconds(self) -> float:
        """Seconds of the run so far, without monitoring: what selecting and training took."""
        phases = ("load", "train", "spectral", "score", "evaluate", "policy", "track")
        return float(sum(self.env.ledger.seconds.get(phase, 0.0) for phase in phases))

    def step(self, info: Mapping[str, Any], weights: Any, *, evaluate: bool) -> None:
        """Take up a step, and evaluate on selection-validation if that is due here."""
        self.kept.add(info, weights)
        step = int(info["step"])
        if info["evaluate"] or step % self._log_every == 0:
            with self.env.ledger.timed("track"):
                skipped = {"train/skipped": info["skipped"]} if info["skipped"] else {}
                self.log.log(as_logged(info, "step") | skipped, step)
        if evaluate:
            self._evaluate(info)

    def _evaluate(self, info: Mapping[str, Any]) -> None:
        ledger = self.env.ledger
        result = self.env.monitor("selection_validation")
        row = {
            "step": info["step"],
            "epoch": info["epoch"],
            "progress": info["progress"],
            "charged_flops": info["charged_flops"],
            "seconds": self.training_seconds(),
            "val_accuracy": result.accuracy,
            "val_loss": _finite_or_none(result.loss),
            "train_loss": _finite_or_none(info["train_loss"]),
            "keep_ratio": info["keep_ratio"],
            "mean_keep": self.kept.mean_keep,
            "class_coverage": self.kept.take_coverage(),
            "seen": float((self.env.visits > 0).mean()),
        }
        self.history.append(row)
        # Cost here and nowhere else: over a metric as x axis the UI joins grouped runs point by
        # point, not by step, so cost and accuracy must have the same steps.
        metrics = as_logged(row | {"val_loss": result.loss}, "evaluation")
        # A checkpoint does not hold its own seconds: the phase is there before the first one.
        phases = {"checkpoint": 0.0} | ledger.seconds
        metrics |= {f"time/{phase}": s for phase, s in phases.items()}
        metrics |= {f"cost/{phase}_flops": f for phase, f in ledger.flops.items()}
        self.log.log(metrics, info["step"])

    # ------------------------------------------------------------------ at the end

    def end(self, status: str, error: str, processes: int) -> tuple[dict[str, Any], OSError | None]:
        """Write the result, and what shows it; a run with a result is not repeated.

        Args:
            status: How the run ended.
            error: The traceback of what ended it, or nothing.
            processes: How many trained together.

        Returns:
            The result as it stands in the JSON file, and why that could not be written, if so.
        """
        if status == "finished" and not math.isfinite(self.env.info()["train_loss"]):
            status = "diverged"
        ended = status in ("finished", "diverged")
        test = self.env.monitor("test") if ended and self.config.test else None
        result = self._result(status, test, processes)
        if error:
            result["error"] = f"step {result['steps']}: {error.strip().splitlines()[-1]}"
            self._write("the traceback", lambda: self._write_traceback(error))
        problem = None
        with contextlib.ExitStack() as pending:
            try:
                pending.enter_context(pending_json(self.folder / "result.json", sealed(result)))
            except OSError as full:
                result |= {"status": "failed", "error": f"the result was not written: {full}"}
                problem = OSError(
                    f"{self.folder / 'result.json'} cannot be written ({full.strerror}); free some "
                    f"space, then: gstds run --resume {self.folder}"
                )
            if ended and problem is None:
                self._write("plots and kept samples", lambda: self._write_artifacts(result))
            self._log_final(result)
            self.log.finish(result["status"])
        return result, problem

    def _result(self, status: str, test: Any, processes: int) -> dict[str, Any]:
        env, ledger = self.env, self.env.ledger
        at_end = env.info()
        reference = env.task.reference
        seconds = dict(ledger.seconds)
        if reference:
            seconds |= reference.seconds
        target = read_target(self.folder)
        return {
            "policy": self.config.policy,
            "seed": self.config.seed,
            "dataset": self.config.dataset,
            "learner": self.config.learner,
            "setting": self.config.setting,
            "run_id": self.log.run_id,
            "mlflow_run_id": target.mlflow_run_id if target else None,
            "identity": identity(self.config),
            "status": status,
            "test_accuracy": test.accuracy if test else None,
            "test_loss": _finite_or_none(test.loss) if test else None,
            "worst_class_accuracy": min(test.class_accuracy) if test else None,
            "val_accuracy": self.history[-1]["val_accuracy"] if self.history else None,
            "train_loss": _finite_or_none(at_end["train_loss"]),
            "mean_keep": self.kept.mean_keep,
            "charged_flops": ledger.charged_flops,
            "reference_flops": ledger.reference_flops,
            "full_flops": env.full_flops,
            "budget_flops": env.budget_flops,
            "flops_by_phase": dict(ledger.flops),
            "seconds": self.training_seconds(),
            "wall_seconds": self.elapsed,
            "reference_system_seconds": self.kept.reference_system_seconds(),
            "seconds_by_phase": seconds,
            "steps": env.step_count,
            "processes": processes,
            "samples_trained": int(env.visits.sum()),
            "samples_drawn": self.kept.drawn,
            "samples_closing": len(at_end["closing"]),
            "skipped_updates": at_end["skipped"],
            "seen": float((env.visits > 0).mean()),
            "class_coverage": self._coverage(),
            "under_budget": at_end["under_budget"],
            "reference_accuracy": reference.accuracy if reference else None,
            "weights_sha256": state_digest(env.learner.model.state_dict()),
            "history": self.history,
        }

    def _coverage(self) -> float | None:
        values = [row["class_coverage"] for row in self.history]
        return math.fsum(values) / len(values) if values else None

    def _write(self, what: str, action: Callable[[], None]) -> None:
        """Write something that is no loss; what cannot be written is told, not raised."""
        try:
            action()
        except OSError as error:
            _log.warning("%s: %s were not written: %s", self.folder, what, error)

    def _write_traceback(self, error: str) -> None:
        write_text(self.folder / "traceback.txt", error)
        self.log.log_file(self.folder / "traceback.txt")

    def _write_artifacts(self, result: dict[str, Any]) -> None:
        from gstds.train.figures.plots import plot_run

        kept = self.folder / "kept.npz"
        self.kept.save(kept, visits=self.env.visits, order_seed=self.env.draws.seed)
        ratios = self.kept.keep_sequence() / self.env.options.batch_size
        write_bytes(self.folder / "run.png", plot_run(self.history, ratios.tolist()))
        write_json(self.folder / "history.json", result["history"])
        for name in ("kept.npz", "run.png", "config.json"):
            if (self.folder / name).exists():
                self.log.log_file(self.folder / name)

    def _log_final(self, result: dict[str, Any]) -> None:
        values = dict(result)
        if result["status"] in ("finished", "diverged"):
            values["relative_compute"] = result["charged_flops"] / result["full_flops"]
            values["tracking_share"] = self.log.seconds / max(self.elapsed, 1e-9)
        self.log.log(as_logged(values, "end"), result["steps"])


def _finite_or_none(value: float) -> float | None:
    """Return a number as JSON can hold it."""
    return float(value) if math.isfinite(value) else None


def record_head(
    config: RunConfig, data: Data, folder: Path, more: Mapping[str, str]
) -> dict[str, Any]:
    """Return the keyword arguments of `RunLog.begin`.

    Args:
        config: The run's options.
        data: Its data set.
        folder: Its folder.
        more: Tags that its comparison gives it; they win.
    """
    tags = _tags(config, folder) | dict(more)
    of = more.get("control_of")
    what = f"Policy `{tags['policy']}` on `{config.dataset}`, seed {config.seed}"
    return {
        "name": f"{tags['policy']}-{config.dataset}-seed{config.seed}",
        "params": by_group(config) | _effective(config, tags.get("device", config.device)),
        "tags": tags,
        "description": f"{what}, {config.setting}." + (f" A control of {of}." if of else ""),
        "data": DataInput(
            name=data.name,
            digest=data.fingerprint,
            rows=len(data.train),
            classes=data.num_classes,
            shape=(*data.image_shape[1:], data.image_shape[0]),
            source=config.dataset,
        ),
    }


def _effective(config: RunConfig, device: str) -> dict[str, Any]:
    """Return the values that options stand for which say nothing, or leave it to the machine."""
    evaluations = config.evaluations or config.epochs
    return {
        "learner.learning_rate": config.peak_rate,
        "learner.device": device,
        "budget.evaluations": evaluations,
    }


def _tags(config: RunConfig, folder: Path) -> dict[str, str]:
    tags = {
        "policy": config.policy,
        "seed": str(config.seed),
        "dataset": config.dataset,
        "learner": config.learner,
        "setting": config.setting,
        "identity": identity(config),
        "folder": str(folder.absolute()),
        "kind": "run",
    }
    commit = own_commit()
    return tags | ({"git_commit": commit} if commit else {})
