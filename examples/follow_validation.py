"""A schedule from the validation loss: gstds run --policy follow_validation:FollowValidation."""

from gstds import KeepRatioPolicy


class FollowValidation(KeepRatioPolicy):
    """Keep more once the validation loss has stopped falling."""

    needs = {"validation_loss": {}}  # beside what the picker reads; the evaluations are charged
    state = ("_best", "_keep")

    def __init__(self, low=0.3, high=0.8, **options):
        """Take the picker's options, too."""
        super().__init__(**options)
        self.low, self.high = low, high

    def reset(self, seed, context):
        """Begin a run."""
        super().reset(seed, context)
        self._best, self._keep = float("inf"), self.low

    def keep_ratio(self, observation):
        """Return the share of the drawn batch to keep."""
        return self._keep

    def learn(self, transition):
        """Look at the loss where it was evaluated anew."""
        if transition.info["evaluate"]:
            loss = float(transition.next_observation["validation_loss"][0])
            self._keep = self.low if loss < self._best else self.high
            self._best = min(self._best, loss)
