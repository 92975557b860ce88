"""Data sets: where they come from, what is checked, who is in which part."""
