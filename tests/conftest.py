from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A process of its own for each test's store would take the processor from the others. Tests deliver
# by `sync`, and those of the process itself set this to 1.
os.environ.setdefault("GSTDS_UPLOADER", "0")
# Not the home: matplotlib lists the fonts it finds, once.
os.environ.setdefault("MPLCONFIGDIR", str(Path(__file__).parents[1] / ".pytest_cache" / "mpl"))

# Otherwise Ray notes a token of its own making in the home.
os.environ.setdefault("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.plants import marker, pickled  # noqa: F401  (fixtures of every test)
from tests.stores import free_port, mlflow_schema, store_uri  # noqa: F401  (the same)
from tests.told import pytest_runtest_call  # noqa: F401  (a hook of every test)
from tests.untouched import (  # noqa: F401  (hooks of every session)
    pytest_sessionfinish,
    pytest_sessionstart,
    pytest_terminal_summary,
)

# Machines are shared: how long a case takes says nothing about the code.
settings.register_profile("gstds", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gstds")
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """A cache of the session's own, unless one was named."""
    if "GSTDS_CACHE" not in os.environ:
        os.environ["GSTDS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def tiny_npz(tmp_path):
    """100 gray images of 8 by 8 in 4 classes that a linear model can tell apart."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 4
    x = rng.integers(0, 60, size=(200, 8, 8))
    for i, label in enumerate(y):
        x[i, 2 * label : 2 * label + 2] += 150
    path = tmp_path / "tiny.npz"
    np.savez(path, X=x.astype(np.uint8), y=y)
    return f"npz:{path}"
