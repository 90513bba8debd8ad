#!/usr/bin/env bash
# Installs what tests/cluster needs from Debian's packages: SLURM, munge, and the tools of network namespaces. Needs root.
#   bash scripts/install_slurm.sh && bash scripts/test.sh -m cluster
# Nothing is configured and no service stays on: the tests start daemons of their own, in namespaces of their own.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/debian.sh"

missing=()
for program in slurmctld slurmd sbatch munged ip unshare; do
    command -v "$program" >/dev/null || missing+=("$program")
done
((${#missing[@]} > 0)) || exit 0
debian_install slurmctld slurmd slurm-client munge iproute2 util-linux
for service in slurmctld slurmd munge; do # Debian enables them
    ! command -v systemctl >/dev/null || systemctl disable --now "$service" >/dev/null 2>&1 || true
done
