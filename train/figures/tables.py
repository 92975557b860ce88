"""Metrics and rows as tables: on a terminal, as plain text or Markdown.

The table of metrics, `metrics.toml`, says what is tracked, summarized, laid out and drawn.
"""

# Own, not pandas: its Markdown needs another library, its text knows no split to a terminal's
# width, and cells are text that is formed column by column (`_cell`) before there is a table.

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions


Row = Mapping[str, Any]
Summary = Sequence[Row]

_PREFIXES = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))
FEWEST_RUNS = 10
"""With fewer runs no difference is claimed and no effect size shown."""


@dataclass(frozen=True)
class Metric:
    """A row of the table; the head of `metrics.toml` says what stands in it."""

    key: str
    unit: str = "fraction"
    mean: bool = False
    every: str = "evaluation"
    scale: float = 1.0
    logged: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, list[str]] = field(default_factory=dict)
    charts: tuple[tuple[str, int, str], ...] = ()

    def when(self, name: str) -> str:
        """Return when a name is logged: `step`, `evaluation`, `end`, `summary` or `control`."""
        section, _, what = name.partition("/")
        if section == "summary":
            return "control" if what.startswith("control_") else section
        return "end" if section == "final" else self.every

    def drawn(self, kind: str) -> str:
        """Return the name that a chart draws: the one for the eye, where there is one."""
        of_its_course = next(iter(self.logged)) if kind == "line" else f"final/{self.key}"
        return next((name for name in self.logged if "/" not in name), of_its_course)


@functools.cache
def metrics() -> tuple[Metric, ...]:
    """Return the rows."""
    text = Path(__file__).with_name("metrics.toml").read_text(encoding="utf-8")
    return tuple(Metric(**row) for row in tomllib.loads(text)["metric"])


def drawn_name(key: str) -> str:
    """Return the name by which charts show a metric."""
    return next(metric for metric in metrics() if metric.key == key).drawn("bar")


