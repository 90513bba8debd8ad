#!/usr/bin/env bash
# Installs what tests/cluster needs from Debian's packages: SLURM, munge, and the tools of network namespaces. Needs root.
#   bash scripts/install_slurm.sh && bash scripts/test.sh -m cluster
# Nothing is configured and no service stays on: the tests start daemons of their own, in namespaces of their own.
set -euo pipefail

die() {
    printf 'install_slurm.sh: error: %s\n' "$*" >&2
    exit 1
}

missing=()
for program in slurmctld slurmd sbatch munged ip unshare; do
    command -v "$program" >/dev/null || missing+=("$program")
done
((${#missing[@]} > 0)) || exit 0
command -v apt-get >/dev/null || die "apt-get not found: install ${missing[*]} manually"
[[ "$(id -u)" == 0 ]] || die "root is required: have an administrator install ${missing[*]}"

options=(-qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2)
export DEBIAN_FRONTEND=noninteractive
apt-get "${options[@]}" update &&
    apt-get "${options[@]}" install -y --no-install-recommends slurmctld slurmd slurm-client munge iproute2 util-linux >/dev/null ||
    die "Debian's package index is unreachable or lacks a package"
for service in slurmctld slurmd munge; do # Debian enables them
    ! command -v systemctl >/dev/null || systemctl disable --now "$service" >/dev/null 2>&1 || true
done
