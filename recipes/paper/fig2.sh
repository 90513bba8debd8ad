#!/usr/bin/env bash
# Fig. 2: mean energy of a prompt group against the spread of its returns, 400 groups of 16, Sokoban 3B.
# Inference only, on the first training boards of the paper's code base (preset ragen), temperature 1; the paper's groups come from policies in training.
# One GPU. The duration is unknown: it was not run at this scale.
#
#   bash recipes/paper/fig2.sh                            repeat the command to continue
#   DRY_RUN=1 bash recipes/paper/fig2.sh                  print the commands, and run nothing
#   TINY=1 EPISODES=512 bash recipes/paper/fig2.sh        tiny policies on a CPU
#   SERVER=http://host:port/v1 bash recipes/paper/fig2.sh   vLLM server of the model
# Arguments are passed to scripts/before_training.py (docs/diagnose.md). The table goes to $OUT/fig2.md.
#
# The paper's numbers, single measurements:
#   all response tokens   rho -0.054, p 0.28
#   reasoning             rho -0.050, p 0.32
#   action                rho +0.537, p 2.8e-31
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

PLATFORM=(--platform gpu)
PYTHON="${PYTHON:-python}"
if [[ -n "${TINY:-}" ]]; then
    bash scripts/bootstrap.sh
    PYTHON=.venv/bin/python PLATFORM=(--tiny)
fi
exec "$PYTHON" scripts/before_training.py fig2 "${PLATFORM[@]}" \
    ${OUT:+--out "$OUT"} ${EPISODES:+--episodes "$EPISODES"} ${SERVER:+--server "$SERVER"} ${DRY_RUN:+--dry-run} "$@"
