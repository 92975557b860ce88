"""The commands ``compare`` and ``report``: several policies and seeds, and what they show."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gstds.common.checksummed_json import read_sealed
from gstds.common.files import write_json, write_text
from gstds.options.fields import names
from gstds.train.comparing import comparison as rows
from gstds.train.comparing.comparison import PRESETS, CompareOptions, Comparison
from gstds.train.figures.tables import comparison_table, metric_table
from gstds.train.running.options import LogOptions, RunConfig
from gstds.train.terminal import options as words
from gstds.train.terminal.console import out, print_table
from gstds.train.tracking.store import mask_secrets, tracking_uri

Arguments = argparse.Namespace
_FRESH_SEEDS = 5


def do_compare(arguments: Arguments) -> int:
    """Train under several policies and seeds, and compare; or sweep, and rank."""
    from gstds.train.comparing.compare import plan

    words.begin(arguments)
    asked = CompareOptions(**words.given(arguments, CompareOptions))
    sweeping = asked.sweep is not None or asked.sweep_optuna is not None
    if asked.datasets and (sweeping or hasattr(arguments, "dataset")):
        raise ValueError("--datasets goes without --dataset and without --sweep")
    if asked.preset and sweeping:
        raise ValueError("--preset goes without --sweep")
    if asked.tune and sweeping:
        raise ValueError("--tune goes without --sweep: it selects and judges, --sweep explores")
    if sweeping and not asked.sweep:
        raise ValueError("--sweep-optuna needs --sweep KEY=LOW..HIGH ...: what is searched")
    preset = PRESETS.get(asked.preset or "", {})
    options = {"policies": ("gstds",)} if sweeping else dict(preset.get("options", {}))
    usual = None if hasattr(arguments, "dataset") else options.get("datasets")
    options |= {**words.given(arguments, RunConfig), **words.given(arguments, Comparison)}
    options.pop("datasets", None)
    options["policies"] = tuple(options.get("policies", asked.policies))
    folder = words.place_for(arguments, "sweep" if sweeping else "compare")
    more = {"question": preset.get("question", ""), "optional": tuple(preset.get("optional", ()))}
    comparison = rows.comparison_from(options, folder, command=words.command_line(), **more)
    if not sweeping:
        plan(comparison)
    upload = words.asked_tracking(arguments)
    comparison = replace(comparison, tracking=upload.uri if upload else None)
    if sweeping:
        return _sweep(arguments, comparison, asked)
    return _compare(arguments, comparison, asked.datasets or usual)


def _watched(arguments: Arguments, comparison: Comparison, work: Callable[..., Any]) -> Any:
    """Return what ``work(watch=, stop=)`` returns; and whether it was stopped."""
    from gstds.train.launching.ray_tasks import ray_cluster
    from gstds.train.running.ending import StopFlag, interruptible
    from gstds.train.terminal.live_table import Board

    stop = StopFlag()
    with ray_cluster(comparison.ray), Board(quiet=arguments.quiet) as board, interruptible(stop):
        return work(watch=board, stop=stop), stop.is_set


def _compare(arguments: Arguments, comparison: Comparison, datasets: Sequence[str] | None) -> int:
    """Compare on the one data set, or on one after the other; return the worst exit code."""
    from gstds.train.comparing.compare import compare, on_datasets, write_overview

    every = on_datasets(comparison, datasets) if datasets else [comparison]
    if comparison.question:
        from gstds.train.comparing.forecast import forecast

        for line in forecast(every):
            out(line)
    contents: dict[str, Any] = {}
    codes, table = [int(words.Exit.DONE)], None
    for one in every:
        dataset = one.base.dataset
        result, stopped = _watched(arguments, one, partial(compare, one))
        contents[dataset] = result
        if datasets:
            out(f"\n{dataset}:\n")
            result, table = write_overview(comparison, contents)
        if arguments.json:
            write_json(arguments.json, result)
        codes.append(_show(arguments, one, contents[dataset]))
        if stopped and len(contents) < len(every):
            codes.append(words.Exit.INTERRUPTED)
            break
    if table:
        out("\noverview:\n")
        print_table(table)
        out(f"\n{table.caption}\noverview: {comparison.folder / 'overview.md'}")
    return max(codes)


def _show(arguments: Arguments, comparison: Comparison, content: dict[str, Any]) -> int:
    """Write a comparison's report, print it and put it into MLflow; return the exit code."""
    from gstds.train.reporting.report import write_report

    paths = write_report(comparison.folder, content)
    _print_tables(content)
    for row, why in content.get("left_out", {}).items():
        out(f"left out: {row}: {why}")
    out(f"\nreport: {paths['html']}\nplot (accuracy): {paths['accuracy']}")
    if comparison.tracking:
        from gstds.train.reporting.mlflow_summary import publish
        from gstds.train.tracking.uploader import Upload

        publish(Upload(comparison.tracking, arguments.experiment), content, paths)
        _print_link(arguments)
    statuses = [run["status"] for run in (*content["runs"], *content["controls"])]
    planned, controls = content["planned"], content["controls_planned"]
    whole = len(content["runs"]) == planned and len(content["controls"]) == controls
    return _exit_code(statuses, whole=whole)


def _exit_code(statuses: list[str], *, whole: bool, done: Collection[str] = ()) -> int:
    """Return the exit code of many runs, and say how to go on where some are missing."""
    code = words.code_of(statuses, whole=whole, done=done)
    if code == words.Exit.INTERRUPTED:
        out("stopped early; the same command with the same --out goes on")
    return code


