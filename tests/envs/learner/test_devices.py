"""Where a learner runs. What needs a GPU is skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gstds.envs import DataSelectionEnv
from gstds.envs.learner.learner import resolve_device
from gstds.train.running.options import config_from
from gstds.train.running.run import execute
from gstds.train.running.setup import reproducible

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
    ),
]


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match=f"device '{device}' is not present; use one of auto, cpu$"
    ):
        DataSelectionEnv(dataset="digits", device=device)


@pytest.mark.parametrize("device", ["cuda:2", "cuda:x", "cuda:", "cpu:1"])
def test_a_number_that_no_device_has_is_refused(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"is not present; use one of auto, cpu, cuda:0, cuda:1$"):
        resolve_device(device)
    with pytest.raises(ValueError, match="device: unknown name 'gpu'; did you mean 'cpu'"):
        resolve_device("gpu")


NETWORK = """
import torch
from torch import nn

def dropping(shape, classes):
    size = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(size, classes))
"""


@pytest.mark.parametrize("device", DEVICES)
def test_a_users_dropout_is_the_runs_own_on_every_device(tiny_npz, tmp_path, monkeypatch, device):
    (tmp_path / "dropping.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    options = {"dataset": tiny_npz, "policy": "random", "batch_size": 32, "epochs": 1}
    config = config_from(options | {"device": device, "learner": "dropping:dropping"})
    # Torch's default generator stands for a caller's: the run neither reads nor moves it.
    torch.manual_seed(1)
    first = execute(config, tmp_path / "a")
    after = torch.rand(1, device=device)
    torch.manual_seed(2)
    second = execute(config, tmp_path / "b")
    assert first["weights_sha256"] == second["weights_sha256"]
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1, device=device), after)


@pytest.mark.parametrize("device", DEVICES)
def test_deterministic_runs_repeat_to_the_bit(tiny_npz, tmp_path, device):
    options = {"dataset": tiny_npz, "policy": "random", "batch_size": 32, "epochs": 2}
    config = config_from(options | {"device": device, "deterministic": True})
    runs = [execute(config, tmp_path / name) for name in ("a", "b")]
    assert runs[0]["weights_sha256"] == runs[1]["weights_sha256"]
    assert runs[0]["test_loss"] == runs[1]["test_loss"]


def test_deterministic_sets_torch_for_the_run_alone(tiny_npz, tmp_path, monkeypatch):
    (tmp_path / "looking.py").write_text(
        "import torch\nfrom gstds.policies import Policy\nseen = []\n"
        "class Looking(Policy):\n"
        "    def act(self, observation):\n"
        "        seen.append(torch.are_deterministic_algorithms_enabled())\n"
        "        return observation['valid']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = {"dataset": tiny_npz, "policy": "looking:Looking", "batch_size": 32, "epochs": 1}
    for wanted in (True, False):
        execute(config_from(options | {"deterministic": wanted}), tmp_path / str(wanted))
        import looking

        assert set(looking.seen[1:]) == {wanted}  # asked once before the run
        assert not torch.are_deterministic_algorithms_enabled()
        looking.seen.clear()
    with reproducible(True), pytest.raises(ZeroDivisionError), reproducible(True):
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("device", DEVICES)
def test_an_environment_steps_and_goes_on_from_its_state(tiny_npz, device):
    made = [
        DataSelectionEnv(dataset=tiny_npz, batch_size=32, device=device, observe=()) for _ in "ab"
    ]
    first, second = made
    first.reset(seed=0)
    weights = np.ones(32, np.float32)
    for _ in range(2):
        first.step(weights)
    second.reset(seed=5)
    second.load_state_dict(first.state_dict())
    info = [env.step(weights)[4] for env in made]
    assert info[0]["train_loss"] == pytest.approx(info[1]["train_loss"], rel=1e-5)
