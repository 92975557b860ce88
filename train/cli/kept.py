"""`gstds kept`: which samples a run kept: tables, pictures, rows, and a filter for others."""

from __future__ import annotations

import argparse
import base64
import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gstds.common.checksummed_json import read_sealed
from gstds.common.files import atomic_open, write_json, write_text
from gstds.train.figures.tables import lay_out
from gstds.train.reporting import report
from gstds.train.running.kept import Kept, read_kept
from gstds.train.terminal import options as words
from gstds.train.terminal.console import out, print_table
from gstds.train.tracking.delivery import find_run

if TYPE_CHECKING:
    from gstds.envs.data.datasets import Data

Indices = npt.NDArray[np.int64]
_FORMS = (".parquet", ".csv")
_COUNTS = [("drawn", "drawn", "{:,}"), ("kept", "kept", "{:,}"), ("share", "kept %", "points .1f")]


def do_kept(arguments: argparse.Namespace) -> int:
    """Show and export which samples a run kept."""
    import pandas as pd

    words.begin(arguments)
    _check(arguments)
    folder = find_run("run", arguments.run, arguments.tracking_uri)
    if not (folder / "kept.npz").is_file():
        raise ValueError(f"run {str(folder)!r} has no kept.npz: it has not ended, or is no run")
    record = read_kept(folder / "kept.npz")
    config = read_sealed(folder / "config.json")["config"]
    # A file is no one's word for running code: only the command line is.
    data = report.data_of(
        config, run_code=arguments.dataset == config["dataset"], command="gstds kept RUN"
    )
    if len(record.visits) != len(data.train):
        raise ValueError(
            f"run {str(folder)!r} trained on {len(record.visits)} samples, {data.name} has "
            f"{len(data.train)} today: bring back the data that it had"
        )
    (kept, drawn), _ = report.count_kept(record, data)
    classes = np.array(data.class_names)[data.train.labels]
    samples = pd.DataFrame({"sample": _names(data), "index": np.arange(len(kept))})
    samples = samples.assign(**{"class": classes, "drawn": drawn, "kept": kept})
    sums = samples.groupby("class")[["drawn", "kept"]].sum().loc[[*data.class_names]]
    by_class = _shares(sums.reset_index())
    share = kept / np.where(drawn > 0, drawn, np.nan)
    most, least = report.most_and_least(share, max(arguments.top, arguments.least))
    picked = {"most": most[: arguments.top], "least": least[: arguments.least]}
    ends = {end: _shares(samples.iloc[rows]) for end, rows in picked.items()}
    columns = [("sample", "sample", "text"), ("class", "class", "text"), *_COUNTS]
    tables = {f"kept {end}": lay_out(rows, columns) for end, rows in ends.items() if rows}
    if arguments.by:
        tables["by class"] = lay_out(by_class, columns[1:])
    for title, table in tables.items():
        out(f"\n{title}:\n")
        print_table(table)
    if arguments.json:
        write_json(arguments.json, {"version": 1, **ends, "by_class": by_class})
    if arguments.to:
        write_rows(Path(arguments.to), rows_of(record, data))
    if arguments.filter:
        ranked = report.by_rising_share(share)[::-1]
        chosen = np.sort(ranked[: max(1, round(arguments.share * len(share)))])
        write_text(arguments.filter, json.dumps(data.train.rows[chosen].tolist()))
    if arguments.html:
        write_text(arguments.html, _page(f"What {folder.name} kept", tables, ends, data))
    for path in filter(None, (arguments.to, arguments.filter, arguments.html)):
        out(f"written: {path}")
    return words.Exit.DONE


def _check(arguments: argparse.Namespace) -> None:
    for name in ("top", "least"):
        if getattr(arguments, name) < 0:
            raise ValueError(f"{name} must be at least 0, got {getattr(arguments, name)}")
    if not 0 < arguments.share <= 1:
        raise ValueError(f"share must be in (0, 1], got {arguments.share}")
    if arguments.to and not arguments.to.endswith(_FORMS):
        raise ValueError(f"to must end in {' or '.join(_FORMS)}, got {arguments.to!r}")


def rows_of(record: Kept, data: Data) -> dict[str, Any]:
    """Return a row for each time that a sample was trained on, by column, each (K,).

    ``step`` and ``epoch`` count from 1 and 0; ``index`` is the sample's position in what was read,
    all parts together, ``file`` its image file, if it is one; ``weight`` the policy's, in 16 bits.

    Args:
        record: As `gstds.train.running.kept.read_kept` returns it.
        data: What the run trained on.
    """
    from gstds.envs.batches.order import Draws

    steps, batch = record.masks.shape
    draws = Draws(len(data.train), batch, record.order_seed)
    kept = [draws.batch(step)[record.masks[step][: record.sizes[step]]] for step in range(steps)]
    samples = np.concatenate([np.empty(0, np.int64), *kept])
    step = np.repeat(np.arange(1, steps + 1), [len(one) for one in kept])
    found = {
        "step": step.astype(np.int32),
        "epoch": ((step - 1) // draws.steps_per_epoch).astype(np.int32),
        "index": data.train.rows[samples].astype(np.int32),
    }
    if hasattr(data.train.source, "names"):
        found["file"] = np.array(_names(data))[samples]
    return found | ({} if record.weights is None else {"weight": record.weights})


def _names(data: Data) -> list[Any]:
    """Return what the data call each training sample: its file, or its position."""
    names = getattr(data.train.source, "names", None)
    return [names[row] if names else row for row in data.train.rows.tolist()]


def _shares(counted: Any) -> list[dict[str, Any]]:
    """Return the rows of a table of counts, with the kept by the drawn; None if none was drawn."""
    shares = counted.assign(share=counted["kept"] / counted["drawn"].where(counted["drawn"] > 0))
    rows: list[dict[str, Any]] = (
        shares.astype(object).where(shares.notna(), None).to_dict("records")
    )
    return rows


def write_rows(path: Path, rows: dict[str, Any]) -> None:
    """Write columns of one length to a ``.parquet`` or ``.csv`` file, atomically."""
    import pandas as pd

    table = pd.DataFrame(rows)
    with atomic_open(path) as file:
        if path.suffix == ".parquet":
            # Indices are in no order: a dictionary of them would be as long as they are.
            how: dict[str, Any] = {"use_dictionary": [name for name in rows if name != "index"]}
            how |= {"column_encoding": {"index": "BYTE_STREAM_SPLIT"}}
            table.to_parquet(file, index=False, compression="zstd", **how)
        else:
            table.to_csv(file, index=False, quoting=csv.QUOTE_NONNUMERIC)


def _page(title: str, tables: dict[str, Any], ends: dict[str, Any], data: Data) -> str:
    """Return a page of its own with the tables and the images of the samples at both ends."""
    pictures = {
        f"kept {end}": [(_thumbnail(data, row["index"]), row) for row in rows]
        for end, rows in ends.items()
    }
    return report.render("kept.jinja", "html", title=title, tables=tables, pictures=pictures)


def _thumbnail(data: Data, index: int) -> str:
    from PIL import Image

    planes = data.train.gather(np.array([index]))[0].numpy()
    pixels = planes[0] if len(planes) == 1 else np.moveaxis(planes, 0, -1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
