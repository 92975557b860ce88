"""Policies that look at nothing: uniform random samples, everything, another policy's counts."""
