from __future__ import annotations

import pytest
import torch

from gstds.envs.learner.models import LEARNERS, build_model
from gstds.observation.cost import Ledger, count_flops, count_layers
from gstds.reference import networks as backbones


def _resnet18_forward(side):
    """Multiply-adds of ResNet-18 with a 3x3 stem and no pooling, layer by layer."""
    total = side * side * 9 * 3 * 64
    total += 4 * side * side * 9 * 64 * 64
    before = 64
    for width in (128, 256, 512):
        side //= 2
        area = side * side
        total += area * 9 * before * width + 3 * area * 9 * width * width
        total += area * before * width
        before = width
    return total + 512 * 10


def test_resnet18_costs_what_a_hand_count_says():
    model = build_model("resnet18", (3, 32, 32), 10, 0)
    forward = 2 * _resnet18_forward(32)
    stem = 2 * 32 * 32 * 9 * 3 * 64  # no gradient with respect to the images
    assert count_flops(model, (3, 32, 32), train=False) == pytest.approx(forward, rel=0.01)
    train = count_flops(model, (3, 32, 32), train=True)
    assert train == pytest.approx(3 * forward - stem, rel=0.01)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 32, 32), pytest.param((3, 64, 64), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", LEARNERS)
def test_counting_layers_is_torchs_count_for_every_built_in_learner(name, shape, train):
    model = build_model(name, shape, 10, 0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    counted = count_layers(model, shape, train=train)
    assert counted == count_flops(model, shape, train=train) > 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("architecture", [backbones.LITE0, "resnet50"])
def test_counting_layers_is_torchs_count_for_every_backbone(architecture):
    network = backbones.build(architecture, 64).to_empty(device="cpu")
    counted = count_layers(network, (3, 64, 64), train=False, batch=1)
    assert counted == count_flops(network, (3, 64, 64), train=False, batch=1) > 0


def test_frozen_layers_have_no_gradient_to_count():
    model = build_model("mlp", (1, 8, 8), 10, 0)
    next(m for m in model.modules() if isinstance(m, torch.nn.Linear)).requires_grad_(False)
    counted = count_layers(model, (1, 8, 8), train=True)
    assert counted == count_flops(model, (1, 8, 8), train=True)


def test_the_ledger_charges_what_a_policy_is_responsible_for():
    ledger = Ledger()
    for phase in ("train", "score", "spectral", "evaluate"):
        ledger.charge(phase, 10)
    ledger.charge("monitor", 1000)
    ledger.charge("features", 7)
    assert ledger.charged_flops == 40
    assert ledger.reference_flops == 7
    other = Ledger()
    other.load_state_dict(ledger.state_dict())
    assert other.flops == ledger.flops


@pytest.mark.parametrize(("phase", "flops"), [("trian", 1), ("train", -1), ("train", float("nan"))])
def test_a_wrong_charge_is_refused(phase, flops):
    with pytest.raises(ValueError, match="phase"):
        Ledger().charge(phase, flops)


def test_seconds_add_up():
    ticks = iter([0.0, 2.0, 5.0, 6.0])
    ledger = Ledger(clock=lambda: next(ticks))
    for _ in range(2):
        with ledger.timed("train"):
            pass
    assert ledger.seconds == {"train": 3.0}
