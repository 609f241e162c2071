#!/bin/bash
# One command over several nodes: a process a node, all devices share each batch. All nodes must see this directory.
#
#   sbatch experiments/clusters/slurm_distributed.sh
#
# JAX finds the coordinator and its own place by Slurm's variables. If a process dies, srun ends the others; requeued,
# they go on from the last checkpoint.

#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --output=slurm-%j.log
# ---- change these
#SBATCH --job-name=hccp
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
python=${HCCP_PYTHON:-python}
devices=16 # of all nodes together
arguments=(--experiment=hccp_ladder --rows=hccp --seeds=1 --train.batch=2048 --out=runs/distributed)
# ----

set -euo pipefail

srun --kill-on-bad-exit=1 "$python" launch.py --distributed --devices="$devices" "${arguments[@]}"
