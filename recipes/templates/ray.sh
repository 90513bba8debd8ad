#!/usr/bin/env bash
# One run of a matrix as a job of a Ray cluster: `scripts/reproduce.py run MATRIX --submit recipes/templates/ray.sh` fills in what
# stands between @{...} and runs the command of the next line. RAY_ADDRESS says which cluster (http://head:8265), which Ray
# also tells the job; the repository has to be at the same place on its nodes, as on a shared file system. For experiments
# of platform=gpu: platform=cpu starts a Ray of its own.
#submit: ray job submit --no-wait --entrypoint-num-cpus 1 -- bash @{script}
set -euo pipefail
cd -- @{root}
exec @{command}
