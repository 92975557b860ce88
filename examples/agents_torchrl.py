"""Proximal policy optimization with TorchRL, on `gstds/KeepRatio-v0`.

    pip install torchrl
    python examples/agents_torchrl.py --decisions 4096

The environment goes into TorchRL's `GymWrapper` as it stands; its spec check is run first.
"""

from __future__ import annotations

import argparse

import gymnasium
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import OneHotCategorical
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper
from torchrl.envs.utils import check_env_specs
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

parser = argparse.ArgumentParser()
parser.add_argument("--decisions", type=int, default=4096)
parser.add_argument("--rollout", type=int, default=128)
parser.add_argument("--dataset", default="digits")
parser.add_argument("--learner", default="small-cnn")
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--seed", type=int, default=0)
RATIOS = [0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0]


def layers(inputs: int, outputs: int) -> nn.Sequential:
    """Return a network of one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, outputs))


def main() -> None:
    """Check the specs, learn, and tell the mean reward of each rollout's episodes."""
    args = parser.parse_args()
    torch.manual_seed(args.seed)  # the process is this example's own
    world = gymnasium.make(
        "gstds.envs:gstds/KeepRatio-v0",
        dataset=args.dataset,
        learner=args.learner,
        batch_size=args.batch_size,
        picker="uniform",
        ratios=RATIOS,
        centered=True,
    )
    env = GymWrapper(world)
    check_env_specs(env, seed=args.seed)
    width = env.observation_spec["observation"].shape[-1]
    actor = ProbabilisticActor(
        TensorDictModule(layers(width, len(RATIOS)), ["observation"], ["logits"]),
        in_keys=["logits"],
        spec=env.action_spec,
        distribution_class=OneHotCategorical,
        return_log_prob=True,
    )
    critic = ValueOperator(layers(width, 1), in_keys=["observation"])
    advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
    objective = ClipPPOLoss(actor, critic, entropy_coeff=0.01)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3)
    collector = Collector(env, actor, frames_per_batch=args.rollout, total_frames=args.decisions)
    collector.set_seed(args.seed)
    earned, episodes = 0.0, []
    for rollout in collector:
        for reward, done in zip(rollout["next", "reward"], rollout["next", "done"], strict=True):
            earned += float(reward)
            if bool(done):
                episodes, earned = [*episodes, earned], 0.0
        with torch.no_grad():
            advantage(rollout)
        for _ in range(8):
            losses = objective(rollout)
            optimizer.zero_grad()
            sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
            nn.utils.clip_grad_norm_(objective.parameters(), 0.5)
            optimizer.step()
        recent = episodes[-20:]
        mean = f"{sum(recent) / len(recent):+.3f}" if recent else "none yet"
        print(f"{len(episodes)} episodes, reward of the last 20: {mean}", flush=True)
    collector.shutdown()


if __name__ == "__main__":
    main()
