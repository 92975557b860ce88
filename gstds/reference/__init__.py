"""Frozen reference networks, and the losses that a probe on their features gives."""
