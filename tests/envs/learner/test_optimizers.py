from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from gstds.envs.learner.optimizers import eager

KINDS = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (torch.optim.AdamW, {"lr": 0.1}),
]


def trained(kind, options, steps=5):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn((5, 9), generator=generator).requires_grad_() for _ in range(2)]
    x = torch.randn((20, 9), generator=generator)
    optimizer = kind([{"params": weights[:1]}], **options)
    optimizer.add_param_group({"params": weights[1:], "lr": 0.01})
    for step in range(steps):
        if step == 3:
            state = optimizer.state_dict()
            optimizer = kind([{"params": weights[:1]}, {"params": weights[1:]}], **options)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        sum((x @ w.T).pow(2).mean() for w in weights).backward()
        optimizer.step()
    return weights, optimizer


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_it_does_what_torchs_does(kind, options):
    (mine, optimizer), (theirs, other) = trained(eager(kind), options), trained(kind, options)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert isinstance(optimizer, kind)
    assert type(optimizer).__name__ == kind.__name__
    assert optimizer.state_dict()["param_groups"] == other.state_dict()["param_groups"]


def test_hooks_and_closures_are_called():
    weight = torch.ones(3, requires_grad=True)
    optimizer = eager(torch.optim.SGD)([weight], lr=0.5)
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))

    def closure():
        optimizer.zero_grad()
        loss = weight.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3
    assert called == ["before", "after"]
    assert weight.tolist() == [0.5] * 3


RUN = """
import sys
import numpy as np
from gstds.envs import DataSelectionEnv
env = DataSelectionEnv(dataset=sys.argv[1], learner=sys.argv[2], batch_size=16)
env.reset(seed=0)
env.step(np.ones(16, np.float32))
env.monitor("selection_validation")
print([name for name in sys.modules if name.startswith("torch._dynamo")])
"""


@pytest.mark.parametrize("learner", ["small-cnn", "mlp"])  # torchvision loads it itself
def test_a_run_does_not_load_the_compiler(tiny_npz, learner):
    words = [sys.executable, "-c", RUN, tiny_npz, learner]
    assert subprocess.check_output(words, text=True) == "[]\n"
