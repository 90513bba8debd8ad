#!/usr/bin/env bash
# Table 5: peak success during training, PPO and GRPO, uniform weights and ActFocus, in four worlds at two scales.
# 32 cells with 3 seeds: 96 runs of 200 steps, on WebShop 100. Tables 2 and 6 cover 24 of these cells.
# One node of 4 GPUs per run (the paper: 4 H100). The duration is unknown: no run is finished, and the paper gives no hours.
#
#   bash recipes/paper/table5.sh                  run what is missing; repeat the command to continue
#   SEED=0 bash recipes/paper/table5.sh           a single seed
#   DRY_RUN=1 bash recipes/paper/table5.sh        print each cell's settings and configuration, and run nothing
#   bash recipes/paper/table5.sh --submit recipes/cluster/slurm.sh
# Arguments are passed to scripts/reproduce.py run (docs/reproducing.md). Its report makes the table of the finished runs:
#   python scripts/reproduce.py report recipes/matrices/paper.yaml
#
# The paper's success in percent at the best evaluation (strict on WebShop), single runs:
#                              uniform  actfocus
#   sokoban_3b_ppo                28.7      37.5
#   frozen_lake_3b_ppo            24.6      27.0
#   sudoku_1.5b_ppo               84.2      99.6
#   webshop_3b_ppo                23.8      30.5
#   sokoban_3b_grpo               17.8      23.2
#   frozen_lake_3b_grpo           26.2      19.1
#   sudoku_1.5b_grpo              70.9      80.9
#   webshop_3b_grpo               44.9      51.6
#   sokoban_0.5b_ppo              43.6      40.4
#   frozen_lake_0.5b_ppo          16.2      20.9
#   sudoku_0.5b_ppo               16.2      82.0
#   webshop_1.5b_ppo              10.9      27.0
#   sokoban_0.5b_grpo             20.7      23.4
#   frozen_lake_0.5b_grpo         23.8      25.2
#   sudoku_0.5b_grpo               0.0       0.0
#   webshop_1.5b_grpo             49.2      64.5
# The paper's peak for ActFocus-PPO on WebShop 3B is below the final success in its Table 2, 36.7: the runs differ.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

SEED="${SEED:-*}"
ACTION=(run)
if [[ -n "${DRY_RUN:-}" ]]; then
    ACTION=(show --config)
fi
exec "${PYTHON:-python}" scripts/reproduce.py "${ACTION[@]}" recipes/matrices/paper.yaml \
    --only "paper/*_ppo_uniform/seed$SEED" \
    --only "paper/*_ppo_actfocus/seed$SEED" \
    --only "paper/*_grpo_uniform/seed$SEED" \
    --only "paper/*_grpo_actfocus/seed$SEED" "$@"
