#!/usr/bin/env bash
# Fig. 1, middle: share of the gradient on action tokens under uniform weights and ActFocus, Sokoban 3B.
# Inference only, on the first training boards of the paper's code base (preset ragen), temperature 1; shares the episodes of fig2.sh.
# One GPU. The duration is unknown: it was not run at this scale.
#
#   bash recipes/paper/fig1.sh                            repeat the command to continue
#   DRY_RUN=1 bash recipes/paper/fig1.sh                  print the commands, and run nothing
#   TINY=1 EPISODES=512 bash recipes/paper/fig1.sh        tiny policies on a CPU
#   SERVER=http://host:port/v1 bash recipes/paper/fig1.sh   vLLM server of the model
# Arguments are passed to scripts/before_training.py (docs/diagnose.md). The table goes to $OUT/fig1.md.
#
# The paper's numbers, single measurements:
#   uniform     4
#   actfocus   29  (computed without beta: 28.9 from its Table 1)
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

PLATFORM=(--platform gpu)
PYTHON="${PYTHON:-python}"
if [[ -n "${TINY:-}" ]]; then
    bash scripts/bootstrap.sh
    PYTHON=.venv/bin/python PLATFORM=(--tiny)
fi
exec "$PYTHON" scripts/before_training.py fig1 "${PLATFORM[@]}" \
    ${OUT:+--out "$OUT"} ${EPISODES:+--episodes "$EPISODES"} ${SERVER:+--server "$SERVER"} ${DRY_RUN:+--dry-run} "$@"
