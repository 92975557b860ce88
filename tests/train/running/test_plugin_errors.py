from __future__ import annotations

import json
import sys
import textwrap

import pytest

from gstds.common.state import latest_state
from gstds.train.cli.main import main
from gstds.train.comparing.compare import compare
from gstds.train.comparing.comparison import Comparison
from gstds.train.running.options import config_from
from gstds.train.running.run import RunFailedError, execute
from gstds.train.tracking.store import client
from gstds.train.tracking.uploader import Upload
from tests.stores import delivered
from tests.told import note

PLUGINS = """
import os
import numpy as np
from gstds.policies import Policy

class Base(Policy):
    calls = 0
    def act(self, observation):
        self.calls += 1
        good = np.ones_like(observation["valid"])
        return good if self.calls < 3 else self.bad(good)

class Fine(Base):
    def bad(self, good): return good

class Short(Base):
    def bad(self, good): return good[:-1]

class NotANumber(Base):
    def bad(self, good): return good * np.nan

class Negative(Base):
    def bad(self, good): return -good

class Large(Base):
    def bad(self, good): return 3 * good

class Nothing(Base):
    def bad(self, good): return None

class Zeros(Base):
    def bad(self, good): return 0 * good

class OneEmptyBatch(Base):
    def bad(self, good): return good * (self.calls % 5 == 0)

class Undeclared(Base):
    def bad(self, good): return self.observation["learner_losses"]
    def act(self, observation):
        self.observation = observation
        return super().act(observation)

class Learns(Base):
    def bad(self, good): return good
    def learn(self, transition):
        if self.calls == 3: raise IndexError("no such thing")

class Begins(Base):
    def reset(self, seed, context): raise OSError("no table of losses")

class Saves(Base):
    def bad(self, good): return good[:-1]
    def state_dict(self): raise RuntimeError("cannot be saved")
    def load_state_dict(self, state): pass

class Exits(Base):
    def bad(self, good): raise SystemExit(3)

class ExitsAtOnce(Base):
    def __init__(self): raise SystemExit(3)

class Interrupts(Base):
    def bad(self, good): raise KeyboardInterrupt

class Misspells(Base):
    def bad(self, good): return self.observation["lasst_losses"]
    def act(self, observation):
        self.observation = observation
        return super().act(observation)

class MisspellsUndeclared(Misspells):
    def bad(self, good): return self.observation["learner_loses"]

class OwnKey(Base):
    def bad(self, good): return {}["tables"]

class Keeps(Base):
    def bad(self, good): return good
    def state_dict(self): return {"table": {"first": object()}}
    def load_state_dict(self, state): pass

class Needs(Base):
    needs = property(lambda self: self.nothing)

class Counts(Base):
    def step_flops(self, drawn, kept, context): return self.nothing

class CountsNothing(Base):
    def step_flops(self, drawn, kept, context): return None

class ClearsWhatItIsTold(Base):
    def bad(self, good): return good
    def learn(self, transition):
        transition.info["trained"][:] = False
        transition.info["losses"][:] = 0
        transition.info["kept"] = 0

class LargerFromReset(Base):
    def bad(self, good): return good
    def reset(self, seed, context): self.max_weight = 3.0

class OtherDivisorFromReset(LargerFromReset):
    def reset(self, seed, context): self.normalizer = "drawn"

class RewardFromReset(LargerFromReset):
    def reset(self, seed, context): self.uses_reward = True

class NeedsFromReset(LargerFromReset):
    def reset(self, seed, context): self.needs = {"learner_losses": {}}

class NeedsOfTheRun(LargerFromReset):
    def reset(self, seed, context):
        if context.forward_flops > 1: self.needs = {"learner_losses": {}}

class ResetsLikeGymnasium(LargerFromReset):
    def reset(self, *, seed=None, options=None): pass

class HoldsAFile(Base):
    def __init__(self): self.file, self.log = open(__file__), [self]
    def bad(self, good): return good * bool(self.file.readline)

class EndsTheProcess(Base):
    def bad(self, good): os._exit(7)

class TakesAShare(Base):
    def __init__(self, share): self.share = share
    def act(self, observation):
        return (observation["noise"] < self.share) * observation["valid"]

class Raises(Base):
    def bad(self, good): return good / undefined_name
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("leaves", "plugins"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def refused(capsys, *words):
    """Run a command that must be refused; return its one line."""
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    note(error.removeprefix("gstds: error: "))
    return error


@pytest.fixture
def run(tiny_npz, tmp_path, monkeypatch):
    (tmp_path / "plugins.py").write_text(textwrap.dedent(PLUGINS))
    monkeypatch.syspath_prepend(tmp_path)

    def run(name, **more):
        options = {"dataset": tiny_npz, "epochs": 4, "batch_size": 32, "learner": "mlp"}
        config = config_from(options | {"policy": f"plugins:{name}"})
        return execute(config, tmp_path / "run", **more)

    return run


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Short", r"step 2 .*'plugins:Short'.*shape \(32,\), got \(31,\)"),
        ("NotANumber", r"step 2 .*'plugins:NotANumber'.*got nan at position 0"),
        ("Negative", r"step 2 .*'plugins:Negative'.*\[0, 1\], got -1"),
        ("Large", r"step 2 .*'plugins:Large'.*declare a larger max_weight"),
        ("Nothing", r"step 2 .*'plugins:Nothing'.*shape \(32,\), got NoneType"),
        ("Zeros", r"step 7 .*'plugins:Zeros'.*kept nothing for a whole epoch, 5 batches"),
        (
            "Undeclared",
            r"policy 'plugins:Undeclared' reads it and does not declare it; .*\{'learner_losses'",
        ),
        ("Raises", r"step 2 .*'plugins:Raises'.*undefined_name"),
        (
            "Misspells",
            r"'lasst_losses' is no observation; did you mean 'last_losses'",
        ),
        (
            "MisspellsUndeclared",
            r"'learner_loses' is no observation; did you mean 'learner_losses'",
        ),
        ("OwnKey", r"KeyError: 'tables' \(.*plugins\.py:\d+\)"),
        ("Exits", r"step 2 .*'plugins:Exits'.*SystemExit: 3"),
    ],
)
@pytest.mark.told("Policies and plug-ins", "a policy in a run: {name}")
def test_a_plug_in_that_errs_is_told_by_name_with_step_and_policy(run, tmp_path, name, message):
    with pytest.raises(RunFailedError, match=message):
        run(name)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["samples_trained"] == 64
    assert (
        latest_state(tmp_path / "run" / "checkpoints")["env"]["trainer"]["memory"]["visits"].sum()
        == 64
    )


@pytest.mark.told("Policies and plug-ins", "`learn` raises, in a run", "`reset` raises, in a run")
def test_a_policy_that_fails_while_it_learns_or_begins_is_told_too(run, tmp_path):
    with pytest.raises(RunFailedError, match=r"step 3 .*'plugins:Learns'.*no such thing"):
        run("Learns")
    assert latest_state(tmp_path / "run" / "checkpoints")["env"]["step_count"] == 3
    with pytest.raises(RunFailedError, match=r"step 0 .*'plugins:Begins'.*no table of losses"):
        run("Begins")


def test_a_policy_that_cannot_be_saved_fails_with_its_first_error(run, tmp_path):
    with pytest.raises(RunFailedError, match=r"'plugins:Saves'.*shape \(32,\), got \(31,\)"):
        run("Saves")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"


def test_a_mended_policy_goes_on_where_the_broken_one_failed(run, tmp_path, monkeypatch):
    import plugins

    expected = run("Fine")
    with pytest.raises(RunFailedError):
        run("Raises")
    monkeypatch.setattr(plugins.Raises, "bad", plugins.Fine.bad)
    mended = execute(last_config(tmp_path), tmp_path / "run", resume=True)
    assert mended["status"] == "finished"
    assert mended["weights_sha256"] == expected["weights_sha256"]


def last_config(tmp_path):
    note = json.loads((tmp_path / "run" / "config.json").read_text())
    return config_from(note["config"])


def test_what_a_policy_does_to_what_it_is_told_stays_with_it(run, tmp_path):
    results = [run(name) for name in ("Fine", "ClearsWhatItIsTold")]
    for key in ("mean_keep", "weights_sha256", "samples_trained"):
        assert results[0][key] == results[1][key]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("LargerFromReset", "max_weight"),
        ("OtherDivisorFromReset", "normalizer"),
        ("RewardFromReset", "uses_reward"),
        ("NeedsFromReset", "needs"),
    ],
)
def test_what_reset_changes_of_the_declarations_is_refused_before_data(
    run, here, capsys, name, changed
):
    words = ["--dataset", "npz:nowhere.npz", "--no-tracking", "--quiet"]
    error = refused(capsys, "run", "--policy", f"plugins:{name}", *words)
    assert f"TypeError: reset changes {changed}, by which the environment was made" in error


def test_what_reset_changes_by_the_facts_of_the_run_ends_it(run):
    with pytest.raises(RunFailedError, match=r"step 0 .*reset changes needs, by which"):
        run("NeedsOfTheRun")


def test_a_reset_of_another_library_is_told_by_the_policys_name(run, here, capsys):
    words = ["--dataset", "npz:nowhere.npz", "--no-tracking", "--quiet"]
    error = refused(capsys, "run", "--policy", "plugins:ResetsLikeGymnasium", *words)
    assert "policy 'plugins:ResetsLikeGymnasium'" in error
    assert "positional argument" in error


def test_a_file_and_a_circle_in_a_policy_are_left_alone(run):
    assert run("HoldsAFile", checkpoint_every=2)["status"] == "finished"


def test_skipping_batches_now_and_then_is_legal(run):
    assert run("OneEmptyBatch")["status"] == "finished"


def test_a_plug_in_that_exits_is_a_failed_run_in_mlflow_too(run, store_uri, tmp_path):
    with pytest.raises(RunFailedError, match="SystemExit"):
        run("Exits", upload=Upload(store_uri))
    record = delivered(store_uri, tmp_path / "run")
    assert record.info.status == "FAILED"
    names = [file.path for file in client(store_uri).list_artifacts(record.info.run_id)]
    assert "traceback.txt" in names


def test_an_interruption_from_the_keyboard_is_no_failure(run):
    assert run("Interrupts")["status"] == "interrupted"


def test_a_plug_in_that_exits_does_not_end_its_comparison(run, tiny_npz, tmp_path):
    base = config_from({"dataset": tiny_npz, "epochs": 1, "batch_size": 32, "learner": "mlp"})
    comparison = Comparison(
        base=base,
        policies=("plugins:Exits", "random"),
        seeds=1,
        baseline="random",
        name="test",
        folder=tmp_path / "comparison",
        tracking=None,
        experiment="gstds",
        controls=False,
    )
    runs = {row["policy"]: row for row in compare(comparison)["runs"]}
    assert runs["plugins:Exits"]["status"] == "failed"
    assert "SystemExit: 3" in runs["plugins:Exits"]["error"]
    assert runs["random"]["status"] == "finished"


@pytest.mark.parametrize("body", ["raise SystemExit(3)", "import sys; sys.exit()"])
@pytest.mark.told("Policies and plug-ins", "a plug-in's file with `{body}`")
def test_a_module_that_exits_when_it_is_imported_is_bad_input(here, body, capsys):
    (here / "leaves.py").write_text(body)
    for option in ("--policy", "--learner", "--dataset", "--reference"):
        words = ["run", option, "leaves:Thing", "--no-tracking", "--quiet"]
        error = refused(capsys, *words)
        assert "'leaves" in error
        assert "SystemExit" in error


@pytest.mark.told("Policies and plug-ins", "`SystemExit` in a policy's constructor")
def test_a_policy_that_exits_when_it_is_made_is_bad_input(run, here, capsys):
    error = refused(capsys, "run", "--policy", "plugins:ExitsAtOnce", "--no-tracking", "--quiet")
    assert "'plugins:ExitsAtOnce' cannot be made: SystemExit: 3" in error


@pytest.mark.told(
    "Policies and plug-ins", "`state_dict` returns what no checkpoint takes, in a run"
)
def test_a_state_that_cannot_be_saved_names_its_entry_and_leaves_no_half_checkpoint(run, tmp_path):
    message = r"step 2 \(policy 'plugins:Keeps'.*state_dict: entry 'policy/table/first' cannot be"
    with pytest.raises(RunFailedError, match=message):
        run("Keeps", checkpoint_every=2)
    assert not list((tmp_path / "run").rglob("step-*"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Needs", "needs of policy 'plugins:Needs' raised AttributeError"),
        ("Counts", "step_flops of policy 'plugins:Counts' raised AttributeError"),
        ("CountsNothing", "step_flops of policy 'plugins:CountsNothing' must be a number, got N"),
    ],
)
@pytest.mark.told("Policies and plug-ins", "a policy in a run: {name}")
def test_what_a_policy_tells_before_the_run_is_bad_input(
    run, here, tiny_npz, capsys, name, message
):
    words = ["--dataset", tiny_npz, "--batch-size", "32", "--no-tracking", "--quiet"]
    more = ["--setting", "equal-budget", "--budget", ".5"]
    assert message in refused(capsys, "run", "--policy", f"plugins:{name}", *words, *more)


def test_a_policy_that_ends_the_process_is_a_finding_and_the_next_one_is_checked(run, here, capfd):
    assert main(["check", "plugins:EndsTheProcess", "plugins:TakesAShare@share=.3"]) == 1
    ended, checked = capfd.readouterr().out.split("plugins:TakesAShare@share=.3: nothing was found")
    assert "FOUND   its process: it ends the process" in ended
    assert "keeps 0." in checked


def test_the_json_of_a_failed_run_is_written(run, here, tiny_npz, capsys):
    words = ["run", "--policy", "plugins:Raises", "--dataset", tiny_npz, "--batch-size", "32"]
    assert main([*words, "--no-tracking", "--quiet", "--json", "failed.json"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    result = json.loads((here / "failed.json").read_text(), parse_constant=pytest.fail)["runs"][0]
    assert result["status"] == "failed"
    assert "undefined_name" in result["error"]
