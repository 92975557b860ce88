"""The Lightning example, and that Lightning's own checkpoints carry a selector."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from test_examples import accuracy_of

from gstds.policies import Selector
from gstds.reference.vision import import_torchvision

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SCRIPT = Path(__file__).parents[2] / "examples" / "lightning_loop.py"
N, CLASSES, BATCH, EPOCHS = 80, 4, 16, 4


@pytest.fixture(scope="module")
def example():
    import_torchvision()
    pytest.importorskip("lightning")
    spec = importlib.util.spec_from_file_location("lightning_loop", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loader():
    x = torch.arange(N * 64).reshape(N, 1, 8, 8).float().cos()
    data = torch.utils.data.TensorDataset(torch.arange(N), x, torch.arange(N) % CLASSES)
    return torch.utils.data.DataLoader(data, batch_size=BATCH)


def module(example, policy="stale-big-loss"):
    steps = EPOCHS * N // BATCH
    selector = Selector(policy, None, steps, labels=np.arange(N) % CLASSES)
    made = example.Digits(selector)
    with torch.no_grad():
        for i, parameter in enumerate(made.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter).add(i).sin() / 10)
    return made


def trainer(example, epochs, folder):
    return example.lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def weights(one):
    return torch.cat([p.detach().flatten() for p in one.parameters()])


def plain_loop(example):
    """The same training without Lightning."""
    one = module(example)
    optimizer = one.configure_optimizers()
    for _ in range(EPOCHS):
        for batch in loader():
            loss = one.training_step(batch, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return one


@pytest.mark.parametrize("policy", ["gstds", "infobatch"])
def test_a_lightning_loop(example, policy):
    assert accuracy_of("lightning_loop.py", "--policy", policy)[0] > 0.7


def test_it_trains_as_the_plain_loop_and_goes_on_from_lightnings_checkpoint(example, tmp_path):
    whole = module(example)
    trainer(example, EPOCHS, tmp_path).fit(whole, loader())
    assert torch.equal(weights(whole), weights(plain_loop(example)))
    part, half = module(example), trainer(example, EPOCHS // 2, tmp_path)
    half.fit(part, loader())
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module(example)
    trainer(example, EPOCHS, tmp_path).fit(resumed, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert resumed.selector.step == whole.selector.step == EPOCHS * N // BATCH
    assert torch.equal(weights(resumed), weights(whole))
