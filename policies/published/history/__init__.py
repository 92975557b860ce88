"""Published selectors that go by what earlier epochs left behind."""
