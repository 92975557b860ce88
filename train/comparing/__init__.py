"""Policies x seeds, their controls, sweeps and experiments."""
