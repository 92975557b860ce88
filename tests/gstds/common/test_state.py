from __future__ import annotations

import collections
import json
import random
import sys
from array import array
from typing import NamedTuple

import numpy as np
import pytest
import torch

from gstds.common.state import (
    StateError,
    Stateful,
    entries,
    fingerprints,
    latest_state,
    save_state,
    state_digest,
    undeclared_changes,
)

STATE = {
    "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)},
    "counts": np.arange(4, dtype=np.int64),
    "empty": np.empty(0, dtype=np.int64),
    "nested": [1, {"x": None, "big": 2**100}, "text"],
}


def test_a_state_comes_back_as_it_went(tmp_path):
    save_state(tmp_path, 3, STATE)
    back = latest_state(tmp_path)
    assert torch.equal(back["weights"]["a"], STATE["weights"]["a"])
    assert back["weights"]["b"].shape == ()
    np.testing.assert_array_equal(back["counts"], STATE["counts"])
    assert back["counts"].dtype == np.int64
    assert back["empty"].shape == (0,)
    assert back["nested"] == STATE["nested"]


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path):
    for step in (1, 2, 3):
        save_state(tmp_path, step, {"step": step})
    assert sorted(p.stem for p in tmp_path.glob("*.json")) == ["step-000000002", "step-000000003"]
    assert latest_state(tmp_path) == {"step": 3}


def test_a_damaged_newest_falls_back_and_all_damaged_is_refused(tmp_path):
    save_state(tmp_path, 1, STATE | {"step": 1})
    save_state(tmp_path, 2, STATE | {"step": 2})
    for step, expected in ((2, 1), (1, None)):
        path = tmp_path / f"step-{step:09d}.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
        if expected is None:
            with pytest.raises(StateError, match="every checkpoint"):
                latest_state(tmp_path)
        else:
            assert latest_state(tmp_path)["step"] == expected


def test_nothing_there_is_none(tmp_path):
    assert latest_state(tmp_path / "missing") is None


def test_the_json_is_strict(tmp_path):
    save_state(tmp_path, 1, STATE)
    json.loads((tmp_path / "step-000000001.json").read_text())


@pytest.mark.parametrize("value", [object(), {1}, np.array([None]), np.array(["text"])])
def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path, value):
    with pytest.raises(TypeError, match="state_dict: entry 'policy/parts/1' cannot be saved"):
        save_state(tmp_path, 1, {"policy": {"parts": [1, value]}})
    assert not list(tmp_path.iterdir())


def test_the_digest_depends_on_names_shapes_and_bytes():
    base = {"a": torch.zeros(2, 2)}
    digests = {
        state_digest(base),
        state_digest({"b": torch.zeros(2, 2)}),
        state_digest({"a": torch.zeros(4)}),
        state_digest({"a": torch.tensor([[0.0, 0], [0, 1e-30]])}),
    }
    assert len(digests) == 4
    assert state_digest(base) == state_digest({"a": torch.zeros(2, 2)})


class Pair(NamedTuple):
    share: float
    reached: float | None


class Inner(Stateful):
    state = ("_count",)

    def __init__(self):
        self._count = 0


class Base(Stateful):
    state = ("inner", "_generator")

    def __init__(self):
        self.inner, self._generator = Inner(), np.random.default_rng(0)


class Everything(Base):
    state = ("number", "text", "nothing", "array", "grown", "tensors", "parts", "record", "table")
    state += ("by_sample", "ring", "names", "bits", "doubles", "module")

    def __init__(self):
        super().__init__()
        self.number, self.text, self.nothing = 0, "", None
        self.array, self.grown = np.zeros(2, dtype=np.float32), np.empty(0)
        self.tensors = [torch.zeros(2, 3).t()]
        self.parts, self.record = (Inner(), Inner()), Pair(0.0, None)
        self.table, self.by_sample = {"part": Inner()}, collections.defaultdict(list)
        self.ring, self.names = collections.deque(maxlen=2), set()
        self.bits, self.doubles = bytearray(), array("d")
        self.module = torch.nn.Linear(2, 1)


def _lived():
    one = Everything()
    one.inner._count, one.parts[1]._count, one.table["part"]._count = 1, 2, 3
    one._generator.random(5)
    one.number, one.text, one.nothing = 0.5, "seen", [1, {"a": None}]
    one.array[:] = (1, 2)
    one.grown = np.arange(3.0)
    one.tensors[0][:] = torch.arange(6.0).reshape(3, 2)
    one.record = Pair(0.25, 0.75)
    one.by_sample[7].append(1.5)
    one.by_sample[(1, 2)].append(np.float32(2.0))
    one.ring.extend([1, 2, 3])
    one.names.update({"x", "y"})
    one.bits.extend(b"\x01\xff")
    one.doubles.extend([0.1, 0.2])
    return one


