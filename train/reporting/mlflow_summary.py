"""A comparison in MLflow: a summary run, descriptions, saved views. Best effort, all of it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.train.figures.tables import caption, comparison_table
from gstds.train.reporting.tables import controls_table
from gstds.train.tracking.store import client as make_client
from gstds.train.tracking.store import mask_secrets, prepare_store
from gstds.train.tracking.views import place_view

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["STATISTICS", "fetch_comparison", "publish", "summary_metrics"]

_log = logging.getLogger(__name__)
Content = Mapping[str, Any]

STATISTICS = {
    "accuracy": "mean",
    "accuracy_ci95": "ci95",
    "difference": "difference",
    "difference_ci95": "difference_ci95",
    "effect_size": "effect_size",
    "p_value": "p_value",
    "p_holm": "p_holm",
    "sign_flip_p": "sign_flip_p",
    "worst_class_accuracy": "worst_class_accuracy",
    "mean_keep": "mean_keep",
    "class_coverage": "class_coverage",
    "seen": "seen",
    "charged_flops": "charged_flops",
    "charged_flops_with_shared_reference": "charged_flops_with_shared_reference",
    "charged_flops_with_reference": "charged_flops_with_reference",
    "relative_compute": "relative_compute",
    "seconds": "seconds",
    "relative_seconds": "relative_seconds",
    "reference_system_seconds": "reference_system_seconds",
    "relative_system_seconds": "relative_system_seconds",
    "runs": "n",
}
"""Metric of the summary run, between ``summary/`` and ``/POLICY``, and its key in the JSON."""

_AGAINST_CONTROL = {
    "control_difference": "difference",
    "control_difference_ci95": "difference_ci95",
    "control_p_value": "p_value",
}
_BATCH = 500
_LONGEST_NOTE = 7800
_MARK = "<!-- gstds -->"
_ABOUT = f"""{_MARK}
Runs of `gstds run` and `gstds compare`. Each run has the tags `policy`, `seed`, `dataset` and
`comparison`; the tag `kind` tells runs (`run`) from the controls that a comparison makes by itself
(`control`) and from the run that holds a comparison's statistics and its report (`summary`).
The menu *Views* holds a view of each comparison, grouped by policy; `gstds ui` opens the newest.
What every metric means stands in `docs/tracking.md`.
"""


def publish(uri: str, experiment: str, content: Content, paths: Mapping[str, Path]) -> None:
    """Put a comparison into the store: its summary run, its view, a word about the experiment.

    Whatever the store does not take is left out with a warning: the comparison stands without it.

    Args:
        uri: The store.
        experiment: The experiment's name.
        content: The comparison, as `gstds.train.comparing.compare.compare` returns it.
        paths: The report's files.
    """
    try:
        experiment_id = prepare_store(uri, experiment)
        client = make_client(uri)
    except Exception as error:
        _log.warning("the comparison was not put into MLflow: %s", mask_secrets(str(error)))
        return
    name = str(content["name"])
    _try("the experiment was not described", lambda: _describe_experiment(client, experiment_id))
    place_view(uri, experiment_id)
    runs = [*content["runs"], *content.get("controls", ())]
    place_view(uri, experiment_id, name, sorted({str(run["policy"]) for run in runs}))
    if content["summary"]:
        _try("no summary run", lambda: _publish_summary(client, experiment_id, content, paths))


def _try(problem: str, action: Callable[[], Any]) -> None:
    try:
        action()
    except Exception as error:
        _log.warning("%s in MLflow: %s", problem, mask_secrets(str(error)))


def _describe_experiment(client: MlflowClient, experiment_id: str) -> None:
    """Write the description, unless the user wrote one."""
    there = client.get_experiment(experiment_id).tags.get("mlflow.note.content", "")
    if there != _ABOUT and (not there or there.startswith(_MARK)):
        client.set_experiment_tag(experiment_id, "mlflow.note.content", _ABOUT)


# ---------------------------------------------------------------------------------- summary run


def summary_metrics(content: Content) -> dict[str, float]:
    """Return a comparison's statistics as metrics ``summary/STATISTIC/POLICY``."""
    rows = [*content["summary"], *content.get("controls_summary", ())]
    values = dict(_named(rows, STATISTICS))
    same_keep = [r for r in content.get("against_controls", ()) if r["same"] == "keep sequence"]
    return values | dict(_named(same_keep, _AGAINST_CONTROL))


