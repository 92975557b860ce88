"""Published selectors that go by what the cached features cover."""
