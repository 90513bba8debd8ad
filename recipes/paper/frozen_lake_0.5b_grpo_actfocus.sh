#!/usr/bin/env bash
# Table 5: FrozenLake 0.5B, GRPO, ActFocus. How to run it smaller, or dry: see run.sh in this folder.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/run.sh" frozen_lake_0.5b_grpo_actfocus "$@"
