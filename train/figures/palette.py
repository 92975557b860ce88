"""One color per policy, the same in the plots and in the MLflow UI."""

from __future__ import annotations

import colorsys
import functools
import tomllib
from pathlib import Path

from gstds.common.files import sha256

__all__ = ["phase_color", "policy_color"]

_CONTROL = "random:"


def policy_color(name: str) -> str:
    """Return the color of a policy as ``#rrggbb``; unknown names get one from their digest.

    Random samples with another policy's keep sequence have a paler shade of its color.
    """
    if name.startswith(_CONTROL):
        return _paler(policy_color(name.removeprefix(_CONTROL)))
    if name in _table()["policies"]:
        return _table()["policies"][name]
    digest = bytes.fromhex(sha256(name))
    hue = int.from_bytes(digest[:2], "big") / 65536
    lightness = 0.35 + 0.2 * digest[2] / 255
    rgb = colorsys.hls_to_rgb(hue, lightness, 0.65)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def phase_color(name: str) -> str:
    """Return the color of a phase of a run, such as ``train``, as ``#rrggbb``."""
    return _table()["phases"].get(name) or policy_color(name)


@functools.cache
def _table() -> dict[str, dict[str, str]]:
    text = Path(__file__).with_name("palette.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _paler(color: str) -> str:
    parts = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(0.5 * part + 0.5 * 235):02x}" for part in parts)
