"""Options, each stated once: a field of a dataclass says all that the rest derives from it."""
