from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from gstds import policies
from gstds.common.state import latest_state, save_state
from gstds.policies import registry
from gstds.policies.base import Transition
from gstds.policies.registry import (
    POLICIES,
    check_declarations,
    follows_schedule,
    policy_class,
    refuse_misspelt,
)
from gstds.selection.schedules import Constant, make_schedule
from tests.policies.cards import card
from tests.policies.views import CONTEXT, N, full_view, permuted


def observation(progress=0.0, n=N, valid=N, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "valid": (np.arange(n) < valid).astype(np.float32),
        "noise": rng.random(n).astype(np.float32),
        "spectral_scores": rng.random(n).astype(np.float32),
        "reference_losses": rng.random(n).astype(np.float32),
        "progress": np.array([progress], np.float32),
        "train_loss": np.array([2.3], np.float32),
    }


ALWAYS_THERE = {
    "last_losses",
    "visited",
    "age",
    "labels",
    "valid",
    "noise",
    "progress",
    "budget_left",
    "keep_ratio",
    "train_loss",
    "train_loss_ratio",
    "mean_last_loss",
}


class ReadsOnlyItsNeeds(dict):
    """An observation in which an undeclared optional key is not there to be read."""

    def __init__(self, policy, full):
        needs = set(policy.needs)
        needs |= {"lambda2", "eigengap", "effective_nodes"} if "spectral_scores" in needs else set()
        super().__init__({k: v for k, v in full.items() if k in ALWAYS_THERE | needs})


@pytest.mark.told("Policies and plug-ins", "a plug-in for release 0.1")
def test_a_plug_in_for_the_first_release_is_told_the_new_name(tmp_path, monkeypatch):
    (tmp_path / "for_old.py").write_text("from policies import KeepRatioPolicy\n")
    monkeypatch.chdir(tmp_path)  # not in the clone, whose folder has the name
    elsewhere = [p for p in sys.path if not (Path(p) / "policies").is_dir()]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *elsewhere])
    with pytest.raises(
        ValueError, match=r"No module named 'policies'; .* is 'gstds\.policies' now"
    ):
        policies.make_policy("for_old:Old")


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("valid", [1, 2, 3, N])
def test_every_policy_keeps_the_contract(name, valid):
    policy = policies.make_policy(name)
    policy.reset(0, CONTEXT)
    view = ReadsOnlyItsNeeds(policy, full_view(valid=valid))
    weights = policy.act(view)
    assert weights.shape == (N,)
    assert weights.dtype == np.float32
    assert not weights[valid:].any()
    assert weights.min() >= 0
    assert weights.max() <= policy.max_weight
    assert valid < N or weights.any()
    np.testing.assert_array_equal(policy.act(view), weights)


KEEPS_ALL_FIRST = {"full", "infobatch", "kakurenbo", "windowed-selective-backprop"}


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("seed", [0, 1])
def test_a_batch_in_another_order_gets_the_same_answer_in_that_order(name, seed):
    policy = policies.make_policy(name)
    policy.reset(0, CONTEXT)
    view, order = full_view(seed, progress=0.3), np.random.default_rng(seed).permutation(N)
    weights = policy.act(view)
    np.testing.assert_array_equal(policy.act(permuted(view, order)), weights[order])
    assert name in KEEPS_ALL_FIRST or not weights.all()


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_card_is_filled(name):
    kind, page = policy_class(name), card(name)
    for part in ("Source.", "Costs per step, beside training on the kept.", "Helps.", "Hurts."):
        assert re.search(rf"\*\*{part}\*\* \S", page), part
    if kind.paper_schedule:
        make_schedule(kind.paper_schedule[0], **kind.paper_schedule[1])


@pytest.mark.parametrize("name", ["gstds", "random"])
def test_the_comparisons_schedule_is_followed(name):
    policy = policies.make_policy(name, schedule=make_schedule("constant", keep=0.25))
    assert policy.act(observation()).sum() == 4
    assert follows_schedule(policy_class(name))


