#!/usr/bin/env bash
# Table 2: Sokoban 0.5B, PPO, ActFocus. How to run it smaller, or dry: see run.sh in this folder.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/run.sh" sokoban_0.5b_ppo_actfocus "$@"
