"""One color per policy, the same in the plots and in the MLflow UI."""

from __future__ import annotations

import colorsys
import hashlib

__all__ = ["policy_color"]

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
}


def policy_color(name: str) -> str:
    """Return the color of a policy as ``#rrggbb``; unknown names get one from their digest."""
    if name in _COLORS:
        return _COLORS[name]
    digest = hashlib.sha256(name.encode()).digest()
    hue = int.from_bytes(digest[:2], "big") / 65536
    lightness = 0.35 + 0.2 * digest[2] / 255
    rgb = colorsys.hls_to_rgb(hue, lightness, 0.65)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
