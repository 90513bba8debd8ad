#!/usr/bin/env bash
# Runs a command on the nodes of a SLURM job: the first node is the head of a Ray cluster and runs it, the others join.
#   sbatch --nodes=2 recipes/cluster/slurm.sh .venv/bin/python -m actfocus_verl.train experiment=... trainer.nnodes=2
#   python scripts/reproduce.py run MATRIX --submit recipes/cluster/slurm.sh    (one job for each run: the next line)
#submit: sbatch --parsable --job-name=@{name} --output=@{log} --chdir=@{root} @{script} @{command}
# On one node no cluster is made: the run starts its own Ray. docs/clusters.md has what the nodes need and what fails how.
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --open-mode=append
# Preemption and a node that SLURM finds down requeue the job; this script does so 180 s before the time limit, and where
# the run lost a node, which it notices earlier than SLURM. The run resumes from its last checkpoint.
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
# Environment: RAY_START_OPTIONS (more words for `ray start`, such as --num-cpus=64), RAY (the program; by default the one
# beside the command's), REQUEUES (after so many restarts a lost node ends the job; 5).
set -euo pipefail

die() {
    printf 'slurm.sh: error: %s\n' "$*" >&2
    exit 2
}

(($# > 0)) || die "no command given, such as: .venv/bin/python -m actfocus_verl.train ... trainer.nnodes=2"
[[ -n "${SLURM_JOB_ID:-}" ]] || die "this is not a SLURM job: submit it with sbatch"
# SLURM never runs a job twice at once, so what an earlier attempt on another node left in the run's folder is stale.
export ACTFOCUS_JOB="slurm-${SLURM_CLUSTER_NAME:-cluster}-$SLURM_JOB_ID"
nodes="${SLURM_JOB_NUM_NODES:-1}"
daemons=()

find_ray() { # prints the program ray that belongs to the command
    local beside
    beside="$(dirname -- "$(command -v -- "$1" || echo "$1")")/ray"
    if [[ -n "${RAY:-}" ]]; then
        echo "$RAY"
    elif [[ -x "$beside" ]]; then
        echo "$beside"
    else
        command -v ray || die "there is no program ray on PATH or beside $1: set RAY"
    fi
}

start_ray() {
    local ray name address port waited options
    ray="$(find_ray "$1")"
    name="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
    name="${name%%$'\n'*}"
    address="$(getent ahostsv4 "$name")" || die "$name, the first node, is no known host"
    address="${address%% *}"
    [[ "$address" != 127.* ]] || die "$name, the first node, resolves to '$address': others cannot reach it"
    port=$((20000 + SLURM_JOB_ID % 10000))
    read -r -a options <<<"--block --disable-usage-stats ${RAY_START_OPTIONS:-}"
    export RAY_TMPDIR="/tmp/ray-$(id -u)-$SLURM_JOB_ID" # /tmp/ray may belong to another user
    # Whoever reaches a Ray without a token runs code on it.
    RAY_AUTH_TOKEN="${RAY_AUTH_TOKEN:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}"
    export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
    # A silent node counts as lost after about half a minute; Ray's own settings take twice that.
    export RAY_health_check_period_ms="${RAY_health_check_period_ms:-3000}"
    export RAY_health_check_timeout_ms="${RAY_health_check_timeout_ms:-5000}"
    export RAY_health_check_failure_threshold="${RAY_health_check_failure_threshold:-4}"

    "$ray" start --head --node-ip-address="$address" --port="$port" --include-dashboard=false "${options[@]}" &
    daemons+=("$!")
    for ((waited = 0; ; ++waited)); do
        (exec 3<>"/dev/tcp/$address/$port") 2>/dev/null && break
        kill -0 "${daemons[0]}" 2>/dev/null || die "ray start failed on $name"
        ((waited < 180)) || die "Ray did not open $address:$port within 180 s"
        sleep 1
    done
    # The run waits for the nodes that are still joining.
    srun --overlap --nodes="$((nodes - 1))" --ntasks="$((nodes - 1))" --exclude="$name" --kill-on-bad-exit=0 \
        "$ray" start --address="$address:$port" "${options[@]}" &
    daemons+=("$!")
    export RAY_ADDRESS="$address:$port"
}

((nodes == 1)) || start_ray "$1"

requeue=false
"$@" &
run=$!
# SIGTERM ends the run in order.
trap 'requeue=true; kill -TERM "$run" 2>/dev/null || true' USR1
trap 'kill -TERM "$run" 2>/dev/null || true' TERM INT
status=0
while :; do # a signal ends `wait`, not the run
    wait "$run" && status=0 || status=$?
    kill -0 "$run" 2>/dev/null || break
done
lost_a_node=75
((status != lost_a_node || ${SLURM_RESTART_COUNT:-0} >= ${REQUEUES:-5})) || requeue=true
((${#daemons[@]} == 0)) || kill -TERM "${daemons[@]}" 2>/dev/null || true
if "$requeue" && ((status != 0)); then
    echo "slurm.sh: the run ended with status $status; the job is requeued, to resume from its last checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
