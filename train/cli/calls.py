"""A run, and a comparison, as one call of Python each; options as on the command line."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gstds.train.comparing.compare import compare as run_comparison
from gstds.train.comparing.comparison import comparison_from
from gstds.train.reporting.report import write_report
from gstds.train.running.options import config_from
from gstds.train.running.run import execute
from gstds.train.terminal.options import open_tracking
from gstds.train.tracking.uploader import add_network


def run(
    policy: str = "gstds",
    *,
    out: str | Path,
    tracking: str | None = None,
    experiment: str = "gstds",
    resume: bool = False,
    no_model: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Train once under one policy; return what ``gstds run --json`` writes of the run.

    Args:
        policy: A name of ``gstds list policies``, or ``module:Class``.
        out: Folder for the configuration, checkpoints and result.
        tracking: URI of the MLflow store that keeps the record, such as ``sqlite:///mlflow.db``;
            None for none.
        experiment: The store's experiment.
        resume: Go on where a stopped run was; a finished one is returned.
        no_model: Log no network in MLflow.
        **options: Any option of ``gstds run``, with underscores: ``dataset``, ``epochs``, ...

    Raises:
        ValueError: If an option is unknown or out of range, or the data are unusable.
        OSError: If a file cannot be read or written.
        RunFailedError: If the policy or the environment raised.
    """
    config = config_from({"policy": _name(policy), **options})
    upload = open_tracking(tracking, experiment) if tracking else None
    result = execute(config, out, upload=upload, resume=resume, command="gstds.run")
    if upload and not no_model:
        add_network(Path(out), upload.uri)
    return result


def compare(
    policies: Sequence[str] = ("gstds", "random", "full"),
    *,
    out: str | Path,
    tracking: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train under several policies and seeds; return what ``gstds compare --json`` writes.

    The same call with the same ``out`` goes on where it was: nothing is repeated. The folder holds
    ``report.html`` and ``report.md`` afterwards. With several workers, and a policy of your own,
    call this below ``if __name__ == "__main__":``.

    Args:
        policies: Names, ``module:Class``, or a policy with options as ``gstds@keep=.4``.
        out: The comparison's folder.
        tracking: URI of the MLflow store, None for none.
        **options: Any option of ``gstds compare`` or ``gstds run``, with underscores: ``seeds``,
            ``baseline``, ``controls``, ``workers``, ``experiment``, ``dataset``, ``epochs``, ...

    Raises:
        ValueError: If an option is unknown or out of range, or the data are unusable.
        OSError: If a file cannot be read or written.
        RuntimeError: If every run failed.
    """
    # A worker that runs the script which started it would start workers again.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)
    rows = {"policies": tuple(map(_name, policies))}
    folder = Path(out)
    comparison = comparison_from(options | rows, folder, tracking=tracking, command="gstds.compare")
    if tracking:
        open_tracking(tracking, comparison.experiment, offline=comparison.offline)
    content = run_comparison(comparison)
    write_report(folder, content)
    runs = content["runs"]
    if runs and all(run["status"] == "failed" for run in runs):
        guard = 'put the call below `if __name__ == "__main__":`: workers run the script once more'
        lost = comparison.workers > 1 and "worker process" in runs[0]["error"]
        advice = f"; {guard}" if lost else ""
        raise RuntimeError(f"no run of the comparison finished: {runs[0]['error']}{advice}")
    return content


def _name(policy: Any) -> str:
    if isinstance(policy, str):
        return policy
    kind = policy if isinstance(policy, type) else type(policy)
    what = f"a name or 'module:Class', got {policy!r}"
    mend = f"by the file that it stands in, such as 'my_file:{kind.__name__}'"
    raise TypeError(f"policy must be {what}; a class of your own is named {mend}")
