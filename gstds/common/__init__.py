"""What every part of the method needs: checks, files, randomness, processes."""
