from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from gstds.envs.data.datasets import load_data
from gstds.train.comparing.compare import Comparison, compare
from gstds.train.reporting.report import (
    class_balance,
    kept_path,
    most_and_least,
    view_of_kept,
    write_report,
)
from gstds.train.running.kept import read_kept
from gstds.train.running.options import RunConfig


def test_balance_by_hand():
    kept = [[2, 2], [3, 1], [0, 0]]
    drawn = [[4, 4], [4, 4], [4, 4]]
    expected = [[1, 1], [1.5, 0.5], [np.nan, np.nan]]
    np.testing.assert_array_equal(class_balance(kept, drawn), expected)
    assert class_balance([[3, 1]], [[6, 2]]).tolist() == [[1, 1]]


def test_the_extremes_are_extreme_and_ties_are_mixed():
    share = np.array([0.5, np.nan, 1.0, 0.0, 0.75])
    most, least = most_and_least(share, 2)
    assert most.tolist() == [2, 4]
    assert least.tolist() == [3, 0]
    most, least = most_and_least(np.ones(1000), 8)
    assert not set(most) & set(least)
    assert most.max() > 100


@pytest.fixture(params=["equal-epochs", "equal-budget"])
def content(request, tmp_path, tiny_npz):
    comparison = Comparison(
        base=RunConfig(
            dataset=tiny_npz, epochs=3, batch_size=32, setting=request.param, budget=0.7
        ),
        policies=("random", "infobatch"), seeds=2, baseline="random", name="kept",
        folder=tmp_path / "kept", tracking=None, experiment="gstds", controls=False,
    )  # fmt: skip
    return compare(comparison)


def test_what_was_kept_is_what_was_trained_on(content, tmp_path, tiny_npz):
    data = load_data(tiny_npz)
    views = {v.policy: v for v in view_of_kept(tmp_path / "kept", content["runs"], data)}
    assert list(views) == ["random", "infobatch"]
    closing = any(run["samples_closing"] for run in content["runs"])
    for policy, view in views.items():
        runs = [run for run in content["runs"] if run["policy"] == policy]
        visits = sum(read_kept(kept_path(tmp_path / "kept", run)).visits for run in runs)
        if not closing:  # every sample was drawn in each of 3 epochs, under 2 seeds
            np.testing.assert_allclose(view.share * 6, visits)
        assert np.nanmin(view.share) >= 0
        assert np.nanmax(view.share) <= 1
        assert view.balance.shape[1] == data.num_classes
    # A record of other data is not taken for one of these.
    other = replace(data, train=data.reward_validation)
    assert not view_of_kept(tmp_path / "kept", content["runs"], other)


@pytest.mark.parametrize("content", ["equal-epochs"], indirect=True)
def test_the_report_shows_images_and_goes_on_without_them(content, tmp_path, tiny_npz):
    paths = write_report(tmp_path / "kept", content)
    page = paths["html"].read_text()
    assert page.count("data:image/png;base64,") == 7
    assert {"balance", "most_and_least"} <= set(paths)
    gone = json.loads(json.dumps(content))
    gone["config"]["dataset"] = f"{tiny_npz}-that-is-gone"
    paths = write_report(tmp_path / "kept", gone)
    page = paths["html"].read_text()
    assert "data set is not at hand" in page
    assert page.count("data:image/png;base64,") == 5
    moved = write_report(tmp_path / "elsewhere", content)
    assert "no run" in moved["md"].read_text()
