"""The forms in which others compute the same losses: what the kernels are timed against, and nothing else."""