def _print_link(arguments: Arguments) -> None:
    """Say how to open the runs."""
    extra = f" --experiment {arguments.experiment}" if arguments.experiment != "gstds" else ""
    if arguments.tracking_uri:
        extra += f" --tracking-uri {mask_secrets(arguments.tracking_uri)}"
    out(f"open the runs: gstds ui{extra}")


def _print_tables(content: dict[str, Any]) -> None:
    """Print the comparison, and below it the controls."""
    if content["summary"]:
        print_table(comparison_table(content["summary"], setting=content["setting"]))
    if content.get("controls_summary"):
        out("\ncontrols, beside the same baseline:\n")
        print_table(replace(comparison_table(content["controls_summary"]), caption=""))


# ---------------------------------------------------------------------------------- sweep


def _sweep(arguments: Arguments, comparison: Comparison, asked: CompareOptions) -> int:
    """Run a sweep, rank its points; write ``sweep.json``, the plot, and the page in both forms."""
    from gstds.train.comparing.sweep import parse_axes, run_sweep
    from gstds.train.figures.plots import plot_sweep
    from gstds.train.figures.statistics import rank
    from gstds.train.reporting.report import render

    axes = parse_axes(asked.sweep or ())
    work = partial(run_sweep, comparison, axes, asked.sweep_optuna)
    (runs, planned), _ = _watched(arguments, comparison, work)
    ranking = rank(runs)
    best = judging_command(comparison, ranking[0]["policy"]) if ranking else ""
    content = comparison.head | {"config": comparison.base.as_dict(), "planned": planned}
    content |= {"runs": runs, "ranking": ranking, "judge_the_best": best}
    write_json(comparison.folder / "sweep.json", content)
    if arguments.json:
        write_json(arguments.json, content)
    table = metric_table(
        "ranking",
        ranking,
        "Ranked by accuracy on selection-validation, final, mean ± 95% t interval over seeds. "
        "The best of many looks better than it is; the test part was not evaluated.",
    )
    ended = [run for run in runs if run.get("val_accuracy") is not None]
    points = [(*rows.split_name(run["policy"]), run["val_accuracy"]) for run in ended]
    plot_sweep(points, comparison.folder / "sweep.png")
    shown = {"name": comparison.name, "ranking": table, "command": comparison.command, "best": best}
    shown["plot"] = comparison.folder / "sweep.png"
    for form, suffix in (("markdown", "md"), ("html", "html")):
        page = render("sweep.jinja", form, **shown)
        write_text(comparison.folder / f"sweep.{suffix}", page)
    print_table(table)
    out(f"\n{table.caption}\nresult: {comparison.folder / 'sweep.json'}")
    out(f"page: {comparison.folder / 'sweep.html'}")
    if comparison.tracking:
        from gstds.train.reporting.mlflow_summary import publish_sweep
        from gstds.train.tracking.uploader import Upload

        files = [comparison.folder / f"sweep.{suffix}" for suffix in ("html", "png", "json")]
        numeric = {a.key: all(type(v) in (int, float) for v in a.values) for a in axes}
        publish_sweep(Upload(comparison.tracking, arguments.experiment), content, files, numeric)
        _print_link(arguments)
    statuses = [run["status"] for run in runs]
    code = _exit_code(statuses, whole=len(runs) >= planned, done=("diverged",))
    if code != words.Exit.INTERRUPTED:
        out(f"judge the best on fresh seeds and the test part:\n  {best}")
    return code


def judging_command(comparison: Comparison, row: str) -> str:
    """Return the command that runs a point against its policy, random and full on fresh seeds.

    Args:
        comparison: The sweep's.
        row: The point's name.
    """
    compared = tuple(dict.fromkeys([row, rows.split_name(row)[0], "random", "full"]))
    first, count = comparison.first_seed + comparison.seeds, max(_FRESH_SEEDS, comparison.seeds)
    fresh = comparison.with_options(policies=compared, baseline="random", controls=True)
    fresh = fresh.with_options(first_seed=first, seeds=count)
    options = words.option_words(fresh, skip=names(LogOptions))
    options += words.option_words(comparison.base, skip=("policy", "seed", "test"))
    return shlex.join(["gstds", "compare", *options])


# ---------------------------------------------------------------------------------- report


def do_report(arguments: Arguments) -> int:
    """Write the report of a comparison, by its folder or by its name in the tracking store."""
    from gstds.train.reporting.report import write_report

    words.begin(arguments)  # the data set may be a user's module:function
    folder = _find_comparison(arguments)
    try:
        content = read_sealed(folder / "comparison.json")
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(folder)!r} holds no readable comparison.json: {error}") from error
    try:
        # A file is no one's word for running code: only the command line is.
        named = arguments.dataset == content["config"]["dataset"]
        paths = write_report(folder, content, run_code=named)
        _print_tables(content)
    except (LookupError, TypeError, AttributeError) as error:
        what = f"not one that this release reads ({type(error).__name__}: {error})"
        raise ValueError(f"{str(folder)!r}: comparison.json is {what}") from error
    out(f"\nreport: {paths['html']}")
    return words.Exit.DONE


def _find_comparison(arguments: Arguments) -> Path:
    folder = Path(arguments.comparison)
    if folder.exists():
        return folder
    from gstds.train.reporting.mlflow_summary import fetch_comparison

    uri = tracking_uri(arguments.tracking_uri)
    place = Path("runs") / f"report-{folder.name}"
    return fetch_comparison(uri, arguments.experiment, arguments.comparison, place)
