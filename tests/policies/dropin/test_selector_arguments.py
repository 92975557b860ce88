"""What a Selector is made with: used as it was meant, or refused by name before the first batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_selector import CLASSES, N, selector, store  # noqa: F401  (store is a fixture)

from gstds.policies import Policy, Selector, make_policy
from gstds.selection.schedules import make_schedule
from gstds.store.feature_store import LOSSES_NAME, save_losses

LOSSES = np.arange(N) / N


class Looking(Policy):
    """Keeps all, and notes what it saw."""

    needs = {"reference_losses": {}}  # noqa: RUF012
    seen = None

    def act(self, observation):
        self.seen = observation
        return np.ones(len(observation["valid"]), dtype=np.float32)


@pytest.fixture
def whole(store):  # noqa: F811
    """A store with reference losses and their number of classes."""
    save_losses(store.path / LOSSES_NAME, LOSSES, {"num_classes": CLASSES})
    return store


def shown(*arguments, **options):
    policy = Looking()
    Selector(policy, *arguments, **options).select(np.arange(4))
    return policy.seen["reference_losses"]


def test_rows_are_those_of_the_stores_losses_too(whole):
    rows = np.arange(40, 60)
    wanted = LOSSES[40:44].astype(np.float32)
    options = {"rows": rows, "labels": np.arange(20) % 4}
    assert shown(whole, 9, **options).tolist() == wanted.tolist()
    file = str(whole.path / LOSSES_NAME)
    assert shown(None, 9, reference_losses=file, **options).tolist() == wanted.tolist()
    own = np.linspace(0, 1, 20, dtype=np.float32)
    assert shown(whole, 9, reference_losses=own, **options).tolist() == own[:4].tolist()


@pytest.mark.parametrize("name", ["random", "full", "infobatch", "lowest-degree"])
def test_the_stores_note_says_the_number_of_classes_whatever_is_needed(whole, name):
    assert Selector(name, whole, 9).state_dict()["num_classes"] == CLASSES
    assert Selector(name, str(whole.path), 9).state_dict()["num_samples"] == N


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        ("best", {"keep": 0.5}, r"keep: policy 'best' has a keep ratio of its own and follows no "
         r"schedule, got 0\.5; leave it out; it is set by make_policy\('best', keep=\.\.\."),
        ("full", {"keep": 0.5}, r"keep: policy 'full' has .*, got 0\.5; leave it out$"),
        ("plateau", {"schedule": "constant"}, "schedule: policy 'plateau' has a keep ratio"),
        ("random", {"schedule": make_schedule("constant"), "keep": 0.7},
         r"keep must be None beside a schedule that is made already, got 0\.7"),
    ],
)  # fmt: skip
@pytest.mark.told("Loops of your own", "`Selector('{policy}', …, {options})`")
def test_a_schedule_that_would_change_nothing_is_refused(policy, options, message):
    with pytest.raises(ValueError, match=message):
        selector(policy=policy, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": np.zeros(70, int)}, "labels says 70, reference_losses 60"),
        ({"num_samples": 70}, "num_samples says 70, labels 60"),
        ({"reference_losses": np.ones(10)}, "labels says 60, reference_losses 10"),
        ({"rows": np.arange(10)}, "labels says 60, rows 10"),
        ({"rows": np.arange(N) - 1}, "rows must be at least 0, got -1 at position 0"),
        ({"rows": np.arange(N) + 1}, r"rows must lie in \[0, 59\], got 60"),
        ({"labels": np.arange(N) - 1}, "labels must be at least 0, got -1 at position 0"),
        ({"labels": np.zeros((N, 1), int)}, r"labels must have shape .*pass labels.reshape\(-1\)"),
        ({"labels": np.ones((N, 4), int)}, r"labels must have shape .*multi-label .*num_samples="),
        ({"labels": []}, r"labels must have shape \(n,\), n > 0, got \(0,\)"),
        ({"num_classes": 3}, "num_classes must be above every label, got 3, and a 3"),
    ],
)
@pytest.mark.told("Loops of your own", "`Selector(…, {options})` of 60 samples")
def test_sizes_that_disagree_are_refused_when_it_is_made(store, options, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        selector(store, policy=Looking(), **options)


@pytest.mark.told("Loops of your own", "a store of 60 samples, `labels=np.zeros(70)`")
def test_a_store_of_other_samples_is_refused(store):  # noqa: F811
    with pytest.raises(ValueError, match=r"labels says 70, store 60; .*pass rows="):
        Selector("random", store, 9, labels=np.zeros(70, int))
    with pytest.raises(ValueError, match=r"labels says 50, store 60; .*pass rows="):
        Selector("random", store, 9, labels=np.zeros(50, int))
    half = np.arange(50)
    chooser = Selector("random", store, 9, labels=half % 4, rows=half)
    assert chooser.state_dict()["num_samples"] == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": np.arange(N) + 0.5}, "rows must be whole numbers, got float64 such as 0.5"),
        ({"labels": np.arange(N) + 0.5}, "labels must be whole numbers.*targets of a regression"),
        ({"schedule": 0.5, "policy": "random"}, r"schedule must be .*got 0\.5"),
        ({"reference_losses": ["a"] * N}, "reference_losses must be numbers, got <U1"),
        ({"price": "x"}, "price must be a number, got 'x'"),
        ({"policy": Looking}, r"policy must be made already, got a class; pass Looking\(\.\.\.\)"),
        ({"policy": 7}, "policy must be a gstds.Policy or the name of one, got 7"),
        ({"store": 5}, "store must be a FeatureStore, its folder or None, got 5"),
        ({"distributed": "yes"}, "distributed must be True, False or None"),
    ],
)
@pytest.mark.told("Loops of your own", "`Selector(…, {options})`")
def test_arguments_of_the_wrong_type_are_named(options, message):
    with pytest.raises(TypeError, match=message):
        selector(**{"policy": Looking()} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"sample_flops": 0}, r"sample_flops must be in \(0, inf\], got 0"),
        ({"sample_flops": float("nan")}, "sample_flops must be in"),
        ({"forward_flops": -1}, "forward_flops must be in"),
        ({"device": "tpu9"}, "device must be a torch device, .*, got 'tpu9'"),
    ],
)
@pytest.mark.told("Loops of your own", "`Selector(…, {options})`")
def test_arguments_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        selector(**options)


def test_labels_may_be_whole_floats_bools_or_a_tensor():
    for labels in (torch.arange(N) % 4, (np.arange(N) % 4).astype(float), np.arange(N) % 2 > 0):
        assert selector(labels=labels).state_dict()["num_samples"] == N


# ---------------------------------------------------------------------- a policy that is made


def declaring(**declared):
    return type("Declaring", (Looking,), {"needs": {}, **declared})()


@pytest.mark.parametrize(
    ("declared", "kind", "message"),
    [
        ({"needs": ["degrees"]}, TypeError, "needs of policy 'Declaring' must map names"),
        ({"needs": {"refrence_losses": {}}}, ValueError,
         "needs of policy 'Declaring': unknown name 'refrence_losses'; did you mean 'reference_lo"),
        ({"needs": {"degrees": {"afinity": "clamp"}}}, ValueError,
         "'degrees' has no option 'afinity'; did you mean 'affinity'"),
        ({"needs": {"degrees": {"affinity": "clump"}}}, ValueError,
         "needs of policy 'Declaring': 'degrees' with .*affinity: unknown name 'clump'"),
        ({"needs": {"spectral_scores": {"sign": "plus"}}}, ValueError, "sign: unknown name 'plus'"),
        ({"needs": property(lambda self: 1 / 0)}, ValueError,
         "needs of policy 'Declaring' raised ZeroDivisionError"),
        ({"max_weight": "big"}, TypeError, "max_weight of policy 'Declaring' must be a number"),
        ({"normalizer": "sum"}, ValueError, "normalizer of policy 'Declaring': unknown name 'sum'"),
    ],
)  # fmt: skip
@pytest.mark.told("Policies and plug-ins", "a policy with `{declared}`")
def test_a_made_policy_is_checked_as_a_named_one(store, declared, kind, message):  # noqa: F811
    with pytest.raises(kind, match=message):
        selector(store, policy=declaring(**declared))


@pytest.mark.parametrize("method", ["reset", "act", "learn"])
@pytest.mark.told("Policies and plug-ins", "`{method}` raises, in a loop of your own")
def test_what_a_policy_raises_is_told_with_its_name_and_the_step(method):
    def broken(self, *_):
        raise RuntimeError("my own mistake")

    chooser = selector(policy=declaring(**{method: broken}))
    if method == "learn":
        chooser.select(np.arange(5))
        chooser.observe_losses(np.arange(5), np.ones(5))
    with pytest.raises(ValueError, match=r"policy 'Declaring' \(step [01]\) raised Run") as told:
        chooser.select(np.arange(5))
    assert isinstance(told.value.__cause__, RuntimeError)
    assert chooser.step == (method == "learn")


def test_a_policy_made_with_parameters_is_taken():
    assert len(selector(policy=make_policy("random", schedule="constant")).select([1, 2])[0]) == 1
