#!/usr/bin/env bash
# One run of a matrix as a job of a Ray cluster: `scripts/reproduce.py run MATRIX --submit recipes/templates/ray.sh` fills in what is
# marked with an @ and runs the command of the line below. RAY_ADDRESS says which cluster (http://head:8265); Ray tells the job, too.
# The repository has to be at the same place on its nodes, as on a shared file system. For experiments of platform=gpu:
# platform=cpu starts a Ray of its own.
#submit: ray job submit --no-wait --entrypoint-num-cpus 1 -- bash @{script}
set -euo pipefail
cd -- @{root}
exec @{command}
