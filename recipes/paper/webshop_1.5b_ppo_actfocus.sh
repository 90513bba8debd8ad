#!/usr/bin/env bash
# Table 2: WebShop 1.5B, PPO, ActFocus. How to run it smaller, or dry: see run.sh in this folder.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/run.sh" webshop_1.5b_ppo_actfocus "$@"
