"""A comparison's own log, which becomes its summary run in MLflow; and the way back."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gstds.common.files import sha256
from gstds.options.fields import by_group
from gstds.train.figures.statistics import with_holm
from gstds.train.figures.tables import (
    as_logged,
    caption,
    comparison_table,
    drawn_name,
    metric_table,
)
from gstds.train.running.options import RunConfig
from gstds.train.tracking.delivery import SUPERSEDED_TAG
from gstds.train.tracking.log import LOG_NAME, RunLog, read_log
from gstds.train.tracking.store import client as make_client
from gstds.train.tracking.store import equals, mask_secrets, prepare_store, store_exists
from gstds.train.tracking.ui import row_label
from gstds.train.tracking.uploader import Upload, deliver_waiting

_log = logging.getLogger(__name__)
Content = Mapping[str, Any]

_LONGEST_NOTE = 7800
_NARROWEST = 5.0  # points that a chart of accuracies shows below the lowest end
_PARAMETERS = ("learner.learner", "budget.epochs", "budget.batch_size", "policy.schedule")


def publish(upload: Upload, content: Content, paths: Mapping[str, Path]) -> None:
    """Log a comparison in its folder, and ask for its delivery: its summary run and its view.

    What stands there already, because the same command ran before, is not logged again.

    Args:
        upload: Where it goes.
        content: The comparison, as `gstds.train.comparing.compare.compare` returns it.
        paths: The report's files.
    """
    held = [(run, key) for key in ("runs", "controls") for run in content.get(key, ())]
    rows = {row_label(str(run["policy"]), control=key == "controls") for run, key in held}
    config, tags = content["config"], {key: content[key] for key in ("setting", "baseline")}
    head: dict[str, Any] = {"params": {key: config[key.partition(".")[2]] for key in _PARAMETERS}}
    head |= {"tags": tags | {"kind": "summary"}, "description": _note(content)}
    view = {"rows": sorted(rows), "zoom": _zoom(content)}
    files = [*paths.values(), next(iter(paths.values())).with_name("comparison.json")]
    _publish(upload, content, head, summary_metrics(content), files, view)


def publish_sweep(
    upload: Upload, content: Content, files: Sequence[Path], swept: Mapping[str, bool]
) -> None:
    """Log a sweep in its folder, and ask for its delivery: a run with its page, and its view.

    Args:
        upload: Where it goes.
        content: The sweep, as it stands in ``sweep.json``.
        files: The sweep's files.
        swept: The keys that are varied, and whether all their values are numbers.
    """
    groups = {name.partition(".")[2]: name for name in by_group(RunConfig())}
    names = []
    for key, numeric in swept.items():
        place, _, last = key.rpartition(".")
        kind = "schedule" if place == "schedule" else "policy"
        name = groups.get(key, f"policy.{kind}_params.{last}")
        names.append(f"param/{name}" if numeric else name)
    head = {"params": {}, "tags": {"kind": "sweep"}, "description": "The page of a sweep."}
    view = {"rows": sorted({row_label(str(r["policy"]), control=False) for r in content["runs"]})}
    _publish(upload, content, head, {}, files, view | {"zoom": {}, "swept": names})


def _publish(
    upload: Upload,
    content: Content,
    head: dict[str, Any],
    metrics: Mapping[str, float],
    files: Sequence[Path],
    view: Mapping[str, Any],
) -> None:
    folder, name = files[0].parent.absolute(), str(content["name"])
    log, path = RunLog(folder), folder / LOG_NAME
    digest = sha256(json.dumps(content, sort_keys=True, default=str))
    tags = {"comparison": name, "folder": folder, "dataset": content["config"]["dataset"]}
    tags |= {"digest": digest} | head["tags"]
    head |= {"name": f"{tags['kind']} of {name}", "tags": {k: str(v) for k, v in tags.items()}}
    try:
        there = next(read_log(path), ({}, 0))[0] if path.exists() else {}
        same = there.get("tags", {}).get("digest") == digest
        log.begin(**head, resume=same)
    except (OSError, ValueError) as error:
        _log.warning("the comparison is not logged: %s", error)
        return
    if not same:
        log.log(metrics, 0)
        for file in files:
            if file.exists():
                log.log_file(file)
        runs = [str(run["run_id"]) for key in ("runs", "controls") for run in content.get(key, ())]
        log.log_view(runs, name=name, **view)
    log.finish("finished")
    upload.begin(folder, log.run_id)


def _zoom(content: Content) -> dict[str, list[float]]:
    """Return where the curves end, and what lies shortly below, by the metric's name."""
    runs = (*content["runs"], *content.get("controls", ()))
    ends = [100 * run["val_accuracy"] for run in runs if run.get("val_accuracy") is not None]
    if not ends:
        return {}
    spread = max(_NARROWEST, max(ends) - min(ends))
    low, high = max(0.0, min(ends) - spread), min(101.0, max(ends) + 0.2 * spread)
    return {drawn_name("val_accuracy"): [round(low, 1), round(high, 1)]}


def summary_metrics(content: Content) -> dict[str, float]:
    """Return a comparison's statistics as metrics ``summary/STATISTIC/POLICY``."""
    rows = [*content["summary"], *content.get("controls_summary", ())]
    pairs = [r for r in content.get("against_controls", ()) if r["same"] == "keep sequence"]
    return {
        name.replace("POLICY", re.sub(r"[^\w.\- ]+", "-", str(row["policy"]))): float(value)
        for when, several in (("summary", rows), ("control", pairs))
        for row in several
        for name, value in as_logged(row, when).items()
    }


def _note(content: Content) -> str:
    """Return the result as Markdown, as much of it as a tag holds."""
    parts = [
        "The statistics of a comparison; `report.html` among the artifacts has the plots.",
        comparison_table(content["summary"]).markdown(),
        caption(content["summary"], setting=content["setting"]),
        f"    {mask_secrets(str(content['command']))}",
    ]
    if content.get("against_controls"):
        pairs = with_holm(content["against_controls"])
        parts.insert(3, metric_table("controls", pairs).markdown())
    while len("\n\n".join(parts)) > _LONGEST_NOTE and len(parts) > 1:
        parts.pop()
    return "\n\n".join(parts)[:_LONGEST_NOTE]


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
    deliver_waiting(uri)
    query = f"{equals('comparison', name)} AND tags.kind = 'summary'"
    query += f" AND tags.{SUPERSEDED_TAG} IS NULL"
    found: Sequence[Any] = ()
    if store_exists(uri):
        place_of, client = prepare_store(uri, experiment), make_client(uri)
        found = client.search_runs([place_of], query, order_by=["start_time DESC"])
    if not found:
        what = f"a comparison in experiment {experiment!r} of {mask_secrets(uri)}"
        raise ValueError(f"{name!r} is neither a folder with comparison.json nor {what}")
    folder = Path(found[0].data.tags.get("folder", ""))
    if (folder / "comparison.json").is_file():
        return folder
    place.mkdir(parents=True, exist_ok=True)
    client.download_artifacts(found[0].info.run_id, "comparison.json", str(place))
    return place
