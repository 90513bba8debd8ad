#!/usr/bin/env bash
# A single run of the paper (arXiv 2605.14558v1), named by its cell in recipes/matrices/paper.yaml: Qwen2.5-Instruct on one node of
# 4 GPUs. table2.sh, table5.sh, table6.sh, fig7.sh and fig8.sh in this folder run all cells of a table or figure, with three seeds.
#
#   bash recipes/paper/run.sh frozen_lake_3b_ppo_actfocus                           outputs/paper/frozen_lake_3b_ppo_actfocus-seed0
#   bash recipes/paper/run.sh frozen_lake_3b_ppo_actfocus run.seed=1                further arguments override its settings
#   MODEL=tiny PLATFORM=cpu STEPS=2 bash recipes/paper/run.sh sokoban_3b_grpo_uniform    the same path on a CPU
#   DRY_RUN=1 bash recipes/paper/run.sh webshop_3b_ppo_actfocus                     only print the configuration
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

CELL="${1:?usage: run.sh <cell of recipes/matrices/paper.yaml> [key=value ...]}"
shift
MODEL="${MODEL:-}"
PLATFORM="${PLATFORM:-}"
STEPS="${STEPS:-}"
PYTHON="${PYTHON:-python}"
if [[ "$PLATFORM" == cpu ]]; then
    bash scripts/bootstrap.sh
    PYTHON=.venv/bin/python
fi

SHOWN="$("$PYTHON" scripts/reproduce.py show recipes/matrices/paper.yaml --only "paper/$CELL")"
mapfile -t SETTINGS < <(tail -n +2 <<<"$SHOWN") # the first line is the cell's name
# The option must come first: argparse expects the overrides in one block.
exec "$PYTHON" -m actfocus_verl.train ${DRY_RUN:+--cfg job} "${SETTINGS[@]}" ${MODEL:+model="$MODEL"} \
    ${PLATFORM:+platform="$PLATFORM"} ${STEPS:+trainer.total_training_steps="$STEPS"} "$@"
