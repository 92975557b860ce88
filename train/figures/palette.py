"""One color per policy, the same in the plots and in the MLflow UI."""

from __future__ import annotations

import colorsys

from gstds.common.files import sha256

__all__ = ["phase_color", "policy_color"]

# Okabe and Ito's palette, which color-blind readers can tell apart, and darker relatives.
_COLORS = {
    "full": "#4d4d4d",
    "random": "#999999",
    "gstds": "#0072b2",
    "best": "#d55e00",
    "learnability": "#009e73",
    "infobatch": "#e69f00",
    "jest": "#cc79a7",
    "rho-loss": "#56b4e9",
    "big-loss": "#8c510a",
    "selective-backprop": "#b8a800",
    "divbs": "#542788",
    "k-center": "#01665e",
    "lowest-degree": "#c51b7d",
    "plateau": "#a6611a",
    "loss-gap": "#4d9221",
    "gradient-noise": "#762a83",
    "budget": "#e08214",
    "bandit": "#2166ac",
    "oscillating": "#35978f",
    "short-full": "#1a1a1a",
}

_PHASES = {
    "train": "#0072b2",
    "load": "#56b4e9",
    "score": "#e69f00",
    "spectral": "#009e73",
    "policy": "#f0e442",
    "evaluate": "#cc79a7",
    "track": "#d55e00",
    "checkpoint": "#8c510a",
    "monitor": "#7f7f7f",
    "features": "#b3b3b3",
    "probe": "#d4d4d4",
}
_CONTROL = "random:"


def policy_color(name: str) -> str:
    """Return the color of a policy as ``#rrggbb``; unknown names get one from their digest.

    Random samples with another policy's keep sequence have a paler shade of its color.
    """
    if name.startswith(_CONTROL):
        return _paler(policy_color(name.removeprefix(_CONTROL)))
    if name in _COLORS:
        return _COLORS[name]
    digest = bytes.fromhex(sha256(name))
    hue = int.from_bytes(digest[:2], "big") / 65536
    lightness = 0.35 + 0.2 * digest[2] / 255
    rgb = colorsys.hls_to_rgb(hue, lightness, 0.65)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def phase_color(name: str) -> str:
    """Return the color of a phase of a run, such as ``train``, as ``#rrggbb``."""
    return _PHASES.get(name) or policy_color(name)


def _paler(color: str) -> str:
    parts = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(0.5 * part + 0.5 * 235):02x}" for part in parts)