def _named(rows: Sequence[Content], names: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for row in rows:
        policy = re.sub(r"[^\w.\- ]+", "-", str(row["policy"]))
        for metric, key in names.items():
            if row.get(key) is not None:
                yield f"summary/{metric}/{policy}", float(row[key])


def _publish_summary(
    client: MlflowClient, experiment_id: str, content: Content, paths: Mapping[str, Path]
) -> None:
    """Replace the comparison's summary run, unless it says the same already."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    folder = str(next(iter(paths.values())).parent.absolute())
    old = [run for run in _summaries(client, experiment_id, str(content["name"]))
           if run.data.tags.get("folder") == folder]  # fmt: skip
    if len(old) == 1 and old[0].data.tags.get("digest") == digest:
        return
    run_id = _create(client, experiment_id, content, folder)
    _log_metrics(client, run_id, summary_metrics(content))
    for path in (*paths.values(), Path(folder) / "comparison.json"):
        if path.exists():
            client.log_artifact(run_id, str(path))
    # Only a whole one has the digest: one that was cut off is made anew.
    client.set_tag(run_id, "digest", digest)
    client.set_terminated(run_id, "FINISHED")
    for run in old:
        client.delete_run(run.info.run_id)


def _summaries(client: MlflowClient, experiment_id: str, name: str) -> list[Any]:
    quote = '"' if "'" in name else "'"
    query = f"tags.comparison = {quote}{name}{quote} AND tags.kind = 'summary'"
    return list(client.search_runs([experiment_id], query, order_by=["start_time DESC"]))


def _create(client: MlflowClient, experiment_id: str, content: Content, folder: str) -> str:
    config = content["config"]
    tags = {
        "comparison": str(content["name"]),
        "kind": "summary",
        "folder": folder,
        "dataset": str(config["dataset"]),
        "setting": str(content["setting"]),
        "baseline": str(content["baseline"]),
        "mlflow.runColor": "#000000",
        "mlflow.source.name": "gstds",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": _note(content),
    }
    run = client.create_run(experiment_id, tags=tags, run_name=f"summary of {content['name']}")
    params = {name: config[name] for name in ("learner", "epochs", "batch_size", "schedule")}
    for name, value in params.items():
        client.log_param(run.info.run_id, name, value)
    return str(run.info.run_id)


def _note(content: Content) -> str:
    """Return the result as Markdown, as much of it as a tag holds."""
    parts = [
        "The statistics of a comparison; `report.html` among the artifacts has the plots.",
        comparison_table(content["summary"]).markdown(),
        caption(content["summary"], setting=content["setting"]),
        f"    {mask_secrets(str(content['command']))}",
    ]
    if content.get("against_controls"):
        parts.insert(3, controls_table(content["against_controls"]).markdown())
    while len("\n\n".join(parts)) > _LONGEST_NOTE and len(parts) > 1:
        parts.pop()
    return "\n\n".join(parts)[:_LONGEST_NOTE]


def _log_metrics(client: MlflowClient, run_id: str, values: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    metrics = [Metric(name, value, now, 0) for name, value in values.items()]
    for i in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[i : i + _BATCH])


# ---------------------------------------------------------------------------------- back again


def fetch_comparison(uri: str, experiment: str, name: str, place: Path) -> Path:
    """Return the folder of a comparison by its name in the store.

    Args:
        uri: The store.
        experiment: The experiment's name.
        name: The comparison's.
        place: Where to put its ``comparison.json`` if the folder is not on this machine.

    Raises:
        ValueError: If the store has no such comparison.
        ConnectionError: If the store does not answer.
    """
    path = uri.removeprefix("sqlite:///")
    found: list[Any] = []
    if path == uri or Path(path).exists():
        client = make_client(uri)
        found = _summaries(client, prepare_store(uri, experiment), name)
    if not found:
        raise ValueError(
            f"{name!r} is neither a folder with comparison.json nor a comparison in experiment "
            f"{experiment!r} of {mask_secrets(uri)}"
        )
    folder = Path(found[0].data.tags.get("folder", ""))
    if (folder / "comparison.json").is_file():
        return folder
    place.mkdir(parents=True, exist_ok=True)
    client.download_artifacts(found[0].info.run_id, "comparison.json", str(place))
    return place
