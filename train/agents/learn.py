"""Teach an agent to set the keep ratio: learn, judge on held-out runs, keep the best, export."""

# Own, not SB3's EvalCallback and CheckpointCallback: these judge by mean reward and save the model
# alone; an exact resume needs environment, episodes, history and log beside it, at one step.

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from gstds.common.checksummed_json import write_sealed
from gstds.common.files import write_json
from gstds.common.state import Stateful, latest_state, save_state
from gstds.observation.spec import LOSS_BOUND
from gstds.options.fields import by_group
from gstds.policies.learned.agent_file import Actor, AgentFile, save_agent
from gstds.train.agents.config import AgentConfig
from gstds.train.agents.models import ModelState, actor_tensors, make_model
from gstds.train.running.ending import StopFlag
from gstds.train.tracking.log import RunLog
from gstds.train.tracking.uploader import Upload

JUDGE_SEEDS = 3
_NOTED: tuple[str, ...] = ("instance", "mean_keep", "charged_flops", "step", "decision")
_NOTED += ("selection_accuracy", "under_budget")
_JUDGED = {"accuracy": "selection_accuracy", "loss": "selection_loss"}
_JUDGED |= {"reward": "reward", "mean_keep": "mean_keep"}


def learn(
    config: AgentConfig,
    folder: str | Path,
    *,
    stop: StopFlag | None = None,
    resume: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Teach an agent in a folder; arguments as for `Teacher` and `Teacher.teach`."""
    return Teacher(config, folder, **options).teach(stop, resume=resume)


class Teacher(Stateful):
    """Teaches one agent, in a folder.

    Args:
        config: What it learns.
        folder: Where configuration, checkpoints and agents go: ``last`` and ``best``.
        upload: Delivers the log to MLflow; None for nobody.
        command: The command line, for the agent's file.
        progress: Called with the phase, what of it is done, and its total.
        note: Called with a line whenever the agent was looked at on the held-out instances.

    Raises:
        ValueError: If an option is unknown or an instance impossible.
        OSError: If data cannot be read or the folder not be written.
        ImportError: If the agent's library is missing.
    """

    state: tuple[str, ...] = ("_learning", "env", "episodes", "history", "best")
    state += ("_seconds", "_judging_flops", "_told")

    def __init__(
        self,
        config: AgentConfig,
        folder: str | Path,
        *,
        upload: Upload | None = None,
        command: str = "",
        progress: Callable[[str, int, int], None] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        from stable_baselines3.common.vec_env import DummyVecEnv

        from gstds.envs import KeepRatioEnv

        self.config, self.folder, self.command = config, Path(folder), command
        self.upload, self.log = upload, RunLog(self.folder)
        self._progress = progress or (lambda phase, done, total: None)
        self._note = note or (lambda text: None)
        common: dict[str, Any] = {"action": config.action, **config.env}
        self.env = KeepRatioEnv(instances=config.instances, **common)
        self.judged = KeepRatioEnv(instances=config.held_out, **common)
        learned_on = [world.options for world in self.env.worlds]
        for one, world in zip(self.judged.instances, self.judged.worlds, strict=True):
            if world.options in learned_on:
                raise ValueError(
                    f"held-out instance {one.name!r} is one of those learned on; give it another "
                    "data set or split_seed"
                )
        self.episodes = Episodes(self.env)
        shuffled = config.shuffle_rewards
        top = ShuffledReward(self.episodes, config.seed) if shuffled else self.episodes
        vector = DummyVecEnv([lambda: top])
        self.model = make_model(config.agent, vector, config.seed, config.agent_params)
        self._learning = ModelState(self.model)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"accuracy": -1.0, "loss": math.inf}
        self._seconds, self._judging_flops, self._told = 0.0, 0.0, 0

    # ------------------------------------------------------------------ learning

    def teach(self, stop: StopFlag | None = None, *, resume: bool = False) -> dict[str, Any]:
        """Learn to the end or until ``stop``; return the result, as it stands in the JSON file."""
        stop, config, folder = stop or StopFlag(), self.config, self.folder
        if not resume:
            note = {"version": 1, "config": config.as_dict(), "command": self.command}
            write_sealed(folder / "config.json", note)
        state = latest_state(folder / "checkpoints") if resume else None
        # The library begins by resetting: it must do so before an old state is put back.
        self.model._setup_learn(0, callback=None, reset_num_timesteps=True)
        if state is not None:
            self.load_state_dict(state)
        self.log.begin(
            name=f"learn-{config.agent}-seed{config.seed}",
            params=by_group(config) | {f"env.{name}": value for name, value in config.env.items()},
            tags={"kind": "agent", "agent": config.agent, "folder": str(folder.absolute())},
            description=f"Agent `{config.agent}` learns to set the keep ratio.",
            resume=resume,
        )
        if self.upload:
            self.upload.begin(folder, self.log.run_id)
        start = time.perf_counter() - self._seconds
        if not self.history:
            self._judge()
        while self._steps < config.steps and not stop.is_set:
            self._chunk(stop)
            self._track()
            self._seconds = time.perf_counter() - start
            due = self._steps - self.history[-1]["steps"] >= config.evaluate_every
            if due or self._steps >= config.steps:
                self._judge()
            self.log.sync()  # what a resumed agent does not repeat is on the disk
            save_state(folder / "checkpoints", self._steps, self.state_dict())
            if self.upload:
                self.upload.remind(at_once=False)
        return self._end("finished" if self._steps >= config.steps else "interrupted")

    @property
    def _steps(self) -> int:
        return int(self.model.num_timesteps)

    def _chunk(self, stop: StopFlag) -> None:
        """Learn from one rollout, or from about as many decisions off policy."""
        off_policy, total = hasattr(self.model, "replay_buffer"), self.config.steps

        def watch(*_: Any) -> bool:
            self._progress("learning", min(total, self._steps), total)
            return not (stop.is_set and off_policy)

        size = 256 if off_policy else int(self.model.n_steps)
        self.model.learn(size, callback=watch, reset_num_timesteps=False, progress_bar=False)

    def _judge(self) -> None:
        """Look at the held-out instances; keep the agent if it is the best so far."""
        agent = self.export()
        env, actor, count = Episodes(self.judged), Actor(agent), len(self.judged.instances)
        for number in range(count * JUDGE_SEEDS):
            self._progress("looking at held-out instances", number, count * JUDGE_SEEDS)
            play(env, actor, *divmod(number, JUDGE_SEEDS))
        self._judging_flops += sum(row["charged_flops"] for row in env.rows)
        means = {k: float(np.mean([row[name] for row in env.rows])) for k, name in _JUDGED.items()}
        row: dict[str, Any] = {"steps": self._steps} | means
        self.history.append(row)
        self.log.log({f"val/{key}": value for key, value in means.items()}, self._steps)
        self._note(
            f"after {row['steps']} decisions: held-out accuracy {100 * row['accuracy']:.2f}%, "
            f"mean keep {row['mean_keep']:.3f}, reward {row['reward']:+.3f}"
        )
        if (row["accuracy"], -row["loss"]) > (self.best["accuracy"], -self.best["loss"]):
            self.best = row | {"episodes": env.rows}
            save_agent(self.folder / "best", agent)

    def export(self) -> AgentFile:
        """Return the agent as it stands, as data."""
        tensors, activation, squash = actor_tensors(self.model)
        kind = self.env.actions.kind
        ratios = {"ratios": list(self.env.actions.ratios)} if kind == "discrete" else {}
        training = {
            "description": f"{self.config.agent} after {self._steps} decisions",
            "command": self.command,
            "config": self.config.as_dict(),
            "instances": [[i.name, dict(i.options)] for i in self.env.instances],
            "held_out": [[i.name, dict(i.options)] for i in self.judged.instances],
            "cost": self.cost(),
        }
        return AgentFile(
            actions={"kind": kind, **ratios},
            activation=activation,
            interval=self.env.interval,
            picker=self.env.picker.name,
            tensors=tensors,
            observe=self.config.env.get("observe", {}),
            squash=squash,
            training=training,
        )

    def cost(self) -> dict[str, float]:
        """Return what teaching has cost so far: episodes, decisions, operations, seconds."""
        return {
            "episodes": len(self.episodes.rows),
            "decisions": self._steps,
            "charged_flops": self.episodes.charged,
            "judging_flops": self._judging_flops,
            "seconds": self._seconds,
        }

    # ------------------------------------------------------------------ record

    def _track(self) -> None:
        names = {k: _JUDGED[k] for k in ("reward", "mean_keep", "accuracy")}
        names["charged_flops"] = "charged_flops"
        for row in self.episodes.rows[self._told :]:
            self._told += 1
            self.log.log({f"episode/{k}": row[name] for k, name in names.items()}, self._told)
        self.log.log({"cost/charged_flops": self.episodes.charged}, self._steps)

    def _end(self, status: str) -> dict[str, Any]:
        if status == "finished":
            save_agent(self.folder / "last", self.export())
        result = {
            "version": 1,
            "status": status,
            "config": self.config.as_dict(),
            "best": self.best if math.isfinite(self.best["loss"]) else None,
            "history": self.history,
            "cost": self.cost(),
            "episodes": self.episodes.rows,
        }
        write_json(self.folder / "result.json", result)
        final = self.cost() | {"val_accuracy": self.best["accuracy"]}
        self.log.log({f"final/{name}": float(v) for name, v in final.items()}, self._steps)
        for name in ("result.json", "best/agent.json", "best/agent.safetensors"):
            if (self.folder / name).exists():
                self.log.log_file(self.folder / name, "agent")
        self.log.finish(status)
        if self.upload:
            self.upload.remind()
        return result


class Episodes(Stateful, gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps a row for each episode that ended.

    Attributes:
        rows: What each episode came to.
        charged: Operations charged in all episodes, those that go on included.
    """

    state = ("rows", "_spent", "_open", "_reward")

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.rows: list[dict[str, Any]] = []
        self._spent = self._open = self._reward = 0.0

    @property
    def charged(self) -> float:
        """Operations charged so far."""
        return self._spent + self._open

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._spent, self._open, self._reward = self.charged, 0.0, 0.0
        return self.env.reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Pass on, and note the end."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._reward += float(reward)
        self._open = float(info["charged_flops"])
        if terminated or truncated:
            self.rows.append(_row(info, self._reward))
        return observation, reward, terminated, truncated, info


def _row(info: Mapping[str, Any], reward: float) -> dict[str, Any]:
    # The loss of a learner which an agent has wrecked counts as the bound of all.
    loss = float(info["selection_loss"])
    loss = min(loss, LOSS_BOUND) if math.isfinite(loss) else LOSS_BOUND
    return {"reward": reward, **{name: info[name] for name in _NOTED}, "selection_loss": loss}


class ShuffledReward(gymnasium.RewardWrapper[Any, Any]):
    """Pays a reward that was earned at another time: the control that must learn nothing.

    Args:
        env: The environment.
        seed: Seed of the draws.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int) -> None:
        super().__init__(env)
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._earned: list[float] = []

    def reward(self, reward: Any) -> float:
        """Return one of the rewards earned so far, whichever."""
        self._earned.append(float(reward))
        return self._earned[int(self._random.integers(len(self._earned)))]


def play(env: Episodes, actor: Actor, instance: int, seed: int) -> None:
    """Run one episode of ``gstds/KeepRatio-v0`` under an exported actor.

    The episode's row also holds ``seed``, and ``progress`` and ``ratios`` at every decision.
    """
    observation, info = env.reset(seed=seed, options={"instance": instance})
    actor.reset()
    progress, ratios, done = [], [], False
    while not done:
        ratio = actor.ratio(observation)
        progress.append(float(info["progress"]))
        ratios.append(ratio)
        action = env.get_wrapper_attr("actions").action(ratio)
        observation, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    env.rows[-1] |= {"seed": seed, "progress": progress, "ratios": ratios}
