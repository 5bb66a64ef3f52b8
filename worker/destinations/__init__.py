"""One file a destination, and nothing else."""
