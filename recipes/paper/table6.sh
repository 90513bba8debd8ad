#!/usr/bin/env bash
# Table 6: success after training with GRPO, uniform weights and ActFocus, in four worlds at the larger scale.
# 8 cells with 3 seeds: 24 runs of 200 steps, on WebShop 100.
# One node of 4 GPUs per run (the paper: 4 H100). The duration is unknown: no run is finished, and the paper gives no hours.
#
#   bash recipes/paper/table6.sh                  run what is missing; repeat the command to continue
#   SEED=0 bash recipes/paper/table6.sh           a single seed
#   DRY_RUN=1 bash recipes/paper/table6.sh        print each cell's settings and configuration, and run nothing
#   bash recipes/paper/table6.sh --submit recipes/cluster/slurm.sh
# Arguments are passed to scripts/reproduce.py run (docs/reproducing.md). Its report makes the table of the finished runs:
#   python scripts/reproduce.py report recipes/matrices/paper.yaml
#
# The paper's success in percent at the last step (strict on WebShop), single runs:
#                            uniform  actfocus
#   sokoban_3b_grpo              0.0      23.2
#   frozen_lake_3b_grpo         12.5       6.8
#   sudoku_1.5b_grpo            15.8      79.5
#   webshop_3b_grpo             14.1      51.6
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

SEED="${SEED:-*}"
ACTION=(run)
if [[ -n "${DRY_RUN:-}" ]]; then
    ACTION=(show --config)
fi
exec "${PYTHON:-python}" scripts/reproduce.py "${ACTION[@]}" recipes/matrices/paper.yaml \
    --only "paper/sokoban_3b_grpo_*/seed$SEED" \
    --only "paper/frozen_lake_3b_grpo_*/seed$SEED" \
    --only "paper/sudoku_1.5b_grpo_*/seed$SEED" \
    --only "paper/webshop_3b_grpo_*/seed$SEED" "$@"
