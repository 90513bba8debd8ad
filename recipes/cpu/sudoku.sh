#!/usr/bin/env bash
# Sudoku on a CPU: the quickstart's settings in this world, from an empty machine to outputs/cpu/sudoku/figures/success.png.
#
#   bash recipes/cpu/sudoku.sh credit=uniform      anything after the script's name overrides the configuration
set -euo pipefail
export OUTPUT="${OUTPUT:-outputs/cpu/sudoku}"
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../quickstart.sh" env=sudoku "$@"
