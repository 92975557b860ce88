"""From a seed and an epoch to what the learner is fed: order, loading, augmentation."""
