"""A learned keep ratio against the paper's schedule, random keep and its own controls.

Every row gets the same budget, order, augmentation and initial weights, seed by seed; nothing is
chosen here. Writes a JSON file, a Markdown table, and pictures: the ratios over progress; what the
agent keeps, on the first two principal axes of the reference's features; with --training, the
folder of `gstds learn`, the rewards while it learned.

    python benchmarks/agents.py --agent NAME_OR_FOLDER --dataset DATA --learner NAME --out DIR
        [--training DIR] [--beside "untrained=FOLDER" "shuffled rewards=FOLDER"]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from gstds.common.checksummed_json import read_json
from gstds.common.files import write_json, write_text
from gstds.common.noise import policy_seed
from gstds.envs import DataSelectionEnv
from gstds.policies import Policy, RunContext, make_policy
from gstds.policies.learned.agent_policy import Learned, SummaryPolicy
from gstds.policies.uninformed.replay import Replay, encode_sequence
from gstds.selection.pickers import RATIO_PICKERS
from gstds.selection.schedules import make_schedule

ROWS = ("agent", "sigmoid, same picker", "gstds", "random", "RandTeach", "open loop", "best")


class Scheduled(SummaryPolicy):
    """A schedule with an agent's picker: what is left of the agent without its decisions."""

    def decide(self, summary: Any) -> float:
        return make_schedule("sigmoid")(float(summary[0]))


def run(policy: Policy, options: dict[str, Any], seed: int) -> dict[str, Any]:
    observe = {name: dict(how) for name, how in policy.needs.items()}
    env = DataSelectionEnv(
        **options,
        observe=observe,
        reward="none",
        w_max=policy.max_weight,
        normalizer=policy.normalizer,
        policy_flops=lambda drawn, kept, context: policy.step_flops(
            drawn, kept, RunContext(**context)
        ),
    )
    observation, _ = env.reset(seed=seed)
    policy.reset(policy_seed(seed), RunContext(**env.context()))
    progress, ratios, kept, drawn, done = [], [], 0, 0, False
    while not done:
        progress.append(env.progress)
        observation, _, terminated, truncated, info = env.step(policy.act(observation))
        ratios.append(info["kept"] / info["drawn"])
        kept, drawn, done = kept + info["kept"], drawn + info["drawn"], terminated or truncated
    return {
        "seed": seed,
        "test_accuracy": env.monitor("test").accuracy,
        "mean_keep": kept / drawn,
        "charged_share": env.ledger.charged_flops / env.budget_flops,
        "progress": progress,
        "ratios": ratios,
        "visits": env.visits.tolist(),
    }


def replay(row: dict[str, Any], picker: str) -> Replay:
    """Keep as much as another run did, by the share of the budget that is spent."""
    after = [*row["progress"][1:], 1.0]
    policy = Replay(encode_sequence(row["ratios"]), encode_sequence(after))
    policy.picker = RATIO_PICKERS[picker]
    return policy


def measure(name: str, options: dict[str, Any], seeds: int) -> dict[str, list[dict[str, Any]]]:
    agent = Learned(name)
    picker, interval = agent.agent.picker, agent.agent.interval
    rows: dict[str, list[dict[str, Any]]] = {}
    rows["agent"] = [run(agent, options, seed) for seed in range(seeds)]
    rows["sigmoid, same picker"] = [
        run(Scheduled(interval, picker), options, s) for s in range(seeds)
    ]
    for plain in ("gstds", "random", "best"):
        rows[plain] = [run(make_policy(plain), options, s) for s in range(seeds)]
    own = rows["agent"]
    rows["RandTeach"] = [run(replay(own[s], "uniform"), options, s) for s in range(seeds)]
    other = own[1:] + own[:1]
    rows["open loop"] = [run(replay(other[s], picker), options, s) for s in range(seeds)]
    return {row: rows[row] for row in ROWS}


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    agent = np.array([100 * r["test_accuracy"] for r in rows["agent"]])
    lines = ["| row | test accuracy % | agent minus row | p | mean keep | budget used |"]
    lines.append("|---|---|---|---|---|---|")
    for name, runs in rows.items():
        accuracy = np.array([100 * r["test_accuracy"] for r in runs])
        spread = half_width(accuracy)
        keep, used = (np.mean([r[k] for r in runs]) for k in ("mean_keep", "charged_share"))
        if name == "agent":
            against, p = "", ""
        else:
            gap = agent - accuracy
            against = f"{gap.mean():+.2f} ± {half_width(gap):.2f}"
            p = f"{stats.ttest_rel(agent, accuracy).pvalue:.3g}" if gap.any() else "1"
        cells = [name, f"{accuracy.mean():.2f} ± {spread:.2f}", against, p]
        lines.append("| " + " | ".join([*cells, f"{keep:.3f}", f"{used:.4f}"]) + " |")
    return "\n".join(lines) + "\n"


