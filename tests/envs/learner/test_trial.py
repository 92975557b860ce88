"""A user's network is tried before anything dear, in both modes, and what is wrong is said."""

from __future__ import annotations

import logging
import os
import random
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from gstds.common.state import state_digest
from gstds.envs.learner.learner import Learner
from gstds.observation.cost import count_flops
from gstds.options.world import LearnerOptions
from tests.told import WARNED, note

SHAPE, CLASSES = (3, 8, 8), 5


class Net(nn.Module):
    """Linear, with whatever a test puts before and behind it."""

    def __init__(self, before=lambda x: x, behind=lambda y, net: y, classes=CLASSES):
        super().__init__()
        self.head, self._parts = nn.Linear(192, classes), (before, behind)

    def forward(self, x):
        before, behind = self._parts
        return behind(self.head(before(x).flatten(1)), self)


@pytest.fixture
def learner(monkeypatch):
    def make(function, **options):
        module = ModuleType("users_net")
        module.make = lambda: function()
        monkeypatch.setitem(sys.modules, "users_net", module)
        return Learner(
            LearnerOptions(learner="users_net:make", **options),
            shape=SHAPE,
            classes=CLASSES,
            seed=3,
            device=torch.device("cpu"),
        )

    return make


def frozen():
    return Net().requires_grad_(False)


def infinite():
    net = Net()
    nn.init.constant_(net.head.weight, torch.nan)
    return net


WRONG = {
    "dict": (
        lambda: Net(behind=lambda y, net: {"logits": y, "aux": y}),
        r"must return a tensor \(n, 5\) in evaluation mode, .* got dict with 'logits', 'aux'; "
        "return one of its entries",
    ),
    "tuple in training": (
        lambda: Net(behind=lambda y, net: (y, y) if net.training else y),
        r"in training mode, of logits, got tuple of 2; return one of its items",
    ),
    "list": (lambda: Net(behind=lambda y, net: [y]), "got list of 1"),
    "None": (lambda: Net(behind=lambda y, net: None), "got NoneType"),
    "classes": (lambda: Net(classes=7), r"\(n, 5\) in evaluation mode.* got \(4, 7\)"),
    "one image squeezed": (
        lambda: Net(behind=lambda y, net: y.squeeze()),
        r"got \(5,\) of 1 images",
    ),
    "one image squeezed in training": (
        lambda: Net(behind=lambda y, net: y.squeeze() if net.training else y),
        r"in training mode.* got \(5,\) of 1 images",
    ),
    "frozen": (frozen, "nothing to train: all of its 2 parameters are frozen"),
    "no parameters": (nn.Flatten, "nothing to train: all of its 0 parameters"),
    "double": (lambda: Net().double(), r"torch\.float64 \(images are float32: .*model\.float"),
    "half": (lambda: Net().half(), r"torch\.float16 \(images are float32"),
    "detached": (
        lambda: Net(behind=lambda y, net: y.detach()),
        "does not depend on its parameters",
    ),
    "counted": (lambda: Net(behind=lambda y, net: (y > 0).long()), "does not depend"),
    "NaN": (infinite, "not finite before any training, in evaluation mode"),
    "probabilities": (lambda: Net(behind=lambda y, net: y.softmax(1)), "leave the softmax out"),
    "batch size": (lambda: Net(before=lambda x: x.view(128, 192)), "shape .* is invalid"),
}


@pytest.mark.parametrize(("make", "words"), WRONG.values(), ids=WRONG)
@pytest.mark.told("Networks", "a network: {id}")
def test_what_cannot_be_trained_is_refused_in_words(learner, make, words):
    with pytest.raises(ValueError, match=words) as caught:
        learner(make, precision="float32")
    assert "users_net:make" in str(caught.value)


