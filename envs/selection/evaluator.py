"""When the reward-validation split is evaluated, and the reward that comes of it."""

from __future__ import annotations

import math

from gstds.common.state import Stateful
from gstds.envs.learner.learner import Evaluation
from gstds.envs.selection.run_parts import RunParts
from gstds.envs.task.rewards import REWARDS, Interval
from gstds.observation.spec import LOSS_BOUND

__all__ = ["Evaluator"]

_TINY = 1e-6


class Evaluator(Stateful):
    """Evaluates the learner at fixed shares of the run, and pays for what was learned meanwhile.

    Args:
        run: What the run is made of.
        max_draws: Drawn batches after which the run is cut off.

    Attributes:
        last: The last evaluation of reward-validation, of zeros if nothing consumes it.
    """

    state = ("_done", "_draws", "_spent", "last")

    def __init__(self, run: RunParts, max_draws: int) -> None:
        self._run = run
        self._wanted = run.options.evaluations or run.options.epochs
        self._spacing = max(1, max_draws // self._wanted)
        self._done, self._draws, self._spent = 0, 0, 0.0
        self.last = Evaluation(0.0, 0.0, ())

    def begin(self) -> None:
        """Evaluate the untrained learner, where something consumes it."""
        if self._run.budget.evaluation_flops:
            self.last = self._evaluate("evaluate", "reward_validation")

    def view(self) -> dict[str, float]:
        """Return the observations that it has the values of."""
        return {"validation_loss": self.last.loss, "validation_accuracy": self.last.accuracy}

    def if_due(
        self, *, done: bool, progress: float, step: int, affordable: bool
    ) -> tuple[bool, float]:
        """Say whether an evaluation is due, and return the reward.

        Args:
            done: True after the last step: an evaluation is then always due.
            progress: Share of the run done.
            step: Drawn batches so far.
            affordable: Whether the budget pays for an evaluation.
        """
        options, budget = self._run.options, self._run.budget
        reached = int(progress * self._wanted + _TINY)
        late = options.setting == "equal-budget" and step - self._draws >= self._spacing
        if not done and not ((reached > self._done or late) and affordable):
            return False, 0.0
        self._done, self._draws = max(self._done, reached), step
        if not budget.evaluation_flops:
            return True, 0.0
        before, now = self.last, self._evaluate("evaluate", "reward_validation")
        spent = self._run.ledger.charged_flops
        interval = Interval(
            loss_before=min(before.loss, LOSS_BOUND),
            loss_now=min(now.loss, LOSS_BOUND) if math.isfinite(now.loss) else LOSS_BOUND,
            accuracy_now=now.accuracy,
            spent_share=(spent - self._spent) / budget.total_flops,
            done=done,
            price=options.price,
        )
        self.last, self._spent = now, spent
        return True, float(REWARDS[options.reward](interval))

    def monitor(self, split: str) -> Evaluation:
        """Evaluate the learner on a split by name, for the record: counted, not charged."""
        return self._evaluate("monitor", split)

    def _evaluate(self, phase: str, split: str) -> Evaluation:
        run, part = self._run, getattr(self._run.task.data, split)
        with run.ledger.timed(phase):
            result = run.learner.evaluate(run.loader.batches(part))
        run.ledger.charge(phase, len(part) * run.learner.forward_flops)
        return result
