"""Frozen reference networks, and the losses that a probe on their features gives."""

from gstds.reference.networks import Reference, make_reference, reference_names
from gstds.reference.probe import cross_fitted_losses

__all__ = ["Reference", "cross_fitted_losses", "make_reference", "reference_names"]
