"""Schedules that follow what the run shows: how much is kept is decided while it goes on."""
