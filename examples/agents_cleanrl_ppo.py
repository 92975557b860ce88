"""Proximal policy optimization in one file, on `gstds/KeepRatio-v0`, with torch alone.

    python examples/agents_cleanrl_ppo.py --decisions 4096

Vectorized, without a training library: a start for algorithms of your own.
"""

from __future__ import annotations

import argparse

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

parser = argparse.ArgumentParser()
parser.add_argument("--decisions", type=int, default=4096)
parser.add_argument("--dataset", default="digits")
parser.add_argument("--learner", default="small-cnn")
parser.add_argument("--limit", type=int, default=None)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--envs", type=int, default=2)
parser.add_argument("--steps", type=int, default=64, help="decisions of each environment a rollout")
parser.add_argument("--seed", type=int, default=0)
RATIOS = [0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0]
GAMMA, LAMBDA, CLIP, EPOCHS, MINIBATCHES, ENTROPY = 1.0, 0.95, 0.2, 8, 4, 0.01


def layers(inputs: int, outputs: int, scale: float) -> nn.Sequential:
    """Return two hidden layers of 32; the last one starts small where ``scale`` is."""
    network = nn.Sequential(
        nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, outputs)
    )
    nn.init.orthogonal_(network[-1].weight, scale)
    return network


def advantages(rewards, values, ends, last_value):
    """Generalized advantage estimation (T, E); ``ends[t]`` is 1 if the episode ended at t."""
    result, running = torch.zeros_like(rewards), torch.zeros(rewards.shape[1])
    following = torch.cat([values[1:], last_value[None]])
    for t in reversed(range(len(rewards))):
        alive = 1.0 - ends[t]
        delta = rewards[t] + GAMMA * following[t] * alive - values[t]
        running = delta + GAMMA * LAMBDA * alive * running
        result[t] = running
    return result


def main() -> None:
    """Learn; tell the reward after each rollout."""
    args = parser.parse_args()
    torch.manual_seed(args.seed)  # the process is this example's own
    envs = gymnasium.make_vec(
        "gstds.envs:gstds/KeepRatio-v0",
        num_envs=args.envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
        dataset=args.dataset,
        learner=args.learner,
        limit=args.limit,
        batch_size=args.batch_size,
        picker="uniform",
        ratios=RATIOS,
        centered=True,
    )
    actor = layers(envs.single_observation_space.shape[0], len(RATIOS), 0.01)
    critic = layers(envs.single_observation_space.shape[0], 1, 1.0)
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, eps=1e-5)
    seen = torch.as_tensor(envs.reset(seed=args.seed)[0])
    earned, episodes = np.zeros(args.envs), []
    for _ in range(max(1, args.decisions // (args.steps * args.envs))):
        rollout = []
        for _ in range(args.steps):
            with torch.no_grad():
                choice = Categorical(logits=actor(seen))
                action = choice.sample()
                value = critic(seen)[:, 0]
            following, reward, terminated, truncated, _ = envs.step(action.numpy())
            ended = terminated | truncated
            paid, over = torch.tensor(reward).float(), torch.tensor(ended).float()
            rollout.append((seen, action, choice.log_prob(action), value, paid, over))
            earned += reward
            episodes += earned[ended].tolist()
            earned[ended] = 0.0
            seen = torch.as_tensor(following)
        x, a, old, v, r, d = (torch.stack(part) for part in zip(*rollout, strict=True))
        with torch.no_grad():
            gain = advantages(r, v, d, critic(seen)[:, 0])
        x, a, old, gain, wanted = (
            x.flatten(0, 1), a.flatten(), old.flatten(), gain.flatten(), (gain + v).flatten()
        )  # fmt: skip
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(x)).chunk(MINIBATCHES):
                choice = Categorical(logits=actor(x[rows]))
                ratio = (choice.log_prob(a[rows]) - old[rows]).exp()
                g = (gain[rows] - gain[rows].mean()) / (gain[rows].std() + 1e-8)
                policy = -torch.min(ratio * g, ratio.clamp(1 - CLIP, 1 + CLIP) * g).mean()
                error = (critic(x[rows])[:, 0] - wanted[rows]).square().mean()
                loss = policy + 0.5 * error - ENTROPY * choice.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 0.5)
                optimizer.step()
        recent = f"{np.mean(episodes[-20:]):+.3f}" if episodes else "none yet"
        print(f"{len(episodes)} episodes, reward of the last 20: {recent}", flush=True)
    envs.close()


if __name__ == "__main__":
    main()
