#!/usr/bin/env bash
# The quickstart on a CPU: build a tiny policy that plays FrozenLake badly, train it with ActFocus-GRPO through verl, Ray and vLLM,
# and compare it before and after training on 512 held-out boards. Needs Python 3.11 and a compiler; installs everything else.
#
#   bash recipes/quickstart.sh                        about ten minutes on two cores, after installation
#   bash recipes/quickstart.sh env=sokoban            another world (sokoban, sudoku or webshop), in outputs/quickstart_sokoban;
#                                                     (textcraft and babyai: recipes/field_world.sh)
#   STEPS=5 bash recipes/quickstart.sh credit=uniform  further arguments override the configuration
# WebShop's tiny policy searches and buys, but rarely the right product, and a short run hardly changes that.
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
