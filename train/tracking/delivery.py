"""One run's delivery: from its log to MLflow, in order, nothing lost and nothing twice.

``delivery.json`` beside the log says how far it got, and which run of the store this one became. It
is replaced after each batch of up to 1,000 points. A crash between a batch and that note delivers
the batch again with the time stamps it had, which an MLflow database recognizes as the same rows;
a run is found again by its tag ``gstds.run_id``. MLflow's own queue is not used: it drops a batch
on an error.
"""

from __future__ import annotations

import getpass
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gstds.common.checksummed_json import read_sealed, write_sealed
from gstds.train.figures.frame import policy_color
from gstds.train.tracking.log import LOG_NAME, read_log
from gstds.train.tracking.store import client as make_client
from gstds.train.tracking.store import mask_secrets, prepare_store
from gstds.train.tracking.views import describe_experiment, place_view

if TYPE_CHECKING:
    from mlflow.entities import Dataset, Run

__all__ = ["ID_TAG", "SUPERSEDED_TAG", "Delivery", "Target", "note_target", "read_target"]

_log = logging.getLogger(__name__)

ID_TAG = "gstds.run_id"
SUPERSEDED_TAG = "superseded"
_NOTE_NAME = "delivery.json"
_BATCH = 1000
_MOST_TAGS = 100
_LONGEST = {"params": 6000, "tags": 8000}
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "diverged": "FAILED"}
_STATUS |= {"interrupted": "KILLED"}


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


def read_target(folder: Path) -> Target | None:
    """Return where a folder's run is delivered; None if it is not, or the note is damaged."""
    try:
        target = Target(**read_sealed(folder / _NOTE_NAME))
    except (OSError, ValueError, TypeError):
        return None
    return target if isinstance(target.offset, int) and target.offset >= 0 else None


def note_target(folder: Path, uri: str, experiment: str, run_id: str) -> Target:
    """Note where a run is to be delivered, unless that stands there; what was delivered stays."""
    shown = uri if mask_secrets(uri) == uri else None
    there = read_target(folder)
    if there and (there.uri, there.experiment, there.run_id) == (shown, experiment, run_id):
        return there
    target = Target(shown, experiment, run_id)
    write_sealed(folder / _NOTE_NAME, asdict(target))
    return target


