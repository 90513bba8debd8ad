#!/usr/bin/env bash
# Table 6: FrozenLake 3B, GRPO, ActFocus. How to run it smaller, or dry: see run.sh in this folder.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/run.sh" frozen_lake_3b_grpo_actfocus "$@"
