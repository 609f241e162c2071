#!/bin/bash
# A sweep on a Ray cluster: the launcher runs on the head node, its jobs are tasks.
#
#   experiments/clusters/ray_submit.sh
#
# A cluster that asks for a token wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN in the environment, as of all its clients.
# All nodes must see the directory of this package and --out. Without the submit server, run the last line on a node
# of the cluster, with --ray_address=auto.
set -euo pipefail

# ---- change these
address=${RAY_API:-http://127.0.0.1:8265} # of the cluster's dashboard
package=/shared/hccp_jax
arguments=(--experiment=systems --out=/shared/runs/systems)
needs=(--ray_cpus=4 --ray_gpus=0.5) # of a job; --ray_resources=TPU=4 for TPU hosts
# ----

ray job submit --address="$address" -- python "$package/launch.py" --engine=ray "${arguments[@]}" "${needs[@]}"
