"""Engines: where the trials of a command run.

`here` runs them in this process. `local` starts worker processes on this machine, `ray_cluster` tasks on a Ray
cluster, and `printed` prints their command lines for a scheduler. A worker is the same command with `--only`; what it
is to run is a `Job`.
"""
