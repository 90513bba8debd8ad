#!/usr/bin/env bash
# Table 5: Sokoban 0.5B, GRPO, uniform weights. How to run it smaller, or dry: see run.sh in this folder.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/run.sh" sokoban_0.5b_grpo_uniform "$@"
