"""What stands at the head of a run in MLflow: name, parameters, tags, color, data."""

from __future__ import annotations

import getpass
import json
import logging
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.train.figures.palette import policy_color
from gstds.train.tracking.store import mask_secrets

if TYPE_CHECKING:
    from mlflow.entities import Dataset, Run
    from mlflow.tracking import MlflowClient

__all__ = ["LOCAL_TAG", "DataInput", "RunRecord", "as_text", "git_commit"]

_log = logging.getLogger(__name__)

LOCAL_TAG = "local_id"
"""Tag of a run that began without its store: what it was called until then."""
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
_BATCH = 100


@dataclass(frozen=True)
class DataInput:
    """A data set as MLflow shows it beside the run, known without its images.

    Attributes:
        name: The data set's name.
        digest: Its fingerprint; the first 36 characters are shown.
        rows: Number of training images.
        classes: Number of classes.
        shape: One image's shape, such as ``(H, W, C)``.
        source: Where it comes from.
    """

    name: str
    digest: str
    rows: int
    classes: int
    shape: tuple[int, ...]
    source: str


class RunRecord:
    """Writes and reads the head of runs.

    Args:
        client: The store's client.
        uri: The store, for messages.
    """

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client = client
        self._uri = mask_secrets(uri)

    def create(
        self, experiment_id: str, name: str, tags: Mapping[str, str], begun: int | None = None
    ) -> Run:
        """Create a run; ``begun`` is the Unix time in ms, default now.

        Raises:
            ConnectionError: If the store refuses.
        """
        own = {
            **({LOCAL_TAG: tags[LOCAL_TAG]} if LOCAL_TAG in tags else {}),
            "mlflow.user": _user(),
            "mlflow.source.name": "gstds",
            "mlflow.source.type": "LOCAL",
        }
        if "policy" in tags:
            own["mlflow.runColor"] = policy_color(tags["policy"])
        commit = git_commit()
        if commit:
            own |= {"mlflow.source.git.commit": commit.removesuffix("-dirty"), "git_commit": commit}
        return self._client.create_run(experiment_id, begun, tags=own, run_name=name)

    def open(self, run_id: str) -> Run:
        """Open a run again that ended or was cut off.

        Raises:
            ValueError: If the store has no such run, or it was deleted.
        """
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            raise ValueError(
                f"run {run_id!r} is not in {self._uri} ({_first_line(error)}); resume it with the "
                "tracking URI that it was started with"
            ) from error
        if run.info.lifecycle_stage != "active":
            raise ValueError(f"run {run_id!r} in {self._uri} was deleted; restore it there first")
        self._client.update_run(run_id, status="RUNNING")
        return run

    def describe(
        self,
        run: Run,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        description: str = "",
        data: DataInput | None = None,
    ) -> None:
        """Write parameters, tags, description and data; what stands there already stays."""
        run_id = run.info.run_id
        notes = {"mlflow.note.content": description} if description else {}
        wanted = {key: as_text(value) for key, value in params.items()}
        new = {key: value for key, value in wanted.items() if key not in run.data.params}
        self._warn_of_changes(run, wanted)
        self._write(
            run_id,
            self._shortened(run_id, "params", new, PARAM_LENGTH),
            self._shortened(run_id, "tags", {**tags, **notes}, TAG_LENGTH),
        )
        if data is not None and not (run.inputs and run.inputs.dataset_inputs):
            self._write_input(run_id, data)

    def last_steps(self, run: Run) -> dict[str, int]:
        """Return the last step that the store holds of each of the run's metrics."""
        latest = getattr(run.data, "_metric_objs", None)
        if latest is None:
            history = self._client.get_metric_history
            latest = [m for key in run.data.metrics for m in history(run.info.run_id, key)]
        last: dict[str, int] = {}
        for metric in latest:
            last[metric.key] = max(metric.step, last.get(metric.key, metric.step))
        return last

    def _shortened(
        self, run_id: str, kind: str, values: Mapping[str, str], longest: int
    ) -> dict[str, str]:
        """Write values that MLflow would cut as artifacts, and refer to them."""
        short: dict[str, str] = {}
        for key, value in values.items():
            text = mask_secrets(str(value))
            if len(text) > longest:
                path = f"{kind}/{key.replace('/', '_')}.txt"
                self._client.log_text(run_id, text, path)
                text = f"see artifact {path} ({len(text)} characters)"
            short[key] = text
        return short

    def _write(self, run_id: str, params: dict[str, str], tags: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        param_list = [Param(key, value) for key, value in params.items()]
        tag_list = [RunTag(key, value) for key, value in tags.items()]
        for i in range(0, max(len(param_list), len(tag_list)), _BATCH):
            part = slice(i, i + _BATCH)
            self._client.log_batch(run_id, params=param_list[part], tags=tag_list[part])

    def _write_input(self, run_id: str, data: DataInput) -> None:
        from mlflow.entities import DatasetInput, InputTag

        context = InputTag("mlflow.data.context", "training")
        self._client.log_inputs(run_id, datasets=[DatasetInput(_dataset(data), [context])])

    def _warn_of_changes(self, run: Run, wanted: Mapping[str, str]) -> None:
        there = run.data.params
        changed = [k for k, v in wanted.items() if len(v) <= PARAM_LENGTH and there.get(k, v) != v]
        if changed:
            _log.warning(
                "run %s goes on with other parameters than it was started with: %s",
                run.info.run_id,
                ", ".join(sorted(changed)),
            )


def git_commit(folder: Path | None = None) -> str | None:
    """Return the commit of the sources, with ``-dirty`` behind it if they were changed.

    Args:
        folder: A folder of sources; default that of this package.

    Returns:
        40 hexadecimal digits, or None if the sources are not under git's control.
    """
    return _commit_of(folder) if folder else _own_commit()


@cache
def _own_commit() -> str | None:
    """Return this package's commit as it was when first asked: three processes, once."""
    return _commit_of(Path(__file__).parent)


def _commit_of(place: Path) -> str | None:
    if not _git(place, "ls-files", "--", "."):
        return None
    commit = _git(place, "rev-parse", "HEAD")
    dirty = _git(place, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and dirty else commit or None


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _dataset(data: DataInput) -> Dataset:
    from mlflow.entities import Dataset

    def tensors(dtype: str, *shape: int) -> str:
        spec = {"dtype": dtype, "shape": [-1, *shape]}
        return json.dumps([{"type": "tensor", "tensor-spec": spec}])

    spec = {"features": tensors("uint8", *data.shape), "targets": tensors("int64")}
    profile = {"rows": data.rows, "classes": data.classes, "image_shape": list(data.shape)}
    return Dataset(
        name=data.name[:500],
        digest=data.digest[:36],
        source_type="code",
        source=json.dumps({"source": mask_secrets(data.source)}),
        schema=json.dumps({"mlflow_tensorspec": spec}),
        profile=json.dumps(profile),
    )


def as_text(value: Any) -> str:
    """Return a parameter's value as MLflow shows it, without secrets."""
    if isinstance(value, dict | list | tuple):
        return mask_secrets(json.dumps(value, default=str))
    return mask_secrets(str(value))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
