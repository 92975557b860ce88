"""Learning from the reward: gstds run --policy learn_from_reward:LearnFromReward."""

import numpy as np

from gstds import KeepRatioPolicy


class LearnFromReward(KeepRatioPolicy):
    """Try keep ratios; take the one that has paid most, and now and then another.

    The reward is the drop of the reward-validation loss since the evaluation before, minus a price
    for the compute spent: it comes with evaluations, and is 0 between them.
    """

    uses_reward = True  # the evaluations are charged
    state = ("_rng", "_arm", "_sum", "_count")
    ratios = (0.2, 0.4, 0.6, 0.8)

    def reset(self, seed, context):
        """Begin a run."""
        super().reset(seed, context)
        self._rng = np.random.default_rng(seed)
        self._arm, self._sum, self._count = 0, np.zeros(4), np.zeros(4)

    def keep_ratio(self, observation):
        """Return the share of the drawn batch to keep."""
        return self.ratios[self._arm]

    def learn(self, transition):
        """Take in what the ratio earned, and choose the next."""
        if not transition.info["evaluate"]:
            return
        self._sum[self._arm] += transition.reward
        self._count[self._arm] += 1
        if self._rng.random() < 0.2 or not self._count.all():
            self._arm = int(self._count.argmin())
        else:
            self._arm = int((self._sum / self._count).argmax())
