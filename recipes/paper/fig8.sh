#!/usr/bin/env bash
# Fig. 8: success by beta (a), and by the signal used instead of the energy (b), with PPO on WebShop 3B; beta 0.5 with the energy
# is Table 2's ActFocus.
# 8 cells with 3 seeds: 24 runs of 100 steps.
# One node of 4 GPUs per run (the paper: 4 H100). The duration is unknown: no run is finished, and the paper gives no hours.
#
#   bash recipes/paper/fig8.sh                  run what is missing; repeat the command to continue
#   SEED=0 bash recipes/paper/fig8.sh           a single seed
#   DRY_RUN=1 bash recipes/paper/fig8.sh        print each cell's settings and configuration, and run nothing
#   bash recipes/paper/fig8.sh --submit recipes/cluster/slurm.sh
# Arguments are passed to scripts/reproduce.py run (docs/reproducing.md). Its report makes the table of the finished runs:
#   python scripts/reproduce.py report recipes/matrices/paper.yaml
#
# The paper's strict success in percent at the last step, single runs; the value for beta 0.3 is read off the figure:
#   webshop_3b_ppo_beta_0                        29.7
#   webshop_3b_ppo_beta_0.3                      28.1
#   webshop_3b_ppo_beta_1                        39.8
#   webshop_3b_ppo_beta_2                        25.4
#   webshop_3b_ppo_signal_entropy                30.9
#   webshop_3b_ppo_signal_log_prob_shift         29.4
#   webshop_3b_ppo_signal_nll                    26.2
# Its figures suggest alpha 0.5 for beta (a); this follows the text, alpha 0.1.
# entropy: the reference's. nll: the policy's. log_prob_shift: the policy's log-likelihood minus the reference's.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

SEED="${SEED:-*}"
ACTION=(run)
if [[ -n "${DRY_RUN:-}" ]]; then
    ACTION=(show --config)
fi
exec "${PYTHON:-python}" scripts/reproduce.py "${ACTION[@]}" recipes/matrices/paper.yaml \
    --only "paper/webshop_3b_ppo_beta_*/seed$SEED" \
    --only "paper/webshop_3b_ppo_signal_*/seed$SEED" \
    --only "paper/webshop_3b_ppo_actfocus/seed$SEED" "$@"
