#!/usr/bin/env bash
# One run of a matrix as a job of a Ray cluster: `scripts/reproduce.py run MATRIX --submit recipes/templates/ray.sh` fills in the
# fields marked with an @ and runs the command of the submit line below. RAY_ADDRESS names the cluster (http://head:8265); Ray also
# passes it to the job. The repository must be at the same path on all nodes, for example on a shared file system. Only for
# experiments with platform=gpu: platform=cpu starts its own Ray.
#submit: ray job submit --no-wait --entrypoint-num-cpus 1 -- bash @{script}
set -euo pipefail
cd -- @{root}
exec @{command}
