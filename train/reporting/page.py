"""A page of tables, pictures and words, as Markdown and as one HTML file that needs no other."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gstds.train.figures.tables import Table

__all__ = ["Block", "Code", "Items", "Picture", "Prose", "Section", "as_html", "as_markdown"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 66rem; margin: 2rem auto;
  padding: 0 1rem; }
h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e4e4e4;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #888; }
div.wide { overflow-x: auto; margin-top: 1rem; }
p.caption { color: #555; font-size: 13px; max-width: 56rem; }
img { max-width: 100%; }
pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; }
"""


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list, one line each."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Text to be copied."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A PNG with a line of explanation.

    Attributes:
        path: The file, beside the page.
        caption: What it shows.
    """

    path: Path
    caption: str = ""


Block = Table | Prose | Items | Code | Picture
Section = tuple[str, Sequence[Block]]


def as_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return the page as Markdown; pictures are linked by file name."""
    parts = [f"# {title}"]
    for heading, blocks in sections:
        parts.append(f"## {heading}")
        parts += [_markdown_block(heading, block) for block in blocks]
    return "\n\n".join(parts) + "\n"


def _markdown_block(heading: str, block: Block) -> str:
    if isinstance(block, Table):
        return block.markdown() + (f"\n\n{block.caption}" if block.caption else "")
    if isinstance(block, Picture):
        note = f"\n\n{block.caption}" if block.caption else ""
        return f"![{heading}]({block.path.name}){note}"
    if isinstance(block, Items):
        return "\n".join(f"- {line}" for line in block.lines)
    return block.text if isinstance(block, Prose) else f"```\n{block.text}\n```"


def as_html(title: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML with its pictures inside.

    Raises:
        OSError: If a picture cannot be read.
    """
    body = [f"<h1>{html.escape(title)}</h1>"]
    for heading, blocks in sections:
        body.append(f"<h2>{html.escape(heading)}</h2>")
        body += [_html_block(heading, block) for block in blocks]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _html_block(heading: str, block: Block) -> str:
    if isinstance(block, Table):
        return f'<div class="wide">{block.html()}</div>{_caption(block.caption)}'
    if isinstance(block, Picture):
        data = base64.b64encode(block.path.read_bytes()).decode()
        picture = f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">'
        return picture + _caption(block.caption)
    if isinstance(block, Items):
        return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in block.lines) + "</ul>"
    text = html.escape(block.text)
    return f"<p>{text}</p>" if isinstance(block, Prose) else f"<pre>{text}</pre>"


def _caption(text: str) -> str:
    return f'<p class="caption">{html.escape(text)}</p>' if text else ""
