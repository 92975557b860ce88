"""Selection in a training loop of one's own, without the environment."""
