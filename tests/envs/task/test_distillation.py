"""Distillation from the reference: the control for selection by a reference."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gstds.envs import DataSelectionEnv
from gstds.envs.task import task
from gstds.train.cli.main import main
from gstds.train.running.options import config_from, identity
from gstds.train.running.run import execute
from tests.stops import StopAfter

SMALL = {"learner": "mlp", "batch_size": 32, "epochs": 3, "reference": "untrained"}


@pytest.fixture
def options(tiny_npz):
    return SMALL | {"dataset": tiny_npz, "policy": "random"}


def softmax(values):
    exponents = np.exp(values - values.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("share", "temperature"), [(0.3, 1.0), (0.5, 2.0), (1.0, 4.0)])
def test_the_objective_is_the_formulas(share, temperature):
    rng = np.random.default_rng(0)
    reference, said = rng.normal(size=(9, 4)), rng.normal(size=(3, 4))
    losses, rows = rng.random(3), np.array([7, 0, 7])
    p, q = softmax(reference[rows] / temperature), softmax(said / temperature)
    divergence = (p * np.log(p / q)).sum(axis=1)
    expected = (1 - share) * losses + share * temperature**2 * divergence
    asked = SimpleNamespace(distill=share, distill_temperature=temperature)
    teacher = task.make_teacher(asked, SimpleNamespace(logits=reference), torch.device("cpu"))
    found = teacher(rows, torch.as_tensor(losses), torch.as_tensor(said))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_the_reference_has_logits_that_give_its_losses_and_they_are_kept(options, monkeypatch):
    bare = {k: v for k, v in options.items() if k != "policy"}
    monkeypatch.setattr(task, "held_references", {})
    assert DataSelectionEnv(**bare, observe=("reference_losses",)).task.reference.logits is None
    env = DataSelectionEnv(**bare, observe=(), distill=0.5)
    reference = env.task.reference
    labels = env.data.train.labels
    losses = -np.log(softmax(reference.logits.astype(np.float64)))[np.arange(len(labels)), labels]
    np.testing.assert_allclose(losses, reference.losses, atol=1e-5)
    assert "reference_losses" not in env.reset(seed=0)[0]
    monkeypatch.setattr(task, "held_references", {})
    monkeypatch.setattr(task, "cross_fitted_losses", None)  # nothing is fitted a second time
    again = task.load_reference(env.data, env.options)
    np.testing.assert_array_equal(again.logits, reference.logits)


def run(options, folder, **more):
    return execute(config_from(options | more), folder, checkpoint_every=4)


def test_off_it_changes_nothing_and_on_it_changes_the_run_and_its_bill(options, tmp_path):
    plain = run(options, tmp_path / "plain")
    warm = run(options, tmp_path / "off", distill=0.0, distill_temperature=3.0)
    taught = run(options, tmp_path / "on", distill=0.5)
    assert warm["weights_sha256"] == plain["weights_sha256"]
    assert taught["weights_sha256"] != plain["weights_sha256"]
    assert plain["reference_flops"] == 0
    assert taught["reference_flops"] > 0
    assert taught["charged_flops"] == plain["charged_flops"]
    assert taught["flops_by_phase"]["spectral"] == 0
    kept = [np.load(tmp_path / f / "kept.npz")["kept"] for f in ("plain", "on")]
    np.testing.assert_array_equal(*kept)


def test_it_is_part_of_what_a_run_is(options):
    digests = {
        identity(config_from(options | more))
        for more in ({}, {"distill": 0.5}, {"distill": 0.5, "distill_temperature": 2.0})
    }
    assert len(digests) == 3


def test_at_a_share_of_one_the_labels_have_no_say(options, monkeypatch):
    digests = []
    for shift in (0, 1):
        env = DataSelectionEnv(
            **{k: v for k, v in options.items() if k != "policy"}, observe=(), distill=1.0
        )
        env.reset(seed=0)
        labels = env.loader.labels
        monkeypatch.setattr(env.loader, "labels", lambda i, f=labels, s=shift: (f(i) + s) % 4)
        for _ in range(3):
            info = env.step(np.ones(32, np.float32))[-1]
        digests.append([v.cpu().numpy().tobytes() for v in env.learner.model.state_dict().values()])
        assert info["losses"].max() > 0  # what is remembered stays the cross-entropy
    assert digests[0] == digests[1]


def test_the_remembered_losses_are_the_cross_entropy(options):
    seen = []
    for share in (0.0, 0.9):
        env = DataSelectionEnv(
            **{k: v for k, v in options.items() if k != "policy"}, observe=(), distill=share
        )
        env.reset(seed=0)
        seen.append(env.step(np.ones(32, np.float32))[-1]["losses"])
    np.testing.assert_array_equal(*seen)


def test_a_resumed_run_is_the_run_that_was_not_stopped(options, tmp_path):
    config = config_from(options | {"distill": 0.4, "distill_temperature": 2.0})
    whole = execute(config, tmp_path / "whole", checkpoint_every=4)
    assert execute(config, tmp_path / "part", stop=StopAfter(6))["status"] == "interrupted"
    resumed = execute(config, tmp_path / "part", resume=True)
    assert resumed["weights_sha256"] == whole["weights_sha256"]


def test_it_goes_with_a_policy_that_reads_the_reference_and_from_the_command_line(
    options, tmp_path
):
    out = tmp_path / "result.json"
    given = options | {"policy": "gstds", "distill": 0.5, "out": tmp_path / "run", "json": out}
    words = [w for k, v in given.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    assert main(["run", *words, "--no-tracking", "--quiet"]) == 0
    assert json.loads(out.read_text())["runs"][0]["reference_flops"] > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"distill": 1.5}, r"distill must be in \[0, 1\], got 1.5"),
        ({"distill": 0.5, "distill_temperature": 0.0}, r"distill_temperature must be in \(0"),
        ({"distill": 0.5, "reference": "untrainde"}, "did you mean 'untrained'"),
        ({"distill": 0.5, "reference": "checkpoint:nowhere.pt"}, "nowhere.pt"),
    ],
)
def test_bad_options_are_named_before_the_run(options, tmp_path, more, message):
    with pytest.raises((ValueError, OSError), match=message):
        run(options, tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()
