#!/bin/bash
# A sweep as a Slurm array, one printed command a task. All nodes must see this directory, the Python and --out.
#
#   python launch.py --experiment=systems --out=/shared/runs/systems --engine=print > jobs.txt
#   sbatch --array=1-"$(wc -l < jobs.txt)" experiments/clusters/slurm_array.sh jobs.txt
#
# Afterwards the first command without --engine=print makes the table, and runs here what is not finished. A task that
# is requeued, or submitted again after its time limit, goes on from its checkpoints.

# ---- change these
#SBATCH --job-name=hccp
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
# a GPU each: #SBATCH --gpus-per-task=1
# ----
#SBATCH --requeue
#SBATCH --output=slurm-%A_%a.log

set -euo pipefail

jobs=${1:?expected the file of printed commands}
line=$(sed -n "${SLURM_ARRAY_TASK_ID:?is set by sbatch --array}p" "$jobs")
if [[ -z $line ]]; then
    echo "error: $jobs has no line $SLURM_ARRAY_TASK_ID" >&2
    exit 2
fi
exec bash -c "$line"
