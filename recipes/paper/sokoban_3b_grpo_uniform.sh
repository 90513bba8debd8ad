#!/usr/bin/env bash
# Table 6: Sokoban 3B, GRPO, uniform weights. How to run it smaller, or dry: see run.sh in this folder.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/run.sh" sokoban_3b_grpo_uniform "$@"
