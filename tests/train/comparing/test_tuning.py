"""Every row is tuned alike, on seeds of the trials' own, and then judged."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest

from gstds import Policy
from gstds.policies import make_policy
from gstds.train.cli.main import main
from gstds.train.comparing import sweep
from gstds.train.comparing.compare import plan
from gstds.train.comparing.comparison import TUNING_SEED, comparison_from
from gstds.train.launching.jobs import Watch
from gstds.train.running.ending import StopFlag

HERE = "tests.train.comparing.test_tuning"


@pytest.fixture
def here(tmp_path, tiny_npz, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(tiny_npz, *more):
    options = ["--dataset", tiny_npz, "--batch-size", "32", "--epochs", "1", "--learner", "mlp"]
    options += ["--no-tracking", "--quiet", "--out", "t", "--json", "t.json", "--seeds", "1"]
    return ["compare", *options, *more]


def answer(folder):
    return json.loads((folder / "t.json").read_text(), parse_constant=pytest.fail)


def by_row(content):
    rows = {}
    for trial in content["tuning"]["trials"]:
        rows.setdefault(trial["row"], []).append(trial)
    return rows


@pytest.mark.slow
def test_every_row_and_control_gets_the_same_trials_and_is_judged_on_fresh_seeds(here, tiny_npz):
    command = words(tiny_npz, "--policies", "stale-big-loss", "full", "--tune-seeds", "2")
    command += ["--tune", "learning_rate=.001,.02"]
    assert main(command) == 0
    content = answer(here)
    rows = by_row(content)
    assert set(rows) == {"stale-big-loss", "full", "random", "short-full"}
    sets = {row: sorted((str(t["values"]), t["seed"]) for t in rows[row]) for row in rows}
    assert len({str(one) for one in sets.values()}) == 1, "the same values under the same seeds"
    assert {trial["seed"] for trials in rows.values() for trial in trials} == {10_000, 10_001}
    assert len(rows["full"]) == 2 * len(content["tuning"]["grid"]["learning_rate"])
    assert [run["policy"] for run in content["runs"]] == ["stale-big-loss", "full"]
    assert {run["seed"] for run in (*content["runs"], *content["controls"])} == {0}
    for row in (*content["summary"], *content["controls_summary"]):
        scores = {}
        for trial in rows[row["policy"]]:
            scores.setdefault(str(trial["values"]), []).append(trial["val_accuracy"])
        means = {values: np.mean(several) for values, several in scores.items()}
        assert means[str(row["tuned"])] == max(means.values())
        assert row["trials"] == len(rows[row["policy"]])
    page = (here / "t" / "report.md").read_text()
    assert "Tuned alike" in page
    chosen = content["summary"][0]["tuned"]["learning_rate"]
    assert f"learning_rate={chosen}" in page
    assert (here / "t" / "tuning.png").read_bytes().startswith(b"\x89PNG")
    folder = next((here / "t" / "runs").glob(f"*-0-{content['runs'][0]['identity']}"))
    assert f'"learning_rate": {chosen}' in (folder / "config.json").read_text()
    before = {t["run_id"] for trials in rows.values() for t in trials}
    assert main(command) == 0
    assert {t["run_id"] for trials in by_row(answer(here)).values() for t in trials} == before


@pytest.fixture
def pretended(here, monkeypatch):
    """Tuning without training: a trial's accuracy is a function of its configuration."""

    def tune_by(accuracy, *grid, policies=("random", "full")):
        done = []

        def carry_out(jobs, *_):
            done.extend(jobs)
            zeros = dict.fromkeys(("charged_flops", "mean_keep", "seconds"), 0.0)
            return {
                job.folder: zeros
                | {"policy": job.label, "seed": job.config.seed, "status": "finished"}
                | {"run_id": str(job.folder), "full_flops": 1.0}
                | {"val_accuracy": accuracy(job.config)}
                for job in jobs
            }

        monkeypatch.setattr(sweep, "carry_out", carry_out)
        options = {"policies": policies, "tune": grid, "controls": False}
        return sweep.tune(comparison_from(options, here / "t"), Watch(), StopFlag()), done

    return tune_by


@pytest.mark.parametrize(
    ("best", "grid"),
    [
        (0.1, [0.05, 0.1, 0.2]),
        (0.2, [0.05, 0.1, 0.2, 0.4]),
        (100, [0.05, 0.1, 0.2, 0.4]),  # once at that end
        (0.001, [0.025, 0.05, 0.1, 0.2]),
    ],
)
def test_a_grid_whose_edge_wins_is_widened_once_at_that_end_for_every_row(pretended, best, grid):
    def accuracy(config):
        wanted = best if config.policy == "full" else 0.1
        return 1 / (1 + abs(np.log(config.learning_rate / wanted)))

    tuning, _ = pretended(accuracy, "learning_rate=.05,.1,.2")
    assert list(tuning.axes[0].values) == pytest.approx(grid)
    assert tuning.values["random"] == {"learning_rate": 0.1}
    assert tuning.values["full"]["learning_rate"] == min(grid, key=lambda v: abs(np.log(v / best)))
    rows = {row: [t for t in tuning.trials if t["row"] == row] for row in ("random", "full")}
    assert {len(trials) for trials in rows.values()} == {2 * len(grid)}
    assert len(tuning.widened) == len(grid) - 3


