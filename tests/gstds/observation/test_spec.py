"""One table of observations: bounds, sources, hints."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gstds.observation.batch_view import batch_view
from gstds.observation.memory import SampleMemory
from gstds.observation.spec import (
    OBSERVATIONS,
    OPTIONAL_OBSERVATIONS,
    asked_of,
    check_observe,
    observation_bounds,
)
from gstds.policies.base import Policy
from gstds.policies.dropin.arguments import check_needs
from gstds.train.cli.main import main
from tests.policies.views import full_view

N, C, D, H = 6, 3, 5, 4
LARGEST = float(np.finfo(np.float32).max)
ALWAYS = {
    "last_losses": (-LARGEST, LARGEST, (N,)),
    "visited": (0, 1, (N,)),
    "age": (0, 1, (N,)),
    "labels": (0, C - 1, (N,)),
    "valid": (0, 1, (N,)),
    "noise": (0, 1, (N,)),
    "progress": (0, 1, (1,)),
    "budget_left": (0, 1, (1,)),
    "keep_ratio": (0, 1, (1,)),
    "train_loss": (-LARGEST, LARGEST, (1,)),
    "train_loss_ratio": (-LARGEST, LARGEST, (1,)),
    "mean_last_loss": (-LARGEST, LARGEST, (1,)),
}
ASKED = {
    "spectral_scores": (-1, 1, (N,)),
    "lambda2": (0, 1, (1,)),
    "eigengap": (0, 1, (1,)),
    "effective_nodes": (0, 1, (1,)),
    "reference_losses": (-LARGEST, LARGEST, (N,)),
    "learner_losses": (-LARGEST, LARGEST, (N,)),
    "learner_margin": (0, 1, (N,)),
    "learner_entropy": (0, 1, (N,)),
    "learner_probabilities": (0, 1, (N, C)),
    "learner_embeddings": (-1000, 1000, (N, H)),
    "features": (-1, 1, (N, D)),
    "degrees": (-1, 1, (N,)),
    "validation_loss": (-LARGEST, LARGEST, (1,)),
    "validation_accuracy": (0, 1, (1,)),
    "gradient_noise": (0, 1, (1,)),
    "indices": (-1, 2**31 - 1, (N,)),
}


def test_the_bounds_are_these():
    assert observation_bounds({}, N, C, D, H) == ALWAYS
    assert observation_bounds(OPTIONAL_OBSERVATIONS, N, C, D, H) == ALWAYS | ASKED
    assert list(observation_bounds(OPTIONAL_OBSERVATIONS, N, C, D, H)) == sorted(OBSERVATIONS)
    with_features = observation_bounds({"features": {}, "learner_embeddings": {}}, N, C)
    assert with_features == ALWAYS  # whose width is not known
    assert set(full_view()) == set(OBSERVATIONS)


def test_sources_are_asked_in_the_rows_order():
    assert asked_of({"degrees": {}, "features": {}, "age": {}}, "features") == [
        "features",
        "degrees",
    ]
    assert asked_of(["validation_loss", "gradient_noise"], "evaluation") == ["validation_loss"]


@pytest.mark.parametrize(
    ("observe", "message"),
    [
        ({"lambda2": {}}, "mine: 'lambda2' is not to be named; it comes with 'spectral_scores'"),
        ({"noise": {}}, "mine: 'noise' is not to be named; it is always there"),
        ({"spectral_scores": {"sign": "up"}}, "mine: 'spectral_scores' with .*'up'"),
        ({"degree": {}}, "mine: unknown name 'degree'; did you mean 'degrees'"),
        ({"degrees": {"sign": 1}}, "mine: 'degrees' has no option 'sign'; known: affinity"),
    ],
)
def test_what_is_not_in_the_table_is_refused(observe, message):
    with pytest.raises(ValueError, match=message):
        check_observe("mine", observe)


def test_an_option_with_a_wrong_value_is_refused_by_what_reads_it():
    class Mine(Policy):
        needs = {"degrees": {"affinity": "far"}}  # noqa: RUF012

    with pytest.raises(ValueError, match=r"needs of policy 'mine': 'degrees' with .*'far'"):
        check_needs("mine", Mine())


def test_a_view_of_no_batch_has_its_shapes_and_what_is_known_of_the_run():
    memory = SampleMemory(8, C)
    memory.remember(np.arange(3), [1.0, 2.0, 3.0], 0.5)
    bounds = observation_bounds(OPTIONAL_OBSERVATIONS, N, C, D, H)
    none = np.empty(0, dtype=np.int64)
    view = batch_view(bounds, none, memory, seed=0, step=3, progress=1.0, budget_left=np.nan)
    assert {name: value.shape for name, value in view.items()} == {
        name: shape for name, (_, _, shape) in bounds.items()
    }
    assert view["train_loss"] == pytest.approx([2.0])
    assert view["progress"] == [1.0]
    assert sum(float(abs(view[name]).sum()) for name in set(ASKED) - {"indices"}) == 0.0
    assert (view["indices"] == -1).all()
    assert view["valid"].sum() == 0.0
    assert {name for name, value in view.items() if value.dtype != np.float32} == {"indices"}


def test_they_are_listed(capsys):
    assert main(["list", "observations"]) == 0
    lines = dict(re.findall(r"(\w+)\t(.*)", capsys.readouterr().out))
    assert list(lines) == list(OBSERVATIONS)
    assert lines["degrees"] == "(N,) in [-1, 1]: mean similarity to the batch; charged: 4 N D"
