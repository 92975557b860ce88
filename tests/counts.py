"""How often a heavy test tries: a reduced count in `make test-slow`, the full one in test-soak."""

from __future__ import annotations

import pytest


def counts(slow: int, soak: int) -> pytest.MarkDecorator:
    """Parametrize ``cases`` by a reduced count under the marker slow, a full one under soak."""
    return pytest.mark.parametrize(
        "cases",
        [
            pytest.param(slow, marks=pytest.mark.slow, id=f"{slow}"),
            pytest.param(soak, marks=pytest.mark.soak, id=f"{soak}"),
        ],
    )
