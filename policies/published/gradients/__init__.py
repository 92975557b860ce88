"""Published selectors that go by gradients."""
