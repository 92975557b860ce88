"""What every worker process needs, imported once in the process that they are forked from.

Torch takes longer to import than a short run takes. Nothing here may compute: a process
whose libraries have started threads cannot be forked. Only the fork server of
`gstds.train.launching.jobs` imports this module.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys

MODULES = (
    "gstds.train.cli.main",
    "gstds.train.comparing.compare",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "PIL.Image",
)


def _preload() -> None:
    # Ctrl-C reaches the whole group; the server leaves it to its workers, also while it imports.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    for name in MODULES:
        if os.getppid() != parent:  # refused its input meanwhile: nobody will ask for a worker
            raise SystemExit
        # What cannot be imported is told by the worker that needs it.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


if any("multiprocessing.forkserver" in word for word in sys.orig_argv):
    _preload()
