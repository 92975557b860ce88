"""Vectors of environments in a process as a user starts it: its own threads, nothing set.

Every test's own process has one thread, which hides what a fork inherits of the pools of others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="where there is a GPU environments are spawned"
)
OF_THREADS = ("OMP_", "GOMP_", "MKL_", "KMP_", "OPENBLAS_", "NUMEXPR_")
SECONDS = 240  # some take 10, on an idle machine; a hang takes for ever

BEGIN = """
import sys
import gymnasium, numpy as np, torch

SMALL = dict(dataset=sys.argv[1], batch_size=32, epochs=2, learner="small-cnn")
torch.set_num_threads(max(2, torch.get_num_threads()))  # as many as anybody's machine has

def make(name, **options):
    return gymnasium.make(f"gstds.envs:gstds/{name}-v0", **SMALL, **options)

def wide():
    a = torch.randn(600, 600, requires_grad=True)
    torch.nn.Conv2d(3, 8, 3)(torch.randn(64, 3, 32, 32)).sum().backward()
    (a @ a).sum().backward()
    np.linalg.eigh(np.ones((300, 300)) + np.eye(300))
"""

STEPS = """
def taken(name, mode, action):
    vector = gymnasium.make_vec(
        f"gstds.envs:gstds/{name}-v0", num_envs=2, vectorization_mode=mode, **SMALL
    )
    seen = [vector.reset(seed=1)[0]]
    for _ in range(3):
        observation, rewards, *_ = vector.step(action)
        seen += [observation, rewards]
    vector.close()
    return seen

ratios = np.array([2, 7])
weights = np.ones((2, 32), np.float32)
for name, action in (("KeepRatio", ratios), ("DataSelection", weights)):
    there, here = (taken(name, mode, action) for mode in ("async", "sync"))
    np.testing.assert_equal(there, here)
    assert len(there) == 7
    wide()
"""

BY_FUNCTION = """
vector = gymnasium.vector.AsyncVectorEnv([lambda: make("KeepRatio")] * 2)
wide()
vector.reset(seed=1)
vector.step(vector.action_space.sample())
vector.close()
"""

IN_MID_EPISODE = """
import multiprocessing

env = make("DataSelection")
ones = np.ones(32, np.float32)
env.reset(seed=0)

def go_on():
    env.step(ones)
    env.reset(seed=1)
    env.step(ones)

for _ in range(2):
    env.step(ones)
    child = multiprocessing.get_context("fork").Process(target=go_on)
    child.start()
    child.join()
    assert child.exitcode == 0
"""

# Of before GCC 9: nothing puts the pool down.
OLD_LIBGOMP = (
    """
from types import SimpleNamespace
import gstds.common.forks

old = SimpleNamespace(lib_controllers=[SimpleNamespace(dynlib=None)])
controller = SimpleNamespace(select=lambda prefix: old)
gstds.common.forks.threadpoolctl = SimpleNamespace(ThreadpoolController=lambda: controller)
"""
    + BY_FUNCTION
)

STABLE_BASELINES = """
from stable_baselines3.common.vec_env import SubprocVecEnv

# Forked from a process that has used torch and never saw an environment; and by its default.
for method in ("fork", None):
    wide()
    vector = SubprocVecEnv([lambda: make("KeepRatio")] * 2, start_method=method)
    vector.reset()
    assert vector.step([2, 7])[1].shape == (2,)
    vector.close()
"""


def finishes(script, *words):
    """Run a script with the threads that users have; a hang is ended, and fails."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OF_THREADS)}
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + textwrap.dedent(script), *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        pytest.fail(f"hangs: not done after {SECONDS} seconds")
    finally:
        with contextlib.suppress(ProcessLookupError):  # forked children would wait on, orphaned
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, output


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(STEPS, id="by id"),
        pytest.param(BY_FUNCTION, id="by function", marks=pytest.mark.slow),
        pytest.param(IN_MID_EPISODE, id="in mid-episode", marks=pytest.mark.slow),
        pytest.param(OLD_LIBGOMP, id="old libgomp", marks=pytest.mark.slow),
    ],
)
def test_vectors_and_forks_go_on_as_in_one_process(tiny_npz, script):
    finishes(script, tiny_npz)


@pytest.mark.slow
def test_stable_baselines_vectors_start(tiny_npz):
    pytest.importorskip("stable_baselines3")
    finishes(STABLE_BASELINES, tiny_npz)
