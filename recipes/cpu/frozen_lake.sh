#!/usr/bin/env bash
# FrozenLake on a CPU: the quickstart's settings in this world, from an empty machine to outputs/cpu/frozen_lake/figures/success.png.
#
#   bash recipes/cpu/frozen_lake.sh credit=uniform      anything after the script's name overrides the configuration
set -euo pipefail
export OUTPUT="${OUTPUT:-outputs/cpu/frozen_lake}"
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../quickstart.sh" env=frozen_lake "$@"
