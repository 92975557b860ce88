"""Teach an agent to set the keep ratio: learn, judge on held-out runs, keep the best, export."""

# Own, not SB3's EvalCallback and CheckpointCallback: these judge by mean reward and save the model
# alone; an exact resume needs environment, episodes, history and log beside it, at one step.

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gstds.common.checksummed_json import read_sealed, write_sealed
from gstds.common.files import write_json
from gstds.common.state import latest_state, save_state
from gstds.options.fields import by_group
from gstds.policies.learned.agent_file import AgentFile, save_agent
from gstds.train.agents.config import AgentConfig
from gstds.train.agents.episodes import Episodes, ShuffledReward, judge
from gstds.train.agents.models import actor_tensors, make_model, model_state, restore_model
from gstds.train.running.run import StopFlag
from gstds.train.tracking.log import RunLog
from gstds.train.tracking.uploader import Upload

__all__ = ["Teacher", "learn", "load_agent_config"]

JUDGE_SEEDS = 3
_WORST = {"accuracy": -1.0, "loss": math.inf}


def load_agent_config(folder: Path) -> AgentConfig:
    """Return the configuration of a folder that `learn` began.

    Raises:
        ValueError: If there is none.
    """
    try:
        return AgentConfig(**read_sealed(folder / "config.json")["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--resume {str(folder)!r}: no readable config.json there") from error


class Teacher:
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
        self._check_held_out()
        self.episodes = Episodes(self.env)
        shuffled = config.shuffle_rewards
        top = ShuffledReward(self.episodes, config.seed) if shuffled else self.episodes
        self.model = make_model(
            config.agent,
            DummyVecEnv([lambda: top]),
            seed=config.seed,
            parameters=config.agent_params,
        )
        self.model.set_random_seed(config.seed)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = dict(_WORST)
        self._seconds, self._judging_flops, self._told = 0.0, 0.0, 0
        self._checkpoints = self.folder / "checkpoints"

    def _check_held_out(self) -> None:
        learned = [w.options for w in self.env.worlds]
        for one, world in zip(self.judged.instances, self.judged.worlds, strict=True):
            if world.options in learned:
                raise ValueError(
                    f"held-out instance {one.name!r} is one of those learned on; give it another "
                    "data set or split_seed"
                )

    # ------------------------------------------------------------------ learning

    def teach(self, stop: StopFlag | None = None, *, resume: bool = False) -> dict[str, Any]:
        """Learn to the end or until ``stop``; return the result, as it stands in the JSON file."""
        stop = stop or StopFlag()
        state = latest_state(self._checkpoints) if resume else None
        self._begin(state)
        self._begin_log(resume)
        start = time.perf_counter() - self._seconds
        if not self.history:
            self._judge()
        while self.model.num_timesteps < self.config.steps and not stop.is_set:
            self._chunk(stop)
            self._track()
            self._seconds = time.perf_counter() - start
            if self._due() or self.model.num_timesteps >= self.config.steps:
                self._judge()
            self._save()
        done = self.model.num_timesteps >= self.config.steps
        return self._end("finished" if done else "interrupted")

    def _chunk(self, stop: StopFlag) -> None:
        """Learn from one rollout, or from about as many decisions off policy."""
        from stable_baselines3.common.callbacks import BaseCallback

        told, total = self._progress, self.config.steps

        class _Watch(BaseCallback):
            def _on_step(self) -> bool:
                told("learning", min(total, self.model.num_timesteps), total)
                return not (stop.is_set and off_policy)

        off_policy = hasattr(self.model, "replay_buffer")
        size = 256 if off_policy else int(self.model.n_steps)
        self.model.learn(size, callback=_Watch(), reset_num_timesteps=False, progress_bar=False)

    def _due(self) -> bool:
        last = self.history[-1]["steps"] if self.history else 0
        return bool(self.model.num_timesteps - last >= self.config.evaluate_every)

    def _judge(self) -> None:
        """Look at the held-out instances; keep the agent if it is the best so far."""
        agent = self.export()
        verdict = judge(self.judged, agent, range(JUDGE_SEEDS), self._progress)
        self._judging_flops += sum(row["charged_flops"] for row in verdict["episodes"])
        steps = int(self.model.num_timesteps)
        row = {"steps": steps} | {k: v for k, v in verdict.items() if k != "episodes"}
        self.history.append(row)
        keys = ("accuracy", "loss", "reward", "mean_keep")
        self.log.log({f"val/{key}": row[key] for key in keys}, steps)
        self._note(
            f"after {steps} decisions: held-out accuracy {100 * row['accuracy']:.2f}%, mean keep "
            f"{row['mean_keep']:.3f}, reward {row['reward']:+.3f}"
        )
        if (row["accuracy"], -row["loss"]) > (self.best["accuracy"], -self.best["loss"]):
            self.best = row | {"episodes": verdict["episodes"]}
            save_agent(self.folder / "best", agent)

    def export(self) -> AgentFile:
        """Return the agent as it stands, as data."""
        tensors, activation, squash = actor_tensors(self.model)
        actions: dict[str, Any] = {"kind": self.env.actions.kind}
        if actions["kind"] == "discrete":
            actions["ratios"] = list(self.env.actions.ratios)
        return AgentFile(
            actions=actions,
            activation=activation,
            interval=self.env.interval,
            picker=self.env.picker.name,
            tensors=tensors,
            observe=self.config.env.get("observe", {}),
            squash=squash,
            training=self._training(),
        )

    def _training(self) -> dict[str, Any]:
        return {
            "description": f"{self.config.agent} after {self.model.num_timesteps} decisions",
            "command": self.command,
            "config": self.config.as_dict(),
            "instances": [[i.name, dict(i.options)] for i in self.env.instances],
            "held_out": [[i.name, dict(i.options)] for i in self.judged.instances],
            "cost": self.cost(),
        }

    def cost(self) -> dict[str, float]:
        """Return what teaching has cost so far: episodes, decisions, operations, seconds."""
        return {
            "episodes": len(self.episodes.rows),
            "decisions": int(self.model.num_timesteps),
            "charged_flops": self.episodes.charged,
            "judging_flops": self._judging_flops,
            "seconds": self._seconds,
        }

    # ------------------------------------------------------------------ record

    def _begin_log(self, resume: bool) -> None:
        config = self.config
        self.log.begin(
            name=f"learn-{config.agent}-seed{config.seed}",
            params=by_group(config) | {f"env.{name}": value for name, value in config.env.items()},
            tags={"kind": "agent", "agent": config.agent, "folder": str(self.folder.absolute())},
            description=f"Agent `{config.agent}` learns to set the keep ratio.",
            resume=resume,
        )
        if self.upload:
            self.upload.begin(self.folder, self.log.run_id)

    def _track(self) -> None:
        rows = self.episodes.rows
        for row in rows[self._told :]:
            self._told += 1
            self.log.log(
                {
                    "episode/reward": row["reward"],
                    "episode/mean_keep": row["mean_keep"],
                    "episode/accuracy": row["selection_accuracy"],
                    "episode/charged_flops": row["charged_flops"],
                },
                self._told,
            )
        self.log.log({"cost/charged_flops": self.episodes.charged}, self.model.num_timesteps)

    def _save(self) -> None:
        state = {
            "model": model_state(self.model),
            "env": self.env.state_dict(),
            "episodes": self.episodes.state_dict(),
            "history": self.history,
            "best": {k: v for k, v in self.best.items() if v != math.inf},
            "seconds": self._seconds,
            "judging_flops": self._judging_flops,
            "told": self._told,
        }
        self.log.sync()  # what a resumed agent does not repeat is on the disk
        save_state(self._checkpoints, int(self.model.num_timesteps), state)
        if self.upload:
            self.upload.remind(at_once=False)

    def _begin(self, state: Mapping[str, Any] | None) -> None:
        # The library begins by resetting: it must do so before an old state is put back.
        self.model._setup_learn(0, callback=None, reset_num_timesteps=True)
        if state is None:
            return
        restore_model(self.model, state["model"])
        self.env.load_state_dict(state["env"])
        self.episodes.load_state_dict(state["episodes"])
        self.history = [dict(row) for row in state["history"]]
        self.best = dict(_WORST) | dict(state["best"])
        self._seconds, self._told = float(state["seconds"]), int(state["told"])
        self._judging_flops = float(state["judging_flops"])

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
        cost = {f"final/{name}": float(value) for name, value in self.cost().items()}
        accuracy = {"final/val_accuracy": float(self.best["accuracy"])}
        self.log.log(cost | accuracy, int(self.model.num_timesteps))
        for name in ("result.json", "best/agent.json", "best/agent.safetensors"):
            if (self.folder / name).exists():
                self.log.log_file(self.folder / name, "agent")
        self.log.finish(status)
        if self.upload:
            self.upload.remind()
        return result


def learn(
    config: AgentConfig,
    folder: str | Path,
    *,
    upload: Upload | None = None,
    stop: StopFlag | None = None,
    resume: bool = False,
    command: str = "",
    progress: Callable[[str, int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Teach an agent in a folder; see `Teacher`."""
    folder = Path(folder)
    teacher = Teacher(config, folder, upload=upload, command=command, progress=progress, note=note)
    if not resume:
        write_sealed(
            folder / "config.json", {"version": 1, "config": config.as_dict(), "command": command}
        )
    return teacher.teach(stop, resume=resume)
