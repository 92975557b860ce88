"""How many samples of a drawn batch are kept, and which: pure functions over arrays."""
