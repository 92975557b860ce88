"""When the reward-validation split is evaluated, and the reward that comes of it."""

from __future__ import annotations

import math

from gstds.common.state import Stateful
from gstds.envs.batches.loader import Loader
from gstds.envs.data.datasets import Data
from gstds.envs.data.splits import Split
from gstds.envs.learner.learner import Evaluation, Learner
from gstds.envs.selection.budget import Budget
from gstds.envs.task.options import EnvOptions
from gstds.envs.task.rewards import Interval, reward_function
from gstds.observation.cost import Ledger
from gstds.observation.spec import LOSS_BOUND

__all__ = ["Evaluator"]

_TINY = 1e-6


class Evaluator(Stateful):
    """Evaluates the learner at fixed shares of the run, and pays for what was learned meanwhile.

    Args:
        options: The environment's.
        budget: What the run may spend.
        data: The data set.
        learner: The network under training.
        loader: Loads images.
        ledger: Is charged for evaluations that something consumes.
        max_draws: Drawn batches after which the run is cut off.

    Attributes:
        last: The last evaluation of reward-validation, of zeros if nothing consumes it.
    """

    state = ("_done", "_draws", "_spent", "last")

    def __init__(
        self,
        options: EnvOptions,
        budget: Budget,
        data: Data,
        learner: Learner,
        loader: Loader,
        ledger: Ledger,
        max_draws: int,
    ) -> None:
        self._options, self._budget, self._data = options, budget, data
        self._learner, self._loader, self._ledger = learner, loader, ledger
        self._reward = reward_function(options.reward)
        self._wanted = options.evaluations or options.epochs
        self._spacing = max(1, max_draws // self._wanted)
        self._done, self._draws, self._spent = 0, 0, 0.0
        self.last = Evaluation(0.0, 0.0, ())

    def begin(self) -> None:
        """Evaluate the untrained learner, where something consumes it."""
        self.last = self._evaluate() or self.last

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
        reached = int(progress * self._wanted + _TINY)
        late = self._options.setting == "equal-budget" and step - self._draws >= self._spacing
        if not done and not ((reached > self._done or late) and affordable):
            return False, 0.0
        self._done, self._draws = max(self._done, reached), step
        return True, self._reward_now(done)

    def _reward_now(self, done: bool) -> float:
        before, now = self.last, self._evaluate()
        if now is None:
            return 0.0
        spent = self._ledger.charged_flops
        interval = Interval(
            loss_before=min(before.loss, LOSS_BOUND),
            loss_now=min(now.loss, LOSS_BOUND) if math.isfinite(now.loss) else LOSS_BOUND,
            accuracy_now=now.accuracy,
            spent_share=(spent - self._spent) / self._budget.total_flops,
            done=done,
            price=self._options.price,
        )
        self.last, self._spent = now, spent
        return float(self._reward(interval))

    def _evaluate(self) -> Evaluation | None:
        if not self._budget.consumes_validation:
            return None
        with self._ledger.timed("evaluate"):
            result = self._learner.evaluate(self._loader.batches(self._data.reward_validation))
        self._ledger.charge("evaluate", self._budget.evaluation_flops)
        return result

    def monitor(self, split: str) -> Evaluation:
        """Evaluate the learner on a split by name, for the record: counted, not charged."""
        part: Split = getattr(self._data, split)
        with self._ledger.timed("monitor"):
            result = self._learner.evaluate(self._loader.batches(part))
        self._ledger.charge("monitor", len(part) * self._learner.forward_flops)
        return result
