#!/usr/bin/env bash
# Fig. 7: success by alpha, the weight of reasoning tokens, with PPO at 3B on Sokoban and WebShop; alpha 0.1 is Table 2's ActFocus.
# 10 cells with 3 seeds: 30 runs of 200 steps, on WebShop 100.
# One node of 4 GPUs per run (the paper: 4 H100). The duration is unknown: no run is finished, and the paper gives no hours.
#
#   bash recipes/paper/fig7.sh                  run what is missing; repeat the command to continue
#   SEED=0 bash recipes/paper/fig7.sh           a single seed
#   DRY_RUN=1 bash recipes/paper/fig7.sh        print each cell's settings and configuration, and run nothing
#   bash recipes/paper/fig7.sh --submit recipes/cluster/slurm.sh
# Arguments are passed to scripts/reproduce.py run (docs/reproducing.md). Its report makes the table of the finished runs:
#   python scripts/reproduce.py report recipes/matrices/paper.yaml
#
# The paper's success in percent at the last step (strict on WebShop), single runs, read off the figure:
#   sokoban_3b_ppo_alpha_0           26.7
#   sokoban_3b_ppo_alpha_0.3         32.7
#   sokoban_3b_ppo_alpha_0.5         35.9
#   sokoban_3b_ppo_alpha_1           26.2
#   webshop_3b_ppo_alpha_0            0.0
#   webshop_3b_ppo_alpha_0.3         33.6
#   webshop_3b_ppo_alpha_0.5         29.7
#   webshop_3b_ppo_alpha_1           22.7
# The paper's curves at alpha 1 are those of uniform weights (beta 0); its text calls them energy alone, which is what runs here.
# On WebShop the paper's figures suggest beta 0 (the curve of alpha 0.5 is Fig. 8a's of beta 0); this follows the text, beta 0.5.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

SEED="${SEED:-*}"
ACTION=(run)
if [[ -n "${DRY_RUN:-}" ]]; then
    ACTION=(show --config)
fi
exec "${PYTHON:-python}" scripts/reproduce.py "${ACTION[@]}" recipes/matrices/paper.yaml \
    --only "paper/*_3b_ppo_alpha_*/seed$SEED" \
    --only "paper/sokoban_3b_ppo_actfocus/seed$SEED" \
    --only "paper/webshop_3b_ppo_actfocus/seed$SEED" "$@"
