from __future__ import annotations

import json
import textwrap

import pytest

from gstds.state import latest_state
from train.config import config_from
from train.run import RunFailedError, execute

PLUGINS = """
import numpy as np
from policies import Policy

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

class Raises(Base):
    def bad(self, good): return good / undefined_name
"""


@pytest.fixture
def run(tiny_npz, tmp_path, monkeypatch):
    (tmp_path / "plugins.py").write_text(textwrap.dedent(PLUGINS))
    monkeypatch.syspath_prepend(tmp_path)

    def run(name):
        options = {"dataset": tiny_npz, "epochs": 4, "batch_size": 32, "learner": "mlp"}
        return execute(config_from(options | {"policy": f"plugins:{name}"}), tmp_path / "run")

    return run


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Short", r"step 2 .*'plugins:Short'.*shape \(32,\), got \(31,\)"),
        ("NotANumber", r"step 2 .*'plugins:NotANumber'.*got nan at position 0"),
        ("Negative", r"step 2 .*'plugins:Negative'.*\[0, 1\], got -1"),
        ("Large", r"step 2 .*'plugins:Large'.*declare a larger max_weight"),
        ("Nothing", r"step 2 .*'plugins:Nothing'.*shape \(32,\), got \(\)"),
        ("Zeros", r"step 7 .*'plugins:Zeros'.*kept nothing for a whole epoch, 5 batches"),
        (
            "Undeclared",
            r"step 2 .*'plugins:Undeclared'.*KeyError: 'learner_losses'; a policy declares .*"
            r"needs = \{'learner_losses': \{\}\}",
        ),
        ("Raises", r"step 2 .*'plugins:Raises'.*undefined_name"),
    ],
)
def test_a_plug_in_that_errs_is_told_by_name_with_step_and_policy(run, tmp_path, name, message):
    with pytest.raises(RunFailedError, match=message):
        run(name)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["samples_trained"] == 64
    assert latest_state(tmp_path / "run" / "checkpoints")["env"]["trainer"]["visits"].sum() == 64


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


def test_skipping_batches_now_and_then_is_legal(run):
    assert run("OneEmptyBatch")["status"] == "finished"
