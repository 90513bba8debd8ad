#!/usr/bin/env bash
# Table 2: Sokoban 3B, PPO, uniform weights. How to run it smaller, or dry: see run.sh in this folder.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/run.sh" sokoban_3b_ppo_uniform "$@"
