"""Runs that begin while their MLflow store does not answer: the store gets to know them later.

Such a run has an identifier of its own until its record is delivered. The first line of its spool,
the head, says how the run is to be created, or which one it goes on with. Delivering the head
creates the run under a tag with the run's own identifier, by which a delivery that was cut off
finds it again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from gstds.train.tracking.run_header import LOCAL_TAG, DataInput, RunRecord, as_text
from gstds.train.tracking.store import prepare_store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = ["create_or_find", "describe", "find", "new_head", "new_id"]


def new_id() -> str:
    """Return an identifier for a run that the store does not know."""
    return uuid4().hex


def new_head(
    experiment: str,
    *,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    description: str = "",
    data: DataInput | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Return, as strict JSON, what creates a run later, or goes on with one that is there."""
    return {
        "experiment": experiment,
        "name": name,
        "params": {key: as_text(value) for key, value in params.items()},
        "tags": {key: as_text(value) for key, value in tags.items()},
        "description": description,
        "data": asdict(data) if data else None,
        "resume": resume,
        "begun": time.time_ns() // 1_000_000,
    }


def find(client: MlflowClient, experiment_id: str, local_id: str) -> Run | None:
    """Return the run that an earlier delivery created for a run's own identifier, if any."""
    wanted = f"tags.`{LOCAL_TAG}` = '{local_id}'"
    found = client.search_runs([experiment_id], filter_string=wanted, max_results=1)
    return client.get_run(found[0].info.run_id) if found else None


def create_or_find(client: MlflowClient, local_id: str, head: Mapping[str, Any]) -> Run:
    """Create the run of a head, unless it is there already, and describe it.

    Raises:
        Exception: Whatever MLflow raises; all of it can be done again.
        ValueError: If the head goes on with a run that the store does not have.
    """
    uri = str(client.tracking_uri)
    record = RunRecord(client, uri)
    experiment_id = prepare_store(uri, head["experiment"])
    run = find(client, experiment_id, local_id)
    if run is None and head["resume"]:
        run = record.open(local_id)
    if run is None:
        tags = {**head["tags"], LOCAL_TAG: local_id}
        run = record.create(experiment_id, head["name"], tags, begun=head["begun"])
    describe(client, run, head)
    return run


def describe(client: MlflowClient, run: Run, head: Mapping[str, Any]) -> None:
    """Write what a head says beside its name; what stands there already stays."""
    data = head["data"]
    RunRecord(client, str(client.tracking_uri)).describe(
        run,
        params=head["params"],
        tags=head["tags"],
        description=head["description"],
        data=DataInput(**{**data, "shape": tuple(data["shape"])}) if data else None,
    )