def half_width(values: Any) -> float:
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))


def picture(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for number, one in enumerate(rows["agent"]):
        label = "agent, each seed" if number == 0 else None
        axes.step(
            one["progress"], one["ratios"], where="post", color="#1f6f8b", alpha=0.5, label=label
        )
    grid = np.linspace(0, 1, 101)
    schedule = make_schedule("sigmoid")
    axes.plot(grid, [schedule(x) for x in grid], "--", color="#b5482f", label="the paper's sigmoid")
    axes.set(xlabel="share of the budget spent", ylabel="keep ratio", ylim=(0, 1), xlim=(0, 1))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def feature_space(
    rows: dict[str, list[dict[str, Any]]], options: dict[str, Any], path: Path
) -> None:
    """Draw how often each training sample was trained on, by the agent and by random keep."""
    from matplotlib import pyplot as plt

    env = DataSelectionEnv(**options, observe={"reference_losses": {}}, reward="none")
    store: Any = env.task.reference.store  # type: ignore[union-attr]  # observed, so it is there
    features = np.asarray(store.gather(np.arange(len(env.data.train))), np.float64)
    _, _, axes = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    x, y = ((features - features.mean(axis=0)) @ axes[:2].T).T
    figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
    names = ("agent", "RandTeach")
    counts = {name: np.mean([run["visits"] for run in rows[name]], axis=0) for name in names}
    most = max(float(count.max()) for count in counts.values())
    for panel, name in zip(panels, names, strict=True):
        order = np.argsort(counts[name])
        points = panel.scatter(x[order], y[order], c=counts[name][order], s=5, vmin=0, vmax=most)
        panel.set(title=name, xlabel="first principal axis of the features")
    panels[0].set_ylabel("second")
    figure.colorbar(points, ax=panels, label="times trained on, mean over seeds")
    figure.savefig(path, dpi=110)


def learning(folder: Path, path: Path) -> None:
    """Draw the rewards of the episodes that an agent learned from, and its held-out looks."""
    from matplotlib import pyplot as plt

    result = read_json(folder / "result.json")
    rewards = np.array([row["reward"] for row in result["episodes"]])
    window = max(1, len(rewards) // 30)
    smooth = np.convolve(rewards, np.ones(window) / window, mode="valid")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(rewards, ".", color="#9db8c2", markersize=3, label="each episode")
    left.plot(
        np.arange(len(smooth)) + window - 1, smooth, color="#1f6f8b", label=f"mean of {window}"
    )
    left.set(xlabel="episode", ylabel="reward")
    left.legend(frameon=False)
    looks = result["history"]
    steps = [row["steps"] for row in looks]
    right.plot(steps, [100 * row["accuracy"] for row in looks], "o-", color="#1f6f8b")
    right.set(xlabel="decisions", ylabel="held-out accuracy (%)")
    second = right.twinx()
    second.plot(steps, [row["mean_keep"] for row in looks], "s--", color="#b5482f")
    second.set_ylabel("mean keep", color="#b5482f")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", required=True)
    parser.add_argument("--dataset", default="gstds.envs.task.small_sets:fashion_2")
    parser.add_argument("--learner", default="mlp")
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--budget", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--training", type=Path, help="folder of `gstds learn`")
    parser.add_argument("--beside", nargs="*", default=(), metavar="NAME=AGENT", help="more rows")
    given = parser.parse_args()
    names = ("dataset", "learner", "learning_rate", "epochs", "budget")
    options = {name: getattr(given, name) for name in names} | {"setting": "equal-budget"}
    if unnamed := [word for word in given.beside if "=" not in word]:
        parser.error(f"--beside takes NAME=AGENT, got {unnamed[0]!r}")
    others = dict(word.split("=", 1) for word in given.beside)
    agents = {name: Learned(path) for name, path in others.items()}  # refused before any run
    rows = measure(given.agent, options, given.seeds)
    for name, agent in agents.items():
        rows[name] = [run(agent, options, seed) for seed in range(given.seeds)]
    write_json(given.out / "rows.json", {"options": options, "rows": rows})
    write_text(given.out / "table.md", table(rows))
    picture(rows, given.out / "keep-ratio.png")
    feature_space(rows, options, given.out / "feature-space.png")
    if given.training:
        learning(given.training, given.out / "learning.png")
    print(table(rows))


if __name__ == "__main__":
    main()
