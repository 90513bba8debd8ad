#!/usr/bin/env bash
# Sokoban on a CPU: the quickstart's settings in this world, from an empty machine to outputs/cpu/sokoban/figures/success.png.
#
#   bash recipes/cpu/sokoban.sh credit=uniform      anything after the script's name overrides the configuration
set -euo pipefail
export OUTPUT="${OUTPUT:-outputs/cpu/sokoban}"
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../quickstart.sh" env=sokoban "$@"