def test_gstds_keeps_the_top_scores_and_draws_the_rest():
    policy = policies.make_policy("gstds", schedule=make_schedule("constant", keep=0.5))
    view = observation()
    kept = np.flatnonzero(policy.act(view))
    assert len(kept) == 8
    assert set(np.argsort(view["spectral_scores"])[-4:]) <= set(kept)


def test_per_epoch_holds_the_ratio_within_an_epoch():
    policy = policies.make_policy("gstds", per="epoch")
    policy.reset(0, CONTEXT)
    ratios = [policy.keep_ratio(observation(p / 100)) for p in (30, 35, 39, 40)]
    assert ratios[0] == ratios[1] == ratios[2] != ratios[3]
    assert ratios[0] == pytest.approx(make_schedule("sigmoid")(0.3))


def test_progress_is_exact_where_the_steps_are_known():
    policy = policies.make_policy("random", schedule=make_schedule("linear"))
    policy.reset(0, CONTEXT)
    assert policy.schedule_progress(observation(0.7)) == 0.7


def test_options_reach_the_environment():
    policy = policies.make_policy("gstds", score="skew", laplacian="normalized")
    options = policy.needs["spectral_scores"]
    assert (options["sign"], options["laplacian"]) == ("skew", "normalized")
    assert dict(policies.make_policy("random").needs) == {}


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("gtsds", {}, "did you mean 'gstds'"),
        ("gstds", {"scor": "abs"}, "did you mean 'score'"),
        ("gstds", {"score": "absolute"}, "score: unknown name"),
        ("gstds", {"score_share": 1.5}, r"score_share must be in \[0, 1\]"),
        ("no_such_module:X", {}, "run from the folder that holds no_such_module.py"),
        ("gstds.policies.paper:GTSDS", {}, "did you mean 'GSTDS'"),
    ],
)
@pytest.mark.told("Policies and plug-ins", "`make_policy('{name}', {parameters})`")
def test_bad_names_are_refused_with_the_near_ones(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        policies.make_policy(name, **parameters)


def test_a_name_is_looked_for_among_all_levels_of_options():
    with pytest.raises(ValueError, match="'plateau' has no parameter 'stp'; did you mean 'step'"):
        policies.make_policy("plateau", stp=0.1)
    with pytest.raises(ValueError, match="'gstds' has no parameter 'laplacan'; did you mean 'lapl"):
        policies.make_policy("gstds", laplacan="unnormalized")


@pytest.mark.told("Policies and plug-ins", "an installed plug-in of the name `best`")
def test_a_plug_in_that_takes_a_shipped_name_is_refused(monkeypatch):
    monkeypatch.setattr(registry, "installed_policies", lambda: {"best": "mine:Mine"})
    with pytest.raises(ValueError, match="plug-in mine:Mine takes the name of a policy that comes"):
        policies.make_policy("best")
    assert policies.make_policy("random")


@pytest.mark.told(
    "Policies and plug-ins",
    "`needs` of a KeepRatioPolicy of your own",
    works="they are added to those of its picker",
)
def test_the_needs_of_a_subclass_are_added_to_its_pickers():
    one = a_user(policies.KeepRatioPolicy, needs={"validation_loss": {}})
    assert set(one.needs) > {"validation_loss"}
    assert set(a_user(policies.KeepRatioPolicy).needs) == set(one.needs) - {"validation_loss"}


@pytest.mark.told("Policies and plug-ins", "`make_policy('pathlib:Path')`")
def test_what_is_no_policy_is_refused():
    with pytest.raises(TypeError, match="subclass"):
        policies.make_policy("pathlib:Path")


@pytest.mark.told("Policies and plug-ins", "`keep_ratio` returns 1.3")
def test_a_plug_in_of_ten_lines_works_even_without_super(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
        from gstds.policies import KeepRatioPolicy
        class FollowTheLoss(KeepRatioPolicy):
            def keep_ratio(self, observation):
                return 0.2 + 0.6 * min(1.0, float(observation["train_loss"][0]) / 2.3)
        class Forgets(KeepRatioPolicy):
            def __init__(self): self.x = 1
            def keep_ratio(self, observation): return 0.5
        class Wrong(KeepRatioPolicy):
            value = 1.3
            def keep_ratio(self, observation): return self.value
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    policy = policies.make_policy("mine:FollowTheLoss", schedule=make_schedule("constant"))
    assert policy.act(observation()).sum() == 13
    assert not follows_schedule(type(policy))
    assert policies.make_policy("mine:Forgets").act(observation()).sum() == 8
    wrong = policies.make_policy("mine:Wrong")
    for value in (np.array([0.5], np.float32), torch.tensor([0.5], requires_grad=True)):
        wrong.value = value
        assert wrong.act(observation()).sum() == 8
    for value in (1.3, float("nan"), None, "x", np.full(9, 0.5)):
        wrong.value = value
        with pytest.raises(ValueError, match=r"keep_ratio must be in \[0, 1\].*'Wrong'"):
            wrong.act(observation())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "needs = ['features']",
            r"needs of policy 'mine:Mine' must map names to .*got \['f",
        ),
        ("needs = {'features': None}", "needs of policy 'mine:Mine' must map"),
        ("max_weight = 'x'", "max_weight of policy 'mine:Mine' must be a number, got 'x'"),
        ("max_weight = 0", r"max_weight of policy 'mine:Mine' must be in \(0"),
        ("normalizer = 'mean'", "normalizer of policy 'mine:Mine': unknown name 'mean'"),
        (
            "needs = property(lambda self: self.nothing)",
            "needs of policy 'mine:Mine' raised AttributeError: .*'nothing'",
        ),
        ("normaliser = 'drawn'", "'mine:Mine' defines 'normaliser'; did you mean 'normalizer'"),
        ("def __init__(self): raise KeyError('k')", "'mine:Mine' cannot be made: KeyError: 'k'"),
        ("def (", "'mine:Mine' cannot be imported: SyntaxError"),
        ("table = open('/nowhere/x')", "'mine:Mine' cannot be imported: FileNotFoundError"),
    ],
)
@pytest.mark.told("Policies and plug-ins", "a policy with `{body}`")
def test_a_plug_in_that_declares_nonsense_is_told_before_the_run(
    tmp_path, monkeypatch, body, message
):
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(
        f"from gstds.policies import Policy\nclass Mine(Policy):\n    {body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((ValueError, TypeError), match=message):
        policies.make_policy("mine:Mine")
    monkeypatch.delitem(sys.modules, "mine", raising=False)


def a_user(base, **members):
    """A policy of a class outside the package."""
    return type("Mine", (base,), {"__module__": "mine", **members})()


@pytest.mark.parametrize(
    ("found", "value", "meant"),
    [
        ("keep_ration", lambda self, observation: 0.5, "keep_ratio"),
        ("keepratio", lambda self, observation: 0.5, "keep_ratio"),
        ("Keep_Ratio", lambda self, observation: 0.5, "keep_ratio"),
        ("keep_ratoi", staticmethod(lambda observation: 0.5), "keep_ratio"),
        ("lern", lambda self, transition: None, "learn"),
        ("step_flop", lambda self, drawn, kept, context: 1.0, "step_flops"),
        ("load_statedict", lambda self, state: None, "load_state_dict"),
        ("normaliser", "drawn", "normalizer"),
        ("max_wieght", 2.0, "max_weight"),
        ("need", {"features": {}}, "needs"),
        ("use_reward", True, "uses_reward"),
        ("shedule", Constant(0.3), "schedule"),
    ],
)
def test_a_misspelt_name_of_the_interface_is_refused(found, value, meant):
    policy = a_user(policies.KeepRatioPolicy, **{found: value})
    with pytest.raises(ValueError, match=f"'mine' defines '{found}'; did you mean '{meant}'"):
        refuse_misspelt("mine", policy)


def test_a_misspelt_attribute_that_the_constructor_sets_is_refused():
    def init(self):
        self.normaliser = "drawn"

    with pytest.raises(ValueError, match="did you mean 'normalizer'"):
        refuse_misspelt("mine", a_user(policies.Policy, __init__=init))


ORDINARY = "keep keep_ratios keep_rate ratio schedule_ scheduler schedules scheduled schedule2 "
ORDINARY += "weights weight acts action fact learning learned learner learns needed seeds preset "
ORDINARY += "resets resource sources costs helped predictions states state max_weights min_weight "
ORDINARY += "steps step_count flops reward rewards observe progress epochs picker temperature"


@pytest.mark.parametrize("name", ORDINARY.split())
@pytest.mark.parametrize("value", [0.3, "drawn", [1, 2], {}, lambda self: 1, lambda self, x: x])
def test_an_ordinary_name_is_no_misspelling(name, value):
    for base in (policies.Policy, policies.KeepRatioPolicy):
        refuse_misspelt("mine", a_user(base, **{name: value}))


class Counting(policies.make_policy("plateau").__class__):
    """A user's policy, with a state of its own beside that of the class it inherits from."""

    state = ("_seen", "by_sample")

    def reset(self, seed, context):
        super().reset(seed, context)
        self._seen, self.by_sample = 0, {}

    def learn(self, transition):
        super().learn(transition)
        self._seen += 1
        self.by_sample[int(transition.info["step"])] = 0.5


def test_a_users_policy_declares_its_state_and_goes_on_from_a_checkpoint(tmp_path):
    one, other = Counting(), Counting()
    for policy in (one, other):
        policy.reset(0, CONTEXT)
    seen, weights = full_view(), np.ones(N, np.float32)
    for step in range(3):
        one.learn(Transition(seen, weights, 0.0, seen, {"step": step}))
    save_state(tmp_path, 1, {"policy": one.state_dict()})
    other.load_state_dict(latest_state(tmp_path)["policy"])
    assert (other._seen, other.by_sample) == (3, {0: 0.5, 1: 0.5, 2: 0.5})
    assert other.state_dict() == one.state_dict()
    assert other.state_dict()["watch"]["seen"] == 3


@pytest.mark.told("Policies and plug-ins", "`state = '_mean'`")
def test_a_state_that_is_one_word_is_refused_unless_the_pair_is_the_users():
    message = r"state of policy 'mine' must be a tuple of attributes' names, such as \('_mean',\)"
    with pytest.raises(TypeError, match=message):
        check_declarations("mine", a_user(policies.Policy, state="_mean"))
    own = {"state_dict": lambda self: {}, "load_state_dict": lambda self, state: None}
    check_declarations("mine", a_user(policies.Policy, state="idle", **own))
    for state in ({"_mean"}, (1,), iter(["_mean"])):
        with pytest.raises(TypeError, match=message):
            check_declarations("mine", a_user(policies.Policy, state=state))


def test_half_of_the_pair_is_refused():
    half = {"state_dict": lambda self: {"seen": 3}}
    with pytest.raises(TypeError, match="both or neither of state_dict, load_state_dict"):
        check_declarations("mine", a_user(policies.Policy, **half))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_whoever_inherits_from_a_built_in_policy_is_not_refused(name):
    members = {"act": lambda self, observation: None, "keep_ratio": lambda self, observation: 0.5}
    refuse_misspelt("mine", a_user(policy_class(name)))
    refuse_misspelt("mine", a_user(policy_class(name), **members, keep_ratoi=lambda self, o: 0.5))


def test_predict_answers_as_a_stable_baselines_model():
    policy = policies.make_policy("random", schedule=make_schedule("constant", keep=0.5))
    single = observation()
    weights, state = policy.predict(single)
    assert state is None
    batch = {name: np.stack([value, value]) for name, value in single.items()}
    both, _ = policy.predict(batch)
    np.testing.assert_array_equal(both, np.stack([weights, weights]))


def test_names_have_descriptions():
    assert set(policies.policy_names()) >= {"gstds", "random", "full"}
    assert all(policies.policy_names().values())
