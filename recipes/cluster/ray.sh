#!/usr/bin/env bash
# Submits a command as a job of a Ray cluster that already runs; RAY_ADDRESS names it (http://<head>:8265).
#   RAY_ADDRESS=http://head:8265 bash recipes/cluster/ray.sh .venv/bin/python -m actfocus_verl.train ... trainer.nnodes=2
#   python scripts/reproduce.py run MATRIX --submit recipes/cluster/ray.sh      (one job for each run: the next line)
#submit: bash @{script} @{command}
# Prints the job's id. The command runs on a node of the cluster, in the folder that this script was called in: that folder and
# the environment must exist there. `ray job stop` kills a job 3 s after its SIGTERM, before a run has ended in order, unless
# RAY_JOB_STOP_WAIT_TIME_S was set for `ray start --head` (docs/clusters.md). RAY is the program ray, by default the command's.
set -euo pipefail

if (($# == 0)); then
    echo "ray.sh: error: no command given, such as: .venv/bin/python -m actfocus_verl.train ... trainer.nnodes=2" >&2
    exit 2
fi
ray="${RAY:-$(dirname -- "$(command -v -- "$1" || echo "$1")")/ray}"
[[ -x "$ray" ]] || ray=ray
job="actfocus-$(date +%Y%m%d-%H%M%S)-$$"
# One CPU for the command keeps it off nodes that were started with --num-cpus=0.
"$ray" job submit --no-wait --entrypoint-num-cpus 1 --submission-id "$job" -- \
    bash -c 'cd -- "$0" && exec "$@"' "$PWD" "$@" >&2
echo "$job"
