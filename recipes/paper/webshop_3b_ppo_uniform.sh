#!/usr/bin/env bash
# Table 2: WebShop 3B, PPO, uniform weights. How to run it smaller, or dry: see run.sh in this folder.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/run.sh" webshop_3b_ppo_uniform "$@"
