"""What the command line's parser and its commands both speak of."""

from __future__ import annotations

__all__ = ["EXIT_BAD_INPUT", "EXIT_DONE", "EXIT_FAILED", "EXIT_INTERRUPTED", "LIST_KINDS"]

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130
LIST_KINDS = (
    "policies",
    "schedules",
    "scores",
    "pickers",
    "datasets",
    "learners",
    "references",
    "agents",
    "observations",
)
"""What `gstds list` lists."""
