#!/usr/bin/env bash
# Table 6: Sudoku 1.5B, GRPO, uniform weights. How to run it smaller, or dry: see run.sh in this folder.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/run.sh" sudoku_1.5b_grpo_uniform "$@"
