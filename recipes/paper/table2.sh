#!/usr/bin/env bash
# Table 2: success after training with PPO, uniform weights and ActFocus, in four worlds at two scales.
# 16 cells with 3 seeds: 48 runs of 200 steps, on WebShop 100.
# One node of 4 GPUs per run (the paper: 4 H100). The duration is unknown: no run is finished, and the paper gives no hours.
#
#   bash recipes/paper/table2.sh                  run what is missing; repeat the command to continue
#   SEED=0 bash recipes/paper/table2.sh           a single seed
#   DRY_RUN=1 bash recipes/paper/table2.sh        print each cell's settings and configuration, and run nothing
#   bash recipes/paper/table2.sh --submit recipes/cluster/slurm.sh
# Arguments are passed to scripts/reproduce.py run (docs/reproducing.md). Its report makes the table of the finished runs:
#   python scripts/reproduce.py report recipes/matrices/paper.yaml
#
# The paper's success in percent at the last step (strict on WebShop), single runs:
#                             uniform  actfocus
#   sokoban_3b_ppo               26.2      37.5
#   frozen_lake_3b_ppo           16.6      27.0
#   sudoku_1.5b_ppo              81.2      95.7
#   webshop_3b_ppo               22.7      36.7
#   sokoban_0.5b_ppo             12.5      34.0
#   frozen_lake_0.5b_ppo          5.1      15.6
#   sudoku_0.5b_ppo              16.2      81.4
#   webshop_1.5b_ppo              9.8      26.6
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

SEED="${SEED:-*}"
ACTION=(run)
if [[ -n "${DRY_RUN:-}" ]]; then
    ACTION=(show --config)
fi
exec "${PYTHON:-python}" scripts/reproduce.py "${ACTION[@]}" recipes/matrices/paper.yaml \
    --only "paper/*_ppo_uniform/seed$SEED" \
    --only "paper/*_ppo_actfocus/seed$SEED" "$@"
