"""A comparison as a table: on a terminal, as plain text, Markdown or HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table as RichTable

__all__ = [
    "FEWEST_RUNS",
    "Table",
    "accuracy_header",
    "caption",
    "comparison_table",
    "effect_size",
    "fixed",
    "flop_unit",
    "format_flops",
    "format_seconds",
    "judged_on",
    "lost_runs",
    "p_value",
    "points",
    "three_digits",
]

Summary = Sequence[Mapping[str, Any]]

_PREFIXES = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))
FEWEST_RUNS = 10
"""With fewer runs no difference is claimed and no effect size shown."""

_NOTHING = "-"


@dataclass(frozen=True)
class Table:
    """Cells of text; the first column is aligned left, the others right.

    Attributes:
        header: One name per column.
        rows: Cells by row.
        caption: What the columns mean; may be empty.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    def text(self) -> str:
        """Return the table as aligned plain text."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        texts = ["  ".join(_pad(c, w, i) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
                 for line in lines]  # fmt: skip
        rule = "  ".join("-" * width for width in widths)
        return "\n".join([texts[0].rstrip(), rule, *(t.rstrip() for t in texts[1:])])

    def markdown(self) -> str:
        """Return the table in Markdown, without its caption."""
        marks = ["---", *("--:" for _ in self.header[1:])]
        lines = [self.header, marks, *self.rows]
        return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in x) + " |" for x in lines)

    def html(self) -> str:
        """Return the table as an HTML element, everything escaped."""
        head = "".join(f"<th>{html.escape(c)}</th>" for c in self.header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>\n"
            for row in self.rows
        )
        return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"

    def split(self, width: int) -> list[Table]:
        """Return tables no wider than ``width`` characters, each beginning with the first column.

        A single column that is too wide stands alone beside the first.
        """
        widths = [max(len(line[i]) for line in (self.header, *self.rows))
                  for i in range(len(self.header))]  # fmt: skip
        groups: list[list[int]] = [[0]]
        for i in range(1, len(self.header)):
            taken = sum(widths[j] + 3 for j in groups[-1])
            if len(groups[-1]) > 1 and taken + widths[i] > width:
                groups.append([0])
            groups[-1].append(i)
        return [self._only(group) for group in groups]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """Let `rich.console.Console.print` draw the table, split to the terminal's width."""
        from rich.text import Text

        for part in self.split(options.max_width):
            yield part._rich()
        if self.caption:
            yield Text(self.caption, style="dim")

    def _only(self, columns: Sequence[int]) -> Table:
        return Table(
            header=tuple(self.header[i] for i in columns),
            rows=tuple(tuple(row[i] for i in columns) for row in self.rows),
        )

    def _rich(self) -> RichTable:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False)
        for i, name in enumerate(self.header):
            table.add_column(Text(name), justify="left" if i == 0 else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table


def comparison_table(summary: Summary, *, setting: str | None = None) -> Table:
    """Lay out a summary, as `gstds.train.figures.statistics.summarize` returns it.

    Args:
        summary: One dictionary per policy.
        setting: ``equal-epochs`` or ``equal-budget``, for the caption.

    Returns:
        The table: policy, finished runs, test accuracy in percent with its 95% interval, difference
        to the baseline in points, effect size, p, mean keep, charged compute, seconds, and ratios
        to full.
    """
    columns = _columns(summary)
    return Table(
        header=tuple(columns),
        rows=tuple(tuple(cell(row) for cell in columns.values()) for row in summary),
        caption=caption(summary, setting=setting),
    )


def caption(summary: Summary, *, setting: str | None = None) -> str:
    """Say what a comparison's table shows: the setting, the seeds, the tests."""
    sentences = [_SETTINGS.get(setting or "", "")]
    seeds = sorted({int(row["n"]) for row in summary})
    sentences.append(f"Seeds per policy: {_span(seeds)}; ± is the 95% t interval over seeds.")
    baseline = next((row.get("baseline") for row in summary), None)
    if baseline and len(summary) > 1:
        sentences.append(_test_sentence(str(baseline), max(seeds, default=0)))
    if judged_on(summary) != "test":
        sentences.append(f"Accuracies are of {judged_on(summary)}: the test part was left alone.")
    if any(row.get("reference_flops") for row in summary):
        shares = {row.get("reference_shared_by") for row in summary} - {None}
        number = f"R = {shares.pop()} runs" if len(shares) == 1 else "runs R"
        sentences.append(
            "Compute is that of the run; + ref/R adds the reference model's cost divided by the "
            f"{number} that share it; + ref adds all of it."
        )
    if any(_lost(row) for row in summary):
        sentences.append("Means are over finished runs; the others are counted beside them.")
    return " ".join(sentence for sentence in sentences if sentence)


_SETTINGS = {
    "equal-epochs": (
        "Equal epochs: all policies see the same number of drawn batches; "
        "the charged compute differs."
    ),
    "equal-budget": (
        "Equal budget: all policies stop at the same charged compute; full is short full, "
        "a fully decayed schedule over fewer epochs, not full training."
    ),
}


def flop_unit(values: Sequence[float | None]) -> tuple[float, str]:
    """Return the unit that suits the largest value: (FLOP per unit, name)."""
    largest = max((v for v in values if v is not None), default=0.0)
    return next((p for p in _PREFIXES if largest >= p[0]), _PREFIXES[-1])


def format_flops(value: float | None) -> str:
    """Return an amount of compute with three digits and its own unit, such as ``1.23 TFLOP``."""
    if value is None:
        return _NOTHING
    size, name = flop_unit([value])
    return f"{three_digits(value / size)} {name}"


def format_seconds(value: float | None) -> str:
    """Return seconds with about three digits."""
    return _NOTHING if value is None else three_digits(value)


def _columns(summary: Summary) -> dict[str, Any]:
    """Return a function from a row to its cell for each column."""
    compute = ["charged_flops"]
    if any(row.get("reference_flops") for row in summary):
        compute += ["charged_flops_with_shared_reference", "charged_flops_with_reference"]
    size, unit = flop_unit([row.get(key) for row in summary for key in compute])
    names = dict(zip(compute, (unit, "+ ref/R", "+ ref"), strict=False))
    against = {
        "diff": lambda r: points(r, "difference", "difference_ci95", sign="+"),
        "d": lambda r: effect_size(r, 1),
        "p Holm": lambda r: p_value(r.get("p_holm")),
        "p flip": lambda r: p_value(r.get("sign_flip_p")),
    }
    return {
        "policy": lambda r: str(r["policy"]),
        "runs": lost_runs,
        accuracy_header(summary): lambda r: points(r, "mean", "ci95"),
        **(against if any(row.get("n_pairs") for row in summary) else {}),
        "keep": lambda r: fixed(r.get("mean_keep"), 3),
        **{
            name: lambda r, key=key: _NOTHING if r.get(key) is None else three_digits(r[key] / size)
            for key, name in names.items()
        },
        "/ full": lambda r: fixed(r.get("relative_compute"), 2),
        "seconds": lambda r: format_seconds(r.get("seconds")),
        "s / full": lambda r: fixed(r.get("relative_seconds"), 2),
    }


def judged_on(summary: Iterable[Mapping[str, Any]]) -> str:
    """Return the part of the data that a summary's accuracies are of."""
    return next((str(row["judged_on"]) for row in summary if row.get("judged_on")), "test")


def accuracy_header(summary: Iterable[Mapping[str, Any]]) -> str:
    """Return the head of the accuracies' column."""
    return "accuracy %" if judged_on(summary) == "test" else "validation %"


def lost_runs(row: Mapping[str, Any]) -> str:
    """Return the number of finished runs, with the others behind it, such as ``4 (+1 failed)``."""
    lost = ", ".join(f"{count} {reason}" for reason, count in _lost(row).items())
    return f"{row['n']} (+{lost})" if lost else str(row["n"])


def _lost(row: Mapping[str, Any]) -> dict[str, int]:
    reasons = ("diverged", "failed", "interrupted")
    return {r: row[f"n_{r}"] for r in reasons if row.get(f"n_{r}")}


def points(row: Mapping[str, Any], key: str, half_width: str, sign: str = "") -> str:
    """Return a share of the row in percent, with the half-width of its interval if there is one."""
    if row.get(key) is None:
        return _NOTHING
    value = f"{100 * row[key]:{sign}.1f}"
    return value if row.get(half_width) is None else f"{value} ± {100 * row[half_width]:.1f}"


def p_value(value: float | None) -> str:
    """Return a p value to three digits."""
    if value is None:
        return _NOTHING
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def fixed(value: float | None, digits: int, unit: str = "") -> str:
    """Return a number with this many decimals, a hyphen for None."""
    return _NOTHING if value is None else f"{value:.{digits}f}{unit}"


def effect_size(row: Mapping[str, Any], digits: int) -> str:
    """Return a row's effect size; a hyphen for so few pairs that it would say nothing."""
    enough = row.get("n_pairs", 0) >= FEWEST_RUNS
    return fixed(row.get("effect_size") if enough else None, digits)


def three_digits(value: float) -> str:
    """Return a number with about three digits."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _span(counts: Sequence[int]) -> str:
    return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(*counts[:1])


def _test_sentence(baseline: str, seeds: int) -> str:
    if seeds < 2:
        return f"One seed: no interval and no test against {baseline}."
    size = "d: mean difference over its standard deviation"
    few = f"{seeds} runs are too few to claim a difference, or for an effect size d"
    return (
        f"{size if seeds >= FEWEST_RUNS else few}; p Holm: two-sided paired t test against "
        f"{baseline}, adjusted over the policies (Holm); "
        f"p flip: exact sign-flip test, not below {2 / 2**seeds:.3g} with {seeds} seeds."
    )


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)
