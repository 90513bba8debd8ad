#!/usr/bin/env bash
# Table 2, FrozenLake 3B, PPO with ActFocus: Qwen2.5-3B-Instruct on one node of 4 GPUs, 200 steps.
#
#   bash recipes/paper/frozen_lake_3b_ppo_actfocus.sh
#   MODEL=tiny PLATFORM=cpu STEPS=2 bash recipes/paper/frozen_lake_3b_ppo_actfocus.sh    the same path on a CPU
#   DRY_RUN=1 bash recipes/paper/frozen_lake_3b_ppo_actfocus.sh                          print the configuration only
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

MODEL="${MODEL:-qwen2.5-3b}"
PLATFORM="${PLATFORM:-gpu}"
STEPS="${STEPS:-200}"
PYTHON="${PYTHON:-python}"
if [[ "$PLATFORM" == cpu ]]; then
    bash scripts/bootstrap.sh
    PYTHON=.venv/bin/python
fi

"$PYTHON" -m actfocus_verl.train experiment=paper/frozen_lake_3b_ppo_actfocus model="$MODEL" platform="$PLATFORM" \
    trainer.total_training_steps="$STEPS" ${DRY_RUN:+--cfg job} "$@"
