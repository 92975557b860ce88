"""What the commands share: their words, and what a person sees meanwhile."""
