#!/usr/bin/env bash
# The main job on a CPU: build a tiny policy that plays FrozenLake badly, train it with ActFocus-GRPO through verl, Ray and vLLM,
# and compare it before and after on 512 boards it has never seen. Needs Python 3.11 and a compiler; sets up everything else.
#
#   bash recipes/quickstart.sh                        about ten minutes on two cores, after the installation
#   STEPS=5 bash recipes/quickstart.sh credit=uniform  anything after the script's name overrides the configuration
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

OUTPUT="${OUTPUT:-outputs/quickstart}"
STEPS="${STEPS:-}"

bash scripts/bootstrap.sh
.venv/bin/python -m actfocus_verl.train experiment=quickstart run.dir="$OUTPUT" \
    ${STEPS:+trainer.total_training_steps="$STEPS"} "$@"
.venv/bin/python -m actfocus_verl.reporting run="$OUTPUT"
