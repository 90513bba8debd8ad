#!/usr/bin/env bash
# One of the paper's runs (arXiv 2605.14558v1): Qwen2.5-Instruct on one node of 4 GPUs. The scripts beside this one each name a cell of
# its tables; this one takes the name of any file in configs/experiment/paper.
#
#   bash recipes/paper/run.sh frozen_lake_3b_ppo_actfocus                       the same as recipes/paper/frozen_lake_3b_ppo_actfocus.sh
#   bash recipes/paper/frozen_lake_3b_ppo_actfocus.sh run.seed=1                anything after the name overrides the configuration
#   MODEL=tiny PLATFORM=cpu STEPS=2 bash recipes/paper/sokoban_3b_grpo_uniform.sh    the same path on a CPU
#   DRY_RUN=1 bash recipes/paper/webshop_3b_ppo_actfocus.sh                     print the configuration only
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

CELL="${1:?usage: run.sh <name of a file in configs/experiment/paper> [key=value ...]}"
shift
MODEL="${MODEL:-}"
PLATFORM="${PLATFORM:-}"
STEPS="${STEPS:-}"
PYTHON="${PYTHON:-python}"
if [[ "$PLATFORM" == cpu ]]; then
    bash scripts/bootstrap.sh
    PYTHON=.venv/bin/python
fi

# The option comes first: argparse takes the overrides in one piece.
exec "$PYTHON" -m actfocus_verl.train ${DRY_RUN:+--cfg job} experiment="paper/$CELL" ${MODEL:+model="$MODEL"} \
    ${PLATFORM:+platform="$PLATFORM"} ${STEPS:+trainer.total_training_steps="$STEPS"} "$@"
