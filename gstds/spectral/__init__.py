"""Fiedler scores: one number per sample from the cosine graph of a batch's features."""
