"""The method as pure functions over arrays: spectral scores, schedules, pickers, costs."""

__version__ = "0.1.0"