def test_what_is_declared_goes_through_a_checkpoint_and_keeps_its_kind(tmp_path):
    one, other = _lived(), Everything()
    save_state(tmp_path, 1, one.state_dict())
    other.load_state_dict(latest_state(tmp_path))
    assert entries(one)[:3] == ["inner", "generator", "number"]
    counts = [other.inner._count, other.parts[1]._count, other.table["part"]._count]
    assert counts == [1, 2, 3]
    assert other._generator.random() == one._generator.random()
    assert (other.number, other.text, other.nothing) == (0.5, "seen", [1, {"a": None}])
    assert other.array.dtype == np.float32
    assert other.array.tolist() == [1, 2]
    assert other.grown.tolist() == [0, 1, 2]
    assert torch.equal(other.tensors[0], one.tensors[0])
    assert other.tensors[0].stride() == one.tensors[0].stride()
    assert other.record == one.record
    assert isinstance(other.record, Pair)
    assert dict(other.by_sample) == {7: [1.5], (1, 2): [2.0]}
    assert other.by_sample["new"] == []
    assert (list(other.ring), other.ring.maxlen) == ([2, 3], 2)
    assert other.names == {"x", "y"}
    assert (other.bits, other.doubles) == (one.bits, one.doubles)
    assert torch.equal(other.module.weight, one.module.weight)


class Draws(Stateful):
    state = ("torchs", "pythons", "numpys")

    def __init__(self):
        self.torchs = torch.Generator().manual_seed(1)
        self.pythons, self.numpys = random.Random(1), np.random.default_rng(1)
        self.other, self.network, self.itself = random.Random(2), torch.nn.Linear(1, 1), []
        self.itself.append(self.itself)
        self.file = sys.stderr

    def draw(self):
        return (
            torch.rand(3, generator=self.torchs).tolist(),
            self.pythons.gauss(),
            self.numpys.random(),
        )


def test_generators_of_torch_python_and_numpy_go_on(tmp_path):
    one, other = Draws(), Draws()
    one.draw()
    save_state(tmp_path, 1, one.state_dict())
    other.load_state_dict(latest_state(tmp_path))
    assert other.draw() == one.draw()


def test_what_changes_undeclared_is_found_in_generators_and_networks_and_files_are_let_be():
    one = Draws()
    before = fingerprints(one)
    one.draw()
    assert undeclared_changes(before, one) == []
    one.other.random()
    with torch.no_grad():
        one.network.weight += 1
    assert undeclared_changes(before, one)[:2] == ["other", "network"]
    sys.stderr.write("")


def test_a_state_that_names_what_is_not_there_says_so():
    with pytest.raises(AttributeError, match=r"no attribute 'torhcs', .* did you mean 'torchs'"):
        type("Typo", (Draws,), {"state": ("torhcs",)})().state_dict()


def test_a_state_is_a_copy():
    one = _lived()
    state = one.state_dict()
    one.array[0], one.by_sample[7][0] = 9, 9.0
    with torch.no_grad():
        one.module.weight.zero_()
    other = Everything()
    other.load_state_dict(state)
    other.array[1] = 9
    assert state["array"].tolist() == [1, 2]
    assert other.by_sample[7] == [1.5]
    assert not torch.equal(other.module.weight, one.module.weight)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("number", "many", "the state's number must be a number, got 'many'"),
        ("array", {"a": 1}, "the state's array must be a number"),
        ("table", [1], "the state's table must be a dict"),
        ("table", {"other": {}}, "the state's table has"),
        ("names", "x", "the state's names must be a list"),
        ("parts", [], "the state is of 0 parts, not of 2"),
        ("record", [1.0], "the state is of 1 record, not of 2"),
    ],
)
def test_an_entry_of_another_kind_is_refused(entry, value, message):
    with pytest.raises(ValueError, match=message):
        Everything().load_state_dict(_lived().state_dict() | {entry: value})


def test_a_state_that_lacks_an_entry_changes_nothing():
    one, state = Everything(), _lived().state_dict()
    del state["doubles"]
    with pytest.raises(KeyError, match="doubles"):
        one.load_state_dict(state)
    assert one.number == 0
    assert one.inner._count == 0