def train(one, steps=2):
    random = np.random.default_rng(0)
    for step in range(steps):
        images = torch.from_numpy(random.standard_normal((6, *SHAPE), dtype=np.float32))
        labels = torch.from_numpy(random.integers(0, CLASSES, 6))
        layout = images.to(memory_format=torch.channels_last)  # as the loader lays them
        losses = one.update(layout, labels, torch.ones(6), 6, step=step)
    return losses


@pytest.mark.told(
    "Networks",
    "`x.view(len(x), -1)` of color images",
    works="images are contiguous, unless the network's weights are channels_last",
)
def test_view_of_rgb_works(learner):
    viewed = train(learner(lambda: Net(before=lambda x: x.view(len(x), -1))))
    assert np.array_equal(viewed, train(learner(Net)))


def layout_of(learner, make):
    seen = []

    def look(x):
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return x

    train(learner(lambda: make(look)))
    return seen[-1]


def test_the_layout_of_images_is_the_one_of_the_networks_weights(learner):
    last = torch.channels_last
    assert not layout_of(learner, Net)
    assert not layout_of(learner, _convolutional)
    assert layout_of(learner, lambda look: _convolutional(look).to(memory_format=last))


def _convolutional(look):
    return nn.Sequential(_Looking(look), nn.Conv2d(3, 3, 3, padding=1), Net())


class _Looking(nn.Module):
    def __init__(self, look):
        super().__init__()
        self._look = look

    def forward(self, x):
        return self._look(x)


def reads_a_value(x):
    return x * 2 if x.abs().sum().item() > 0 else x


def branches(x):
    return x / 2 if x.mean() > 0 else x


@pytest.mark.parametrize("before", [reads_a_value, branches])
@pytest.mark.told(
    "Networks",
    "`.item()` or a branch on values in `forward`",
    works="operations are counted on real tensors",
)
def test_operations_are_counted_where_values_are_read(learner, caplog, before):
    one = learner(lambda: Net(before=before))
    assert one.train_flops == count_flops(Net(), SHAPE, train=True) > 0
    assert one.forward_flops == count_flops(Net(), SHAPE, train=False) == 2 * 192 * CLASSES
    assert "operations" not in caplog.text


