"""A run's record as it goes on: its log, its history, what it kept, and its result at the end."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gstds.common.checksummed_json import sealed
from gstds.common.files import pending_json, write_bytes, write_json, write_text
from gstds.common.state import Stateful, state_digest
from gstds.options.fields import by_group
from gstds.train.figures.statistics import mean
from gstds.train.figures.tables import as_logged
from gstds.train.running.kept import KeptRecord, read_kept, reference_system_seconds
from gstds.train.running.options import RunConfig, identity, plugin_files
from gstds.train.tracking.delivery import read_target
from gstds.train.tracking.log import RunLog, git_commit, own_commit

if TYPE_CHECKING:
    from gstds.envs import DataSelectionEnv


_log = logging.getLogger(__name__)
_MOST_LOGGED_STEPS = 1000
_OPTIONS = ("policy", "seed", "dataset", "learner", "setting")


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
        self.start_clock()

    # ------------------------------------------------------------------ while it goes on

    def begin(self, more: Mapping[str, str], *, resume: bool, step: int) -> None:
        """Begin the log, or go on with it.

        Args:
            more: Tags that whoever asked for the run gives it; they win.
            resume: Go on, if there is something to go on with.
            step: The step of the checkpoint with which it goes on.
        """
        from gstds.envs.data.datasets import describe
        from gstds.envs.task.network import module_file

        config, data = self.config, self.env.data
        self._module = module_file(config.learner)  # as it is now: it may be edited meanwhile
        commit, of = own_commit(), more.get("control_of")
        tags = {name: str(getattr(config, name)) for name in _OPTIONS}
        tags |= {"identity": identity(config), "folder": str(self.folder.absolute()), "kind": "run"}
        tags |= {"device": self.env.learner.device.type}
        tags |= {"git_commit": commit} if commit else {}
        theirs = git_commit(Path.cwd()) if any(plugin_files(config)) else None
        tags |= {"user_commit": theirs} if theirs else {}
        tags |= more
        what = f"Policy `{tags['policy']}` on `{config.dataset}`, seed {config.seed}"
        shape = (*data.image_shape[1:], data.image_shape[0])
        shown: dict[str, Any] = {
            "name": data.name,
            "digest": data.fingerprint,
            "rows": len(data.train),
        }
        shown |= {"classes": data.num_classes, "shape": shape, "source": config.dataset}
        params = _flat(by_group(config)) | self._effective(tags["device"])
        self.log.begin(
            name=f"{tags['policy']}-{config.dataset}-seed{config.seed}",
            params=params,
            tags=tags,
            description=f"{what}, {config.setting}."
            + (f" A control of {of}." if of else "")
            + f"\n\n{describe(data)}",
            data=shown,
            steps=self.total,
            resume=resume,
            step=step,
        )
        numbers = {k: v for k, v in params.items() if type(v) in (int, float)}
        self.log.log({f"param/{name}": value for name, value in numbers.items()}, 0)
        with self._no_loss("the sources of plug-ins"):
            for path in filter(None, plugin_files(config)):
                write_bytes(self.folder / "sources" / path.name, path.read_bytes())
                self.log.log_file(self.folder / "sources" / path.name, "sources")

    def _effective(self, device: str) -> dict[str, Any]:
        """Return the values that options stand for which say nothing, or leave it to the machine.

        Args:
            device: Where the learner trains.
        """
        config = self.config
        return {
            "learner.learning_rate": config.peak_rate,
            "learner.device": device,
            "budget.evaluations": config.evaluations or config.epochs,
        }

    def start_clock(self) -> None:
        """Count the time from now on."""
        self._since, self._trained = time.perf_counter(), self.training_seconds()

    def stop_clock(self) -> None:
        """Bring `elapsed` up to now."""
        before, self._since = self._since, time.perf_counter()
        self.elapsed += self._since - before

    def training_seconds(self) -> float:
        """Seconds of the run so far, without monitoring: what selecting and training took."""
        phases = ("load", "train", "spectral", "score", "evaluate", "policy", "track")
        return float(sum(self.env.ledger.seconds.get(phase, 0.0) for phase in phases))

    def step(self, info: Mapping[str, Any], weights: Any, *, evaluate: bool) -> None:
        """Take up a step, and evaluate on selection-validation if that is due here.

        Raises:
            ValueError: If nothing was kept for a whole epoch: skipping is legal, that is a mistake.
        """
        self.kept.add(info, weights)
        step, steps = int(info["step"]), self.env.steps_per_epoch
        if info["evaluate"] or step % self._log_every == 0:
            with self.env.ledger.timed("track"):
                skipped = {"train/skipped": info["skipped"]} if info["skipped"] else {}
                self.log.log(as_logged(info, "step") | skipped, step)
        if evaluate:
            self._evaluate(info)
        before, self._trained = self._trained, self.training_seconds()
        self.kept.seconds.append(self._trained - before)
        if info["kept"] == 0 and step >= steps and not self.kept.masks()[-steps:].any():
            raise ValueError(
                f"the policy kept nothing for a whole epoch, {steps} batches; "
                "its weights must not all be zero"
            )

    def _evaluate(self, info: Mapping[str, Any]) -> None:
        ledger = self.env.ledger
        result = self.env.monitor("selection_validation")
        row = {key: info[key] for key in ("step", "epoch", "progress", "charged_flops")} | {
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
        from gstds.envs.task.network import save_network

        if status == "finished" and not math.isfinite(self.env.info()["train_loss"]):
            status = "diverged"
        ended = status in ("finished", "diverged")
        test = self.env.monitor("test") if ended and self.config.test else None
        result = self._result(status, test, processes)
        if error:
            result["error"] = f"step {result['steps']}: {error.strip().splitlines()[-1]}"
            with self._no_loss("the traceback"):
                write_text(self.folder / "traceback.txt", error)
                self.log.log_file(self.folder / "traceback.txt")
        problem = None
        with contextlib.ExitStack() as pending:
            try:
                facts = {name: result[name] for name in ("run_id", "status", "weights_sha256")}
                model, data = self.env.learner.model, self.env.data
                save_network(self.folder, model, data, self.config, module=self._module, **facts)
                pending.enter_context(pending_json(self.folder / "result.json", sealed(result)))
            except OSError as full:
                result |= {"status": "failed", "error": f"the result was not written: {full}"}
                problem = OSError(
                    f"{self.folder / 'result.json'} cannot be written ({full.strerror}); free some "
                    f"space, then: gstds run --resume {self.folder}"
                )
            if ended and problem is None:
                with self._no_loss("plots and kept samples"):
                    self._write_artifacts()
            values = dict(result)
            if ended and problem is None:
                values["relative_compute"] = result["charged_flops"] / result["full_flops"]
                values["tracking_share"] = self.log.seconds / max(self.elapsed, 1e-9)
            self.log.log(as_logged(values, "end"), result["steps"])
            self.log.finish(result["status"])
        return result, problem

    def _result(self, status: str, test: Any, processes: int) -> dict[str, Any]:
        from gstds.envs.data.datasets import class_counts

        env, kept, ledger, at_end = self.env, self.kept, self.env.ledger, self.env.status
        reference, target = env.task.reference, read_target(self.folder)
        counts = kept.keep_sequence()
        return {name: getattr(self.config, name) for name in _OPTIONS} | {
            "run_id": self.log.run_id,
            "mlflow_run_id": target.mlflow_run_id if target else None,
            "identity": identity(self.config),
            "status": status,
            "test_accuracy": test.accuracy if test else None,
            "test_loss": _finite_or_none(test.loss) if test else None,
            "worst_class_accuracy": min(test.class_accuracy) if test else None,
            "val_accuracy": self.history[-1]["val_accuracy"] if self.history else None,
            "train_loss": _finite_or_none(at_end.train_loss),
            "mean_keep": kept.mean_keep,
            "charged_flops": ledger.charged_flops,
            "reference_flops": ledger.reference_flops,
            "full_flops": env.full_flops,
            "budget_flops": env.budget_flops,
            "flops_by_phase": dict(ledger.flops),
            "seconds": self.training_seconds(),
            "wall_seconds": self.elapsed,
            "reference_system_seconds": reference_system_seconds(np.array(kept.seconds), counts),
            "seconds_by_phase": ledger.seconds | (reference.seconds if reference else {}),
            "class_counts": class_counts(env.data),
            "steps": env.step_count,
            "processes": processes,
            "samples_trained": int(env.visits.sum()),
            "samples_drawn": kept.drawn,
            "samples_closing": len(at_end.closing),
            "skipped_updates": at_end.skipped,
            "seen": float((env.visits > 0).mean()),
            "class_coverage": mean(self.history, "class_coverage"),
            "under_budget": at_end.truncated,
            "reference_accuracy": reference.accuracy if reference else None,
            "weights_sha256": state_digest(env.learner.model.state_dict()),
            "history": self.history,
        }

    @contextlib.contextmanager
    def _no_loss(self, what: str) -> Iterator[None]:
        """Write something that is no loss; what cannot be written is told, not raised."""
        try:
            yield
        except OSError as error:
            _log.warning("%s: %s were not written: %s", self.folder, what, error)

    def _write_artifacts(self) -> None:
        from gstds.train.figures.plots import plot_run

        kept = self.folder / "kept.npz"
        self.kept.save(kept, visits=self.env.visits, order_seed=self.env.draws.seed)
        record = read_kept(kept)
        ratios = (record.counts / record.sizes).tolist()
        write_bytes(self.folder / "run.png", plot_run(self.history, ratios))
        write_json(self.folder / "history.json", self.history)
        for name in ("kept.npz", "run.png", "config.json"):
            if (self.folder / name).exists():
                self.log.log_file(self.folder / name)


def _flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with each entry of a mapping as one of its own."""
    several = {k: v if isinstance(v, dict) and v else {"": v} for k, v in params.items()}
    return {f"{k}.{one}".strip("."): v for k, inner in several.items() for one, v in inner.items()}


def _finite_or_none(value: float) -> float | None:
    """Return a number as JSON can hold it."""
    return float(value) if math.isfinite(value) else None
