"""Who does a run: this process, worker processes, torchrun's, or the nodes of a Ray cluster."""
