"""An adaptive schedule of one's own: gstds run --policy follow_the_loss:FollowTheLoss."""

from gstds import KeepRatioPolicy


class FollowTheLoss(KeepRatioPolicy):
    """Keep less as the training loss falls."""

    def keep_ratio(self, observation):
        """Return the share of the drawn batch to keep."""
        return 0.2 + 0.6 * min(1.0, float(observation["train_loss"][0]) / 2.3)
