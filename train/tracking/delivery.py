"""One run's delivery: from its log to MLflow, in order, nothing lost and nothing twice.

``delivery.json`` beside the log says how far it got, and which run of the store this one became. It
is replaced after each batch of up to 1,000 points. A crash between a batch and that note delivers
the batch again with the time stamps it had, which an MLflow database recognizes as the same rows;
a run is found again by its tag ``gstds.run_id``. MLflow's own queue is not used: it drops a batch
on an error.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.checksummed_json import read_sealed, write_sealed
from gstds.common.files import locked
from gstds.train.figures.plots import policy_color
from gstds.train.tracking import store
from gstds.train.tracking.log import LOG_NAME, STATUSES, read_log
from gstds.train.tracking.ui import AGENTS, describe_experiment, place_view, row_label

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run


_log = logging.getLogger(__name__)

ID_TAG = "gstds.run_id"
SUPERSEDED_TAG = "superseded"
_NOTE_NAME = "delivery.json"
_BATCH = 1000
_MOST_RUNS = 50_000  # that MLflow finds at once
_LONGEST = {"params": 6000, "tags": 8000}


@dataclass(frozen=True)
class Target:
    """Where a run is delivered.

    Attributes:
        uri: The store; None if its address holds a secret, which stands in no file.
        experiment: Its experiment.
        run_id: The run's own id.
        mlflow_run_id: What it is called there; None until it is there.
        offset: Bytes of the log that were delivered.
    """

    uri: str | None
    experiment: str
    run_id: str | None = None
    mlflow_run_id: str | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no target, whatever a file says."""
        texts = (self.uri, self.experiment, self.run_id, self.mlflow_run_id)
        whole = isinstance(self.offset, int) and self.offset >= 0
        if not whole or not all(isinstance(text, str | None) for text in texts):
            raise TypeError(f"no target of a delivery: {self}")


def read_target(folder: Path) -> Target | None:
    """Return where a folder's run is delivered, by its note, or else by its configuration.

    None if neither says it, or can be read.
    """
    unreadable = (OSError, ValueError, TypeError, KeyError)
    with contextlib.suppress(*unreadable):
        return Target(**read_sealed(folder / _NOTE_NAME))
    with contextlib.suppress(*unreadable):
        return Target(**read_sealed(folder / "config.json")["tracking"])
    return None


def note_target(folder: Path, uri: str, experiment: str, run_id: str) -> Target:
    """Note where a run is to be delivered, unless that stands there; what was delivered stays."""
    shown = uri if store.mask_secrets(uri) == uri else None
    there = read_target(folder)
    if there and (there.uri, there.experiment, there.run_id) == (shown, experiment, run_id):
        return there
    target = Target(shown, experiment, run_id)
    write_sealed(folder / _NOTE_NAME, asdict(target))
    return target


def find_run(what: str, run: str, uri: str | None = None) -> Path:
    """Return the folder of a run, which is named by that, by its own id, or by MLflow's.

    Args:
        what: What messages call the argument.
        run: The folder or the id.
        uri: The store that is asked; None as for `gstds.train.tracking.store.tracking_uri`.

    Raises:
        ValueError: If there is no such run.
    """
    if Path(run).is_dir():
        if (Path(run) / "comparison.json").exists():
            raise ValueError(f"{what} {run!r} is a comparison; name one of the runs in {run}/runs")
        return Path(run)
    try:
        return folder_of(run, store.tracking_uri(uri))
    except Exception as error:
        raise ValueError(f"{what} {run!r} is neither a folder nor the id of a run") from error


def folder_of(run: str, uri: str) -> Path:
    """Return the folder of a run, by its own id or by MLflow's; imports no MLflow here.

    The folders in ``runs`` are looked through first; then a process of its own asks the store.

    Raises:
        LookupError: If neither knows the run.
    """
    for note in sorted(Path("runs").rglob(_NOTE_NAME)):
        target = read_target(note.parent)
        if target and run in (target.run_id, target.mlflow_run_id):
            return note.parent
    if not store.store_exists(uri):
        raise LookupError(f"there is no {uri}, and no run {run!r} in runs")
    with ProcessPoolExecutor(1, get_context("spawn")) as helper:
        return Path(helper.submit(_folder_in_store, run, uri).result())


