"""Selectors of other papers, by the signal that they read."""