def as_logged(values: Mapping[str, Any], when: str) -> dict[str, float]:
    """Return those of a run's or a row's values that are logged then, by name in MLflow.

    A name without a section is for the eye: in its own unit, of four digits.
    """
    return {
        name: values[metric.key] if "/" in name else _rounded(metric.scale * values[metric.key])
        for metric in metrics()
        for name in metric.logged
        if metric.when(name) == when and values.get(metric.key) is not None
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


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
        widths = self._widths()
        lines = [self.header, tuple("-" * width for width in widths), *self.rows]
        sides = [str.ljust, *(str.rjust for _ in widths[1:])]
        padded = ([f(c, w) for f, c, w in zip(sides, x, widths, strict=True)] for x in lines)
        return "\n".join("  ".join(cells).rstrip() for cells in padded)

    def markdown(self) -> str:
        """Return the table in Markdown, without its caption."""
        marks = ["---", *("--:" for _ in self.header[1:])]
        lines = [self.header, marks, *self.rows]
        return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in x) + " |" for x in lines)

    def split(self, width: int) -> list[Table]:
        """Return tables no wider than ``width`` characters, each beginning with the first column.

        A single column that is too wide stands alone beside the first.
        """
        widths = self._widths()
        groups: list[list[int]] = [[0]]
        for i in range(1, len(widths)):
            taken = sum(widths[j] + 3 for j in groups[-1])
            if len(groups[-1]) > 1 and taken + widths[i] > width:
                groups.append([0])
            groups[-1].append(i)
        lines = (self.header, *self.rows)
        parts = ([tuple(line[i] for i in group) for line in lines] for group in groups)
        return [Table(header, tuple(rows)) for header, *rows in parts]

    def _widths(self) -> list[int]:
        return [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """Let `rich.console.Console.print` draw the table, split to the terminal's width."""
        from rich.text import Text

        for part in self.split(options.max_width):
            head, _, rest = part.text().partition("\n")
            yield from (Text(head, style="bold"), Text(rest + "\n"))
        if self.caption:
            yield Text(self.caption, style="dim")


def comparison_table(summary: Summary, *, setting: str | None = None) -> Table:
    """Lay out a summary, as `gstds.train.figures.statistics.summarize` returns it.

    Args:
        summary: One dictionary per policy.
        setting: ``equal-epochs`` or ``equal-budget``, for the caption.
    """
    return metric_table("compared", summary, caption(summary, setting=setting))


def metric_table(name: str, rows: Summary, caption: str = "") -> Table:
    """Lay out what the table of metrics has for a table of this name."""
    shown = [(metric.key, *metric.tables[name]) for metric in metrics() if name in metric.tables]
    columns = [
        (key, head, form)
        for key, head, form, *needs in shown
        if all(any(row.get(need) for row in rows) for need in needs)
    ]
    return lay_out(rows, columns, caption)


def lay_out(rows: Summary, columns: Sequence[tuple[str, str, str]], caption: str = "") -> Table:
    """Lay out rows.

    Args:
        rows: Values by key.
        columns: Key, head and form of each. A form is one of `str.format`, or a word: ``text``,
            ``options`` (names and values), ``digits`` (about three), ``points SPEC HALF_WIDTH`` (a
            share in percent), ``flops`` (with its own unit), ``scaled`` (in the table's unit),
            ``p``, ``effect SPEC`` (a hyphen for so few pairs that it would say nothing), or
            ``lost`` (lost runs behind a count).
        caption: What the columns mean.
    """
    scaled = [row.get(key) for key, _, form in columns if form == "scaled" for row in rows]
    size, unit = flop_unit(scaled)
    judged = "accuracy" if judged_on(rows) == "test" else "validation"
    heads = (head.replace("{unit}", unit).replace("{judged}", judged) for _, head, _ in columns)
    cells = (tuple(_cell(row, key, form, size) for key, _, form in columns) for row in rows)
    return Table(tuple(heads), tuple(cells), caption)


def _cell(row: Row, key: str, form: str, size: float) -> str:
    """Return a value as text; a hyphen for one that is not there."""
    value = row.get(key)
    kind, *words = form.split(" ")
    if value is None or value == "" or (kind == "effect" and row.get("n_pairs", 0) < FEWEST_RUNS):
        return "-"
    if kind == "points":
        return points(row, key, *words)
    if "{" in kind:
        return kind.format(value)
    return str(_FORMS[kind](value, *words, row=row, size=size))


_FORMS: dict[str, Any] = {
    "text": lambda value, **_: value,
    "options": lambda value, **_: ", ".join(f"{k}={v}" for k, v in value.items()),
    "digits": lambda value, **_: three_digits(value),
    "scaled": lambda value, size, **_: three_digits(value / size),
    "flops": lambda value, **_: format_flops(value),
    "p": lambda value, **_: p_value(value),
    "effect": lambda value, spec, **_: format(value, spec),
    "lost": lambda value, row, **_: f"{value} (+{_lost(row)})" if _lost(row) else value,
}


def points(row: Row, key: str, spec: str = ".1f", half_width: str = "") -> str:
    """Return a share of the row in percent, with the half-width of its interval if there is one."""
    if row.get(key) is None:
        return "-"
    half = row.get(half_width)
    more = "" if half is None else f" ± {100 * half:{spec.removeprefix('+')}}"
    return f"{100 * row[key]:{spec}}{more}"


def three_digits(value: float) -> str:
    """Return a number with about three digits."""
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def p_value(value: float) -> str:
    """Return a p value to three digits."""
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def flop_unit(values: Sequence[float | None]) -> tuple[float, str]:
    """Return the unit that suits the largest value: (FLOP per unit, name)."""
    largest = max((v for v in values if v is not None), default=0.0)
    return next((p for p in _PREFIXES if largest >= p[0]), _PREFIXES[-1])


def format_flops(value: float | None) -> str:
    """Return an amount of compute with three digits and its own unit, such as ``1.23 TFLOP``."""
    size, unit = flop_unit([value])
    return "-" if value is None else f"{three_digits(value / size)} {unit}"


def judged_on(summary: Iterable[Row]) -> str:
    """Return the part of the data that a summary's accuracies are of."""
    return next((str(row["judged_on"]) for row in summary if row.get("judged_on")), "test")


def _lost(row: Row) -> str:
    """Return the runs that are not behind the means, such as ``1 failed``."""
    numbers = [(reason, row.get(f"n_{reason}")) for reason in ("diverged", "failed", "interrupted")]
    every = [*numbers, ("lost", row.get("lost"))]
    return ", ".join(f"{number} {reason}" for reason, number in every if number)


def caption(summary: Summary, *, setting: str | None = None) -> str:
    """Say what a comparison's table shows: the setting, the seeds, the tests."""
    seeds = sorted({int(row["n"]) for row in summary})
    span = " to ".join(str(n) for n in dict.fromkeys([*seeds[:1], *seeds[-1:]]))
    sentences = [_SETTINGS.get(setting or "", "")]
    own = any(row.get("splits") for row in summary)
    which = "each with a split of its own" if own else "of one split: how splits vary is not in it"
    sentences.append(f"Seeds per policy: {span}; ± is the 95% t interval over seeds, {which}.")
    sentences.append(_tuning_sentence(summary))
    baseline = next((row.get("baseline") for row in summary), None)
    if baseline and len(summary) > 1:
        sentences.append(_test_sentence(str(baseline), max(seeds)))
    if judged_on(summary) != "test":
        sentences.append(f"Accuracies are of {judged_on(summary)}: the test part was left alone.")
    if any(row.get("reference_flops") for row in summary):
        shares = {row.get("reference_shared_by") for row in summary} - {None}
        number = f"R = {shares.pop()} runs" if len(shares) == 1 else "runs R"
        sentences.append(
            "Compute is that of the run; + ref/R adds the reference model's cost divided by the "
            f"{number} that share it; + ref adds all of it."
        )
    if summary and all(row.get("seconds") is None for row in summary):
        sentences.append("No seconds: the runs were trained by several commands, at other times.")
    if any(map(_lost, summary)):
        sentences.append("Means are over finished runs; the others are counted beside them.")
    return " ".join(filter(None, sentences))


_SETTINGS = {
    "equal-epochs": "Equal epochs: all policies see the same number of drawn batches; "
    "the charged compute differs.",
    "equal-budget": "Equal budget: all policies stop at the same charged compute; full is short "
    "full, a fully decayed schedule over fewer epochs, not full training.",
}


def _tuning_sentence(summary: Summary) -> str:
    trials = [int(row["trials"]) for row in summary if row.get("trials")]
    if not trials:
        return "Not tuned: rows share the options that they do not name, the learning rate too."
    span = " to ".join(map(str, sorted({min(trials), max(trials)})))
    return (
        f"Tuned alike: of {span} trials a row, on selection-validation under other seeds, the "
        "values under tuned were best; the trials' compute is not in the table."
    )


def _test_sentence(baseline: str, seeds: int) -> str:
    if seeds < 2:
        return f"One seed: no interval and no test against {baseline}."
    size = "d: mean difference over its standard deviation"
    if seeds < FEWEST_RUNS:
        size = f"{seeds} runs are too few to claim a difference, or for an effect size d"
    test = f"two-sided paired t test against {baseline}, adjusted over the policies (Holm)"
    least = f"not below {2 / 2**seeds:.3g} with {seeds} seeds"
    level = "; level: within the margin beside it (TOST, Holm)" if seeds >= FEWEST_RUNS else ""
    return f"{size}; p Holm: {test}; p flip: exact sign-flip test, {least}{level}."