class Delivery:
    """Delivers what a folder's log holds.

    Args:
        folder: The run's folder.
        uri: The store.
        experiment: The experiment, if the folder names none.
    """

    def __init__(self, folder: Path, uri: str, experiment: str = "gstds") -> None:
        self.folder, self.uri = folder, uri
        self._client = make_client(uri)
        head = next((line for line, _ in read_log(folder / LOG_NAME)), {})
        if head.get("kind") != "run":
            raise ValueError(f"{folder / LOG_NAME} does not begin with a run; it is damaged")
        there = read_target(folder)
        target = note_target(folder, uri, there.experiment if there else experiment, head["run_id"])
        self.target = self._checked(target)
        self.ended = False
        self._log_file = (folder / LOG_NAME).stat().st_ino

    def is_of_another_log(self) -> bool:
        """Return whether another run has begun in the folder."""
        return (self.folder / LOG_NAME).stat().st_ino != self._log_file

    def _checked(self, target: Target) -> Target:
        """Return the target, from the beginning if the store does not know the run (any more)."""
        from mlflow.exceptions import MlflowException

        if target.mlflow_run_id is None:
            return replace(target, offset=0)
        try:
            run = self._client.get_run(target.mlflow_run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return replace(target, mlflow_run_id=None, offset=0)
        if run.info.lifecycle_stage != "active":
            raise ValueError(
                f"run {target.mlflow_run_id} was deleted in {mask_secrets(self.uri)}; restore it "
                f"there, or delete {self.folder / _NOTE_NAME} to deliver it anew"
            )
        return target

    def deliver(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Deliver what waits; return how many points that were.

        Args:
            stop: Asked before each call whether to leave the rest.

        Raises:
            Exception: Whatever MLflow raises; what was delivered before is noted.
            ValueError: If the log is damaged.
        """
        count = 0
        for kind, content, offset in self._batches():
            if stop():
                return count
            self._send(kind, content)
            self.target = replace(self.target, offset=offset)
            write_sealed(self.folder / _NOTE_NAME, asdict(self.target))
            self.ended = kind == "end"
            count += len(content) if kind == "metrics" else 0
        return count

    def _batches(self) -> Iterator[tuple[str, Any, int]]:
        """Yield kind, content and the offset behind it; points joined to batches."""
        points: list[tuple[str, float, int, int]] = []
        end = self.target.offset
        for line, offset in read_log(self.folder / LOG_NAME, end):
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
                f"{self.folder / LOG_NAME} names {line['file']!r}, which is no file of this "
                "folder; it was changed: remove that line"
            )
        if not path.is_file():
            _log.warning("the artifact %s is gone and was not delivered", path)
            return
        self._client.log_artifact(self._id, str(path), line["folder"] or None)

    def _send_view(self, line: Mapping[str, Any]) -> None:
        experiment_id = self._client.get_run(self._id).info.experiment_id
        place_view(self.uri, experiment_id, line["name"], line["policies"])

    def _send_end(self, line: Mapping[str, Any]) -> None:
        self._client.set_tag(self._id, "status", line["status"])
        self._client.set_terminated(self._id, _STATUS[line["status"]], end_time=line["time"])

    # ------------------------------------------------------------------ the head

    def _send_run(self, line: Mapping[str, Any]) -> None:
        """Create the run, or find what an interrupted delivery created, and describe it."""
        experiment_id = prepare_store(self.uri, self.target.experiment)
        found = self._search(experiment_id, [_equals(ID_TAG, line["run_id"])])
        run = found[0] if found else self._create(experiment_id, line)
        self.target = replace(self.target, mlflow_run_id=run.info.run_id)
        run = self._client.get_run(self._id)
        notes = {"mlflow.note.content": line["description"]} if line["description"] else {}
        self._write(
            self._shortened("params", line["params"]),
            self._shortened("tags", {**line["tags"], **notes}),
        )
        if line["data"] and not (run.inputs and run.inputs.dataset_inputs):
            from mlflow.entities import DatasetInput, InputTag

            context = InputTag("mlflow.data.context", "training")
            inputs = [DatasetInput(_dataset(line["data"]), [context])]
            self._client.log_inputs(self._id, datasets=inputs)
        self._supersede(experiment_id, line["tags"])
        describe_experiment(self._client, experiment_id)
        place_view(self.uri, experiment_id)

    def _create(self, experiment_id: str, line: Mapping[str, Any]) -> Run:
        policy = line["tags"].get("policy")
        tags = {
            ID_TAG: line["run_id"],
            "mlflow.user": _user(),
            "mlflow.source.name": "gstds",
            "mlflow.source.type": "LOCAL",
            "mlflow.runColor": policy_color(policy) if policy else "#000000",
        }
        commit = line["tags"].get("git_commit")
        if commit:
            tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
        return self._client.create_run(experiment_id, line["time"], tags, line["name"])

    def _search(self, experiment_id: str, filters: list[str]) -> list[Run]:
        return list(self._client.search_runs([experiment_id], " AND ".join(filters)))

    def _supersede(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Let the views leave out the runs whose place this one has taken."""
        if "folder" not in tags or "kind" not in tags:
            return
        place = [_equals(key, tags[key]) for key in ("folder", "kind")]
        for run in self._search(experiment_id, [*place, f"tags.{SUPERSEDED_TAG} IS NULL"]):
            if run.info.run_id != self._id:
                self._client.set_tag(run.info.run_id, SUPERSEDED_TAG, self._id)

    def _shortened(
        self, kind: Literal["params", "tags"], values: Mapping[str, str]
    ) -> dict[str, str]:
        """Write values that MLflow would cut as artifacts, and refer to them."""
        short: dict[str, str] = {}
        for key, text in values.items():
            short[key] = text
            if len(text) > _LONGEST[kind]:
                path = f"{kind}/{key.replace('/', '_')}.txt"
                self._client.log_text(self._id, text, path)
                short[key] = f"see artifact {path} ({len(text)} characters)"
        return short

    def _write(self, params: dict[str, str], tags: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        param_list = [Param(key, value) for key, value in params.items()]
        tag_list = [RunTag(key, value) for key, value in tags.items()]
        for i in range(0, max(len(param_list), len(tag_list)), _MOST_TAGS):
            part = slice(i, i + _MOST_TAGS)
            self._client.log_batch(self._id, params=param_list[part], tags=tag_list[part])


def _equals(tag: str, value: str) -> str:
    quote = '"' if "'" in value else "'"
    return f"tags.`{tag}` = {quote}{value}{quote}"


def _dataset(data: Mapping[str, Any]) -> Dataset:
    from mlflow.entities import Dataset

    def tensors(dtype: str, *shape: int) -> str:
        spec = {"dtype": dtype, "shape": [-1, *shape]}
        return json.dumps([{"type": "tensor", "tensor-spec": spec}])

    spec = {"features": tensors("uint8", *data["shape"]), "targets": tensors("int64")}
    profile = {"rows": data["rows"], "classes": data["classes"], "image_shape": data["shape"]}
    return Dataset(
        name=data["name"][:500],
        digest=data["digest"][:36],
        source_type="code",
        source=json.dumps({"source": mask_secrets(data["source"])}),
        schema=json.dumps({"mlflow_tensorspec": spec}),
        profile=json.dumps(profile),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
