from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gstds.common.state import StateError, latest_state, save_state, state_digest

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
