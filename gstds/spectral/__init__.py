"""Fiedler scores: one number per sample from the cosine graph of a batch's features."""

from gstds.spectral.fiedler import degrees, fiedler_vector, spectral_flops

__all__ = ["degrees", "fiedler_vector", "spectral_flops"]
