"""Adaptive schedules: how much is kept follows what the run shows.

What a policy remembers changes in `learn` alone, so `keep_ratio` may be asked twice.
"""

from __future__ import annotations

from typing import Any

from gstds.common.checks import check_fraction, check_number
from gstds.observation.gradient_noise import noise_samples
from gstds.policies.base import KeepRatioPolicy, Observation, RunContext, Transition
from gstds.selection.control import PlateauWatch, between, check_range, gap_ratio, noise_ratio


class Plateau(KeepRatioPolicy):
    """Keeps little, and a step more whenever the training loss stops falling.

    The run is cut into windows. If the mean training loss of a window's second half is not below
    that of its first half by the share ``threshold``, the keep ratio rises by ``step``, up to
    ``high``. It never falls.

    Source: this project; the rule that lowers learning rates on a plateau, turned to data
    Cost: that of the picker
    Helps: meant for runs whose loss stalls late: a cheap beginning, more data when it is needed
    Hurts: a loss that stalls for other reasons, such as a large learning rate, buys data too

    Args:
        low: Keep ratio at the start, in (0, 1].
        high: Highest keep ratio, in (0, 1].
        step: What a plateau adds, in (0, 1].
        window: Share of the run in (0, 1] that a window takes.
        threshold: Relative fall in [0, 1) that is asked of half a window.
        picker: Which samples are kept; the paper's hybrid.
        **picker_options: Options of the picker.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown or out of range.
    """

    state = ("_rises", "_watch")
    _rises, _watch = 0, PlateauWatch(2, 0.0)

    def __init__(
        self,
        low: float = 0.2,
        high: float = 0.9,
        step: float = 0.1,
        window: float = 0.1,
        threshold: float = 0.05,
        picker: str = "hybrid",
        **picker_options: Any,
    ) -> None:
        super().__init__(None, picker, **picker_options)
        self.low, self.high = check_range(low, high)
        self.step = check_fraction("step", step, open_low=True)
        self.window = check_fraction("window", window, open_low=True)
        self.threshold = check_fraction("threshold", threshold, open_high=True)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run at ``low``; a window is a share of its steps."""
        super().reset(seed, context)
        self._rises = 0
        self._watch = PlateauWatch(max(2, round(self.window * context.total_steps)), self.threshold)

    def keep_ratio(self, observation: Observation) -> float:
        """Return the share of the drawn batch to keep."""
        return between(self.low + self._rises * self.step, self.low, self.high)

    def learn(self, transition: Transition) -> None:
        """Take in a step's training loss; the step has none if it kept nothing."""
        if transition.weights.any():
            loss = float(transition.next_observation["train_loss"][0])
            self._rises += self._watch.stalled(loss)


class LossGap(KeepRatioPolicy):
    """Keeps more, the further the training loss lies below the reward-validation loss.

    keep = low + (high - low) · clip((V - T) / (gap · |V|), 0, 1), with V the last reward-validation
    loss and T the training loss averaged over about an epoch, as it was when V was measured. What
    is learned of the kept samples but not of others calls for others.

    Source: this project
    Cost: that of the picker, and the evaluations of the reward-validation split
    Helps: meant for small sets that a run overfits
    Hurts: T is of kept samples: a picker of easy ones opens the gap, one of hard ones closes it

    Args:
        low: Keep ratio without a gap, in (0, 1].
        high: Keep ratio at the gap ``gap``, in (0, 1].
        gap: Share of V in (0, 1] by which T is then below it.
        picker: Which samples are kept; the paper's hybrid.
        **picker_options: Options of the picker.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown or out of range.
    """

    state = ("_loss", "_weight", "_then")
    _own_needs = {"validation_loss": {}}  # noqa: RUF012  (a constant of the class)
    _loss = _weight = 0.0
    _then: float | None = None
    _decay = 0.9

    def __init__(
        self,
        low: float = 0.2,
        high: float = 0.9,
        gap: float = 0.5,
        picker: str = "hybrid",
        **picker_options: Any,
    ) -> None:
        super().__init__(None, picker, **picker_options)
        self.low, self.high = check_range(low, high)
        self.gap = check_fraction("gap", gap, open_low=True)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run; losses are averaged over the steps of an epoch."""
        super().reset(seed, context)
        self._decay = 1.0 - 1.0 / max(1, context.steps_per_epoch)
        self._loss, self._weight, self._then = 0.0, 0.0, None

    def keep_ratio(self, observation: Observation) -> float:
        """Return the share of the drawn batch to keep."""
        validation = float(observation["validation_loss"][0])
        if self._then is None:
            return self.low
        return gap_ratio(self._then, validation, self.gap, self.low, self.high)

    def learn(self, transition: Transition) -> None:
        """Take in a step's training loss, and at an evaluation note its mean; none if none kept."""
        before, after = transition.observation, transition.next_observation
        if transition.weights.any():
            loss = float(after["train_loss"][0])
            self._loss = self._decay * self._loss + (1.0 - self._decay) * loss
            self._weight = self._decay * self._weight + (1.0 - self._decay)
        if self._weight and after["validation_loss"][0] != before["validation_loss"][0]:
            self._then = self._loss / self._weight


class GradientNoise(KeepRatioPolicy):
    """Keeps as many samples as the gradient noise scale says a batch can use.

    keep = multiple · noise scale / N, within bounds. Below the noise scale a larger batch makes a
    better step almost in proportion; above it the step hardly gets better (McCandlish et al.).

    Source: the noise scale of McCandlish et al. 2018, arXiv 1812.06162
    Cost: that of the picker; the noise scale is measured on the updates' own gradients
    Helps: meant for large drawn batches: early, when few samples say it all, it keeps few
    Hurts: drawn batches far below the noise scale: everything is kept

    Args:
        multiple: Kept samples for each sample of the noise scale, above 0.
        low: Lowest keep ratio, in (0, 1].
        high: Highest keep ratio, in (0, 1].
        picker: Which samples are kept; the paper's hybrid.
        **picker_options: Options of the picker.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown or out of range.
    """

    _own_needs = {"gradient_noise": {}}  # noqa: RUF012  (a constant of the class)
    _batch = 1

    def __init__(
        self,
        multiple: float = 1.0,
        low: float = 0.1,
        high: float = 1.0,
        picker: str = "hybrid",
        **picker_options: Any,
    ) -> None:
        super().__init__(None, picker, **picker_options)
        self.multiple = check_number("multiple", multiple, low=0, open_low=True)
        self.low, self.high = check_range(low, high)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run; N is the size of the whole drawn batch, all shards together."""
        super().reset(seed, context)
        self._batch = context.batch_size * context.shards

    def keep_ratio(self, observation: Observation) -> float:
        """Return the share of the drawn batch to keep."""
        samples = noise_samples(float(observation["gradient_noise"][0]))
        return noise_ratio(samples, self._batch, self.multiple, self.low, self.high)