class Scales(nn.Module):
    """Nothing that torch's counter knows."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CLASSES, 192))

    def forward(self, x):
        return (x.flatten(1)[:, None] * self.scale).sum(2)


@pytest.mark.told("Networks", "a network of operations that torch cannot count")
def test_what_cannot_be_counted_is_estimated_with_a_warning(learner, caplog):
    with caplog.at_level(logging.WARNING):
        one = learner(Scales)
    assert (one.forward_flops, one.train_flops) == (2 * 960, 6 * 960)
    assert "finds no operations" in caplog.text
    note(caplog.messages[0], WARNED)


def test_the_trial_leaves_no_trace(learner):
    def make():
        conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        return nn.Sequential(conv, norm, nn.Dropout(), nn.Flatten(), nn.Linear(144, CLASSES))

    torch.manual_seed(3)
    net = make()
    digest, before = state_digest(net.state_dict()), torch.random.get_rng_state()
    one = learner(make)
    assert state_digest(one.model.state_dict()) == digest
    assert all(p.grad is None for p in one.model.parameters())
    assert torch.random.get_rng_state().equal(before)


ONLY = Net()


def drawn_by_numpy():
    net = Net()
    net.head.weight.data = torch.from_numpy(np.random.standard_normal((CLASSES, 192))).float()  # noqa: NPY002
    return net


@pytest.mark.parametrize("make", [lambda: ONLY, lambda: nn.Sequential(ONLY), drawn_by_numpy])
def test_a_network_is_made_anew_from_its_seed(learner, make):
    with pytest.raises(ValueError, match="must make a network anew whenever it is called"):
        learner(make)


def test_weights_that_do_not_copy_are_no_matter(learner):
    def make():  # torch.nn.utils.weight_norm: its weight is no leaf; and a file does not copy
        net = Net()
        net.head = nn.utils.weight_norm(net.head)
        net.log = open(os.devnull)  # noqa: SIM115
        return net

    with pytest.warns(FutureWarning, match="weight_norm"):
        assert np.isfinite(train(learner(make))).all()


def test_a_change_of_images_in_place_stays_the_networks_own(learner):
    one, images = learner(lambda: Net(before=lambda x: x.mul_(2).add_(1))), torch.ones(6, *SHAPE)
    for layout in (torch.contiguous_format, torch.channels_last):
        laid = images.to(memory_format=layout)
        one.logits(laid)
        one.update(laid, torch.zeros(6, dtype=torch.long), torch.ones(6), 6, step=0)
        assert torch.equal(laid, torch.ones(6, *SHAPE))
    pure = learner(lambda: Net(before=lambda x: x * 2 + 1))
    assert np.array_equal(
        train(learner(lambda: Net(before=lambda x: x.mul_(2).add_(1)))), train(pure)
    )


class Counts(Net):
    """Its answers grow with the batches that it was trained on."""

    def __init__(self, keep):
        super().__init__(behind=lambda y, net: y * (1 + net.count))
        if keep is None:
            self.count = 0
        else:
            self.register_buffer("count", torch.zeros(()), persistent=keep)

    def forward(self, x):
        self.count += self.training
        return super().forward(x)


def noise(x):
    return x + torch.from_numpy(np.random.standard_normal(x.shape)).float()  # noqa: NPY002


@pytest.mark.parametrize(
    ("make", "warned"),
    [
        (lambda: Counts(None), True),
        (lambda: Counts(False), True),
        (lambda: Counts(True), False),
        (lambda: Net(before=noise), True),
        (lambda: Net(before=lambda x: x * random.random()), True),
        (lambda: Net(before=lambda x: x + torch.randn_like(x)), False),
        (lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, CLASSES)), False),
        (lambda: nn.utils.parametrizations.spectral_norm(Net().head, "weight"), None),
    ],
)
def test_what_decides_and_is_not_in_the_state_is_told(learner, caplog, make, warned):
    learner(make if warned is not None else lambda: nn.Sequential(nn.Flatten(), make()))
    assert ("answers otherwise once its state_dict is put back" in caplog.text) is bool(warned)


@pytest.mark.parametrize(
    ("make", "warned"),
    [
        (lambda: Net(behind=lambda y, net: y.flip(0)), True),
        (lambda: Net(behind=lambda y, net: y - y.mean(0)), True),
        (lambda: Net(before=lambda x: x.transpose(0, 1).reshape(x.shape)), True),
        (lambda: Net(before=lambda x: nn.functional.layer_norm(x, SHAPE)), False),
        (lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, CLASSES)), False),
    ],
)
def test_rows_that_are_mixed_up_are_told(learner, caplog, make, warned):
    learner(make)
    assert ("answers an image otherwise beside others" in caplog.text) is warned


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_operations_of_convolutions_in_groups(learner, groups):
    def make():
        convs = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, padding=1, groups=groups)
        up = nn.ConvTranspose2d(16, 8, 3, padding=1, groups=groups)
        return nn.Sequential(*convs, up, nn.Flatten(), nn.Linear(512, CLASSES))

    first = 2 * 24 * 64
    others = 2 * 2 * (16 * 8 * 9 // groups) * 64 + 2 * 512 * CLASSES
    one = learner(make)
    assert one.forward_flops == first + others
    assert one.train_flops == 2 * first + 3 * others


def test_the_smallest_batch_is_found(learner):
    flat = nn.Sequential
    assert learner(Net).min_batch == 1
    norm = learner(lambda: flat(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, CLASSES)))
    assert norm.min_batch == 2


@pytest.mark.told("Networks", "lazy layers", works="made by a first batch, from the seed")
def test_lazy_layers_get_their_shapes_from_the_seed(learner):
    def make():
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(CLASSES))

    one, same = learner(make), learner(make)
    assert state_digest(one.model.state_dict()) == state_digest(same.model.state_dict())
    assert np.isfinite(train(one)).all()