def _folder_in_store(run: str, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    client = store.client(uri)
    every = [experiment.experiment_id for experiment in client.search_experiments()]
    try:
        found = client.search_runs(every, store.equals(f"`{ID_TAG}`", run), max_results=1)
        return str((found[0] if found else client.get_run(run)).data.tags["folder"])
    except (MlflowException, KeyError):
        raise LookupError(f"no run {run!r} in runs or in {store.mask_secrets(uri)}") from None


class Delivery:
    """Delivers what a folder's log holds.

    Args:
        folder: The run's folder.
        uri: The store.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri, self.log = folder, uri, folder / LOG_NAME

    def deliver(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Deliver what waits, once nobody else delivers to the store; return how many points.

        Args:
            stop: Asked before each call whether to leave the rest.

        Raises:
            ConnectionError: If the store does not answer, or does not take something; what was
                delivered before is noted.
            FileNotFoundError: If there is no log.
            ValueError: If the log is damaged, or the run was deleted in the store.
        """
        head = next((line for line, _ in read_log(self.log)), {})
        if head.get("kind") != "run":
            raise ValueError(f"{self.log} does not begin with a run; it is damaged")
        with locked(store.uploads_folder(self.uri) / "delivery.lock", keep=False):
            noted = read_target(self.folder)
            experiment = noted.experiment if noted else "gstds"
            self.target = note_target(self.folder, self.uri, experiment, head["run_id"])
            if self.target.offset == self.log.stat().st_size:
                return 0
            try:
                return self._deliver(stop)
            except (ConnectionError, ValueError):
                raise
            except Exception as error:  # whatever MLflow raises
                raise ConnectionError(
                    f"{self.folder} could not be delivered to {store.mask_secrets(self.uri)}: "
                    f"{store.reason_of(error)}; the rest stays in {self.log}"
                ) from error

    def _deliver(self, stop: Callable[[], bool]) -> int:
        store.probe_store(self.uri)
        self._client = store.client(self.uri)
        self._find_run()
        count = 0
        for kind, content, offset in self._batches():
            if stop():
                break
            self._send(kind, content)
            self.target = replace(self.target, offset=offset)
            write_sealed(self.folder / _NOTE_NAME, asdict(self.target))
            count += len(content) if kind == "metrics" else 0
        return count

    def _find_run(self) -> None:
        """Begin from the beginning if the store does not know the run (any more)."""
        from mlflow.exceptions import MlflowException

        if self.target.mlflow_run_id is None:
            return
        try:
            run = self._client.get_run(self._id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self.target = replace(self.target, mlflow_run_id=None, offset=0)
            return
        if run.info.lifecycle_stage != "active":
            raise ValueError(
                f"run {self._id} was deleted in {store.mask_secrets(self.uri)}; restore it "
                f"there, or delete {self.folder / _NOTE_NAME} to deliver it anew"
            )

    def _batches(self) -> Iterator[tuple[str, Any, int]]:
        """Yield kind, content and the offset behind it; points joined to batches."""
        points: list[tuple[str, float, int, int]] = []
        end = self.target.offset
        for line, offset in read_log(self.log, end):
            plain = line["kind"] == "metrics"
            if points and (not plain or len(points) + len(line["values"]) > _BATCH):
                yield "metrics", points, end
                points = []
            if plain:
                points += [
                    (key, math.nan if value is None else value, line["time"], line["step"])
                    for key, value in line["values"].items()
                ]
            else:
                yield line["kind"], line, offset
            end = offset
        if points:
            yield "metrics", points, end

    def _send(self, kind: str, content: Any) -> None:
        try:
            getattr(self, f"_send_{kind}", self._send_unknown)(content)
        except Exception as error:
            if getattr(error, "error_code", None) != "INVALID_PARAMETER_VALUE":
                raise
            # Sending it again would be refused for ever and hold up everything behind it.
            _log.warning("%s: MLflow refused what was logged: %s", self.folder, error)

    def _send_unknown(self, line: Mapping[str, Any]) -> None:
        _log.warning("%s: a line of kind %r is left out", self.folder, line["kind"])

    @property
    def _id(self) -> str:
        return str(self.target.mlflow_run_id)

    def _send_metrics(self, points: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        for i in range(0, len(points), _BATCH):
            metrics = [Metric(*point) for point in points[i : i + _BATCH]]
            self._client.log_batch(self._id, metrics=metrics)

    def _send_resumed(self, line: Mapping[str, Any]) -> None:
        self._client.update_run(self._id, status="RUNNING")

    def _send_file(self, line: Mapping[str, Any]) -> None:
        path = self.folder / line["file"]
        if path.is_symlink() or not path.resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(
                f"{self.log} names {line['file']!r}, which is no file of this "
                "folder; it was changed: remove that line"
            )
        if path.is_file():
            self._client.log_artifact(self._id, str(path), line["folder"] or None)
        else:
            _log.warning("the artifact %s is gone and was not delivered", path)

    def _send_view(self, line: Mapping[str, Any]) -> None:
        experiment_id = self._client.get_run(self._id).info.experiment_id
        view = line["name"], line["rows"], line["zoom"], line.get("swept", ())
        place_view(self.uri, experiment_id, *view)
        self._hold(experiment_id, line)

    def _send_end(self, line: Mapping[str, Any]) -> None:
        self._client.set_tag(self._id, "status", line["status"])
        self._client.set_terminated(self._id, STATUSES[line["status"]], end_time=line["time"])

    def _send_model(self, line: Mapping[str, Any]) -> None:
        """Log the network; if that cannot be, its files as they are, and a word."""
        from gstds.train.tracking.logged_model import log_network

        if reason := log_network(self._client, self._id, self.folder):
            _log.warning("%s: of the network its weights alone are logged: %s", self.folder, reason)
            for name in ("model.json", "weights.safetensors"):
                self._send_file({"file": f"model/{name}", "folder": "model"})
            self._client.set_tag(self._id, "model", f"weights alone: {reason}")

    def _send_run(self, line: Mapping[str, Any]) -> None:
        """Create the run, or find what an interrupted delivery created, and describe it."""
        from mlflow.entities import Param, RunTag

        experiment_id = store.prepare_store(self.uri, self.target.experiment)
        found = self._search(experiment_id, store.equals(f"`{ID_TAG}`", line["run_id"]))
        run = found[0] if found else self._create(experiment_id, line)
        self.target = replace(self.target, mlflow_run_id=run.info.run_id)
        notes = {"mlflow.note.content": line["description"]} if line["description"] else {}
        params = [Param(*pair) for pair in self._shortened("params", line["params"])]
        tags = [RunTag(*pair) for pair in self._shortened("tags", line["tags"] | notes)]
        self._client.log_batch(self._id, params=params, tags=tags)
        if line["data"]:
            self._client.log_inputs(self._id, datasets=[_data_input(line["data"])])
        if {"folder", "kind"} <= line["tags"].keys():
            self._supersede(experiment_id, line["tags"])
        describe_experiment(self._client, experiment_id)
        agent = line["tags"].get("kind") == "agent"
        place_view(self.uri, experiment_id, AGENTS if agent else None)

    def _create(self, experiment_id: str, line: Mapping[str, Any]) -> Run:
        policy, commit = line["tags"].get("policy"), line["tags"].get("git_commit")
        tags = {
            ID_TAG: line["run_id"],
            "mlflow.user": _user(),
            "mlflow.source.name": "gstds",
            "mlflow.source.type": "LOCAL",
            "mlflow.runColor": policy_color(policy or line["run_id"]),
        }
        if policy:
            tags["row"] = row_label(policy, control=line["tags"].get("kind") == "control")
        if commit:
            tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
        return self._client.create_run(experiment_id, line["time"], tags, line["name"])

    def _search(self, experiment_id: str, *filters: str) -> list[Run]:
        return list(
            self._client.search_runs([experiment_id], " AND ".join(filters), max_results=_MOST_RUNS)
        )

    def _hold(self, experiment_id: str, line: Mapping[str, Any]) -> None:
        """Let the view show the runs that the comparison holds, and no others of its folder."""
        own = str(self.folder.absolute() / "runs")
        for run in self._search(experiment_id, store.equals("comparison", line["name"])):
            tags = run.data.tags
            if tags.get("folder", "").startswith(own):
                gone, marked = tags.get(ID_TAG) not in line["runs"], SUPERSEDED_TAG in tags
                if gone and not marked:
                    self._client.set_tag(run.info.run_id, SUPERSEDED_TAG, self._id)
                elif marked and not gone:
                    self._client.delete_tag(run.info.run_id, SUPERSEDED_TAG)

    def _supersede(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Let the views leave out the runs whose place this one has taken."""
        place = [store.equals(key, tags[key]) for key in ("folder", "kind")]
        for run in self._search(experiment_id, *place, f"tags.{SUPERSEDED_TAG} IS NULL"):
            if run.info.run_id != self._id:
                self._client.set_tag(run.info.run_id, SUPERSEDED_TAG, self._id)

    def _shortened(self, kind: str, values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Write values that MLflow would cut as artifacts, and refer to them."""
        for key, text in values.items():
            if len(text) <= _LONGEST[kind]:
                yield key, text
            else:
                path = f"{kind}/{key.replace('/', '_')}.txt"
                self._client.log_text(self._id, text, path)
                yield key, f"see artifact {path} ({len(text)} characters)"


def _data_input(data: Mapping[str, Any]) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    def tensors(dtype: str, *shape: int) -> str:
        spec = {"dtype": dtype, "shape": [-1, *shape]}
        return json.dumps([{"type": "tensor", "tensor-spec": spec}])

    spec = {"features": tensors("uint8", *data["shape"]), "targets": tensors("int64")}
    profile = {"rows": data["rows"], "classes": data["classes"], "image_shape": data["shape"]}
    dataset = Dataset(
        name=data["name"][:500],
        digest=data["digest"][:36],
        source_type="code",
        source=json.dumps({"source": store.mask_secrets(data["source"])}),
        schema=json.dumps({"mlflow_tensorspec": spec}),
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _user() -> str:
    with contextlib.suppress(KeyError, OSError):
        return getpass.getuser()
    return "unknown"
