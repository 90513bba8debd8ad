#!/usr/bin/env bash
# Table 1: tokens per episode before training, and the shares of reasoning and action, for 8 models and worlds.
# Inference only, on the first training boards of the paper's code base (preset ragen), temperature 1; the paper does not say over how many episodes.
# One GPU. The duration is unknown: it was not run at this scale.
#
#   bash recipes/paper/table1.sh                            repeat the command to continue
#   DRY_RUN=1 bash recipes/paper/table1.sh                  print the commands, and run nothing
#   TINY=1 EPISODES=512 bash recipes/paper/table1.sh        tiny policies on a CPU
#   SERVER=http://host:port/v1 bash recipes/paper/table1.sh   vLLM server of the model
# Arguments are passed to scripts/before_training.py (docs/diagnose.md). The table goes to $OUT/table1.md.
#
# The paper's numbers, single measurements:
#                     tokens   think     act
#   sokoban_0.5b         225    90.5     9.5
#   sokoban_3b           202    96.1     3.9
#   frozen_lake_0.5b     284    95.9     4.1
#   frozen_lake_3b       240    97.4     2.6
#   sudoku_0.5b          400    84.7    15.3
#   sudoku_1.5b          397    85.8    14.2
#   webshop_1.5b        1951    89.2    10.8
#   webshop_3b          2133    92.7     7.3
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

PLATFORM=(--platform gpu)
PYTHON="${PYTHON:-python}"
if [[ -n "${TINY:-}" ]]; then
    bash scripts/bootstrap.sh
    PYTHON=.venv/bin/python PLATFORM=(--tiny)
fi
exec "$PYTHON" scripts/before_training.py table1 "${PLATFORM[@]}" \
    ${OUT:+--out "$OUT"} ${EPISODES:+--episodes "$EPISODES"} ${SERVER:+--server "$SERVER"} ${DRY_RUN:+--dry-run} "$@"
