#!/usr/bin/env bash
# The main job on a CPU: build a tiny policy that plays FrozenLake badly, train it with ActFocus-GRPO through verl, Ray and vLLM,
# and compare it before and after on 512 boards it has never seen. Needs Python 3.11 and a compiler; sets up everything else.
#
#   bash recipes/quickstart.sh                        about ten minutes on two cores, after the installation
#   bash recipes/quickstart.sh env=sokoban            in another world, in outputs/quickstart_sokoban: sokoban, sudoku or webshop
#   STEPS=5 bash recipes/quickstart.sh credit=uniform  anything after the script's name overrides the configuration
# WebShop's tiny policy searches and buys, but seldom the very product, and a short run hardly changes that.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

FOLDER=outputs/quickstart
for argument in "$@"; do
    if [[ "$argument" == env=* ]]; then
        FOLDER="outputs/quickstart_${argument#env=}"
    fi
done
OUTPUT="${OUTPUT:-$FOLDER}"
STEPS="${STEPS:-}"

bash scripts/bootstrap.sh
.venv/bin/python -m actfocus_verl.train experiment=quickstart run.dir="$OUTPUT" \
    ${STEPS:+trainer.total_training_steps="$STEPS"} "$@"
.venv/bin/python -m actfocus_verl.report run="$OUTPUT"
