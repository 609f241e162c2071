#!/bin/bash
# One command on TPU slices of GKE by xpk (pip install xpk), which writes the JobSet and queues it by Kueue.
#
#   experiments/clusters/xpk.sh
set -euo pipefail

# ---- change these
cluster=my-cluster
workload=hccp-slice
tpu=v5litepod-16
slices=1
image=registry.example/hccp_jax:latest # with this package, jax[tpu], and /shared a path that all hosts see
command="python launch.py --distributed --devices=16 --experiment=hccp_ladder --rows=hccp --seeds=1"
command+=" --train.batch=2048 --out=/shared/runs/slice"
# ----

xpk workload create --cluster="$cluster" --workload="$workload" --tpu-type="$tpu" --num-slices="$slices" \
    --docker-image="$image" --command="$command"
