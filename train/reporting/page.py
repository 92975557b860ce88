"""Pages of tables, pictures and words from templates, as Markdown or as one HTML file."""

from __future__ import annotations

import base64
from typing import Any

from gstds.train.figures.tables import metric_table

__all__ = ["render"]


def render(template: str, form: str, **values: Any) -> str:
    """Return a page.

    Args:
        template: A file of `templates`.
        form: ``html``, where everything is escaped, or ``markdown``.
        values: What the template shows.

    Raises:
        OSError: If a picture cannot be read.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=form == "html",  # noqa: S701 - Markdown has no escapes
        loader=jinja2.PackageLoader("gstds.train.reporting"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["base64"] = lambda path: base64.b64encode(path.read_bytes()).decode()
    environment.filters["laid_out"] = lambda rows, name: metric_table(name, rows)
    page = environment.get_template(template).render(values, blocks=f"{form}.jinja")
    return page.strip() + "\n"
