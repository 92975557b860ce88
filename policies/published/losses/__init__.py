"""Published selectors that go by what the learner, or the reference, gets wrong."""