def test_both_ends_may_be_widened_and_none_beyond_what_an_option_may_be(pretended):
    def accuracy(config):
        return config.learning_rate if config.policy == "full" else -config.learning_rate

    tuning, _ = pretended(accuracy, "learning_rate=1,2")
    assert list(tuning.axes[0].values) == [0.5, 1, 2, 4]
    tuning, _ = pretended(lambda config: config.keep or 0.0, "keep=.5,.8", "optimizer=sgd,adamw")
    assert list(tuning.axes[0].values) == [0.5, 0.8], "1.28 is no keep ratio"
    assert tuning.values == {
        "random": {"keep": 0.8, "optimizer": "sgd"},
        "full": {"optimizer": "sgd"},
    }


class Memorizer(Policy):
    """Random samples; with ``peek`` the network also learns selection-validation by heart."""

    def __init__(self, peek: int = 0) -> None:
        self.peek, self._inner = peek, make_policy("random", schedule="constant")

    def act(self, observation):
        return self._inner.act(observation)

    def learn(self, transition):
        import torch
        import torch.nn.functional as F

        frame = inspect.currentframe()
        while self.peek and frame and "env" not in vars(frame.f_locals.get("self", object)):
            frame = frame.f_back
        if not self.peek or transition.info["progress"] < 1:
            return
        env = frame.f_locals["self"].env
        part, model = env.data.selection_validation, env.learner.model
        images, labels = zip(*env.loader.batches(part), strict=True)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(100):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.cat(images)), torch.cat(labels)).backward()
            optimizer.step()


@pytest.mark.slow
def test_a_policy_that_memorizes_selection_validation_is_chosen_and_gains_nothing(here, tmp_path):
    rng = np.random.default_rng(0)
    np.savez("noise.npz", X=rng.integers(0, 256, (400, 8, 8), dtype=np.uint8), y=np.arange(400) % 4)
    command = words("npz:noise.npz", "--policies", f"{HERE}:Memorizer", "--no-controls")
    assert main([*command, "--seeds", "3", "--tune", "peek=0,1", "--tune-seeds", "1"]) == 0
    content = answer(here)
    (row,) = content["summary"]
    trials = {t["values"]["peek"]: t["val_accuracy"] for t in content["tuning"]["trials"]}
    assert row["tuned"] == {"peek": 1}, "it is shown"
    assert trials[1] == 1.0
    assert trials[0] < 0.6
    assert {run["val_accuracy"] for run in content["runs"]} == {1.0}
    assert row["judged_on"] == "test"
    assert row["mean"] < 0.4, "labels are random: a quarter is what there is to get"


def test_trials_never_meet_the_test_part_or_fresh_seeds(pretended):
    _, done = pretended(lambda config: 0.5, "learning_rate=.01,.1")
    assert {job.config.seed for job in done} == {TUNING_SEED, TUNING_SEED + 1}
    assert not any(job.config.test for job in done)


def test_splits_of_trials_are_their_own_where_splits_vary(here):
    options = {"policies": ("random",), "splits": "per-seed", "seeds": 2, "split_seed": 7}
    comparison = comparison_from(options, here / "t")
    assert [job.config.split_seed for job in plan(comparison)] == [7, 8]
    trial = sweep.plan_run(comparison, "random", TUNING_SEED)
    assert trial.config.split_seed == TUNING_SEED + 7


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tune", "learning_rate=.1"], "learning_rate has one value; give two values or more"),
        (["--tune", "learning_rate=.1..1"], "learning_rate is a range"),
        (["--tune", "learning_rat=.1,.2"], "did you mean 'learning_rate'"),
        (["--tune", "learning_rate=.1,-1"], "learning_rate must be"),
        (["--tune", "floor=.1,.2"], "row 'random' has no option 'floor'"),
        (["--tune", "split_seed=0,1"], "split_seed decides about the data"),
        (["--tune", "seed=0,1"], "seed cannot be varied"),
        (["--tune", "learning_rate=.1,.2", "--first-seed", "10001"], "overlap those of the trials"),
        (["--tune", "learning_rate=.1,.2", "--seeds", "10001"], "choose --first-seed"),
        (["--tune", "keep=.3,.5", "--policies", "random@keep=.2", "full"], "sets keep itself"),
        (["--tune", "learning_rate=.1,.2", "--sweep", "keep=.3,.5"], "--tune goes without --sweep"),
        (["--margin", "0"], "margin must be"),
        (["--splits", "random"], "splits"),
        (["--tune", "learning_rate=.1,.2", "--tune-seeds", "0"], "tune_seeds must be"),
    ],
)
def test_bad_tuning_is_refused_before_any_work(here, tiny_npz, capsys, more, message):
    rows = [] if "--policies" in more else ["--policies", "best", "random"]
    rows = [] if "--sweep" in more else rows
    assert main(words(tiny_npz, *rows, *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (here / "t").exists()


@pytest.mark.slow
def test_splits_vary_with_the_seed_where_that_is_wanted(here, tiny_npz):
    command = words(tiny_npz, "--policies", "easy-reference", "random", "--reference", "untrained")
    assert main([*command, "--splits", "per-seed", "--seeds", "2", "--no-controls"]) == 0
    content = answer(here)
    assert content["splits"] == "per-seed"
    reference = [run["reference_accuracy"] for run in content["runs"] if run["reference_flops"]]
    assert len(set(reference)) == 2, "a probe of each split's own"
    assert content["summary"][0]["reference_shared_by"] == 1
    page = (here / "t" / "report.md").read_text()
    assert "each with a split of its own" in page
    assert "images are of seed 0 alone" in page
