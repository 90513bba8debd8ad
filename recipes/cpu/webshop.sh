#!/usr/bin/env bash
# WebShop on a CPU: the quickstart's settings in this world, from an empty machine to outputs/cpu/webshop/figures/success.png.
#
#   bash recipes/cpu/webshop.sh credit=uniform      anything after the script's name overrides the configuration
# The tiny policy searches and buys, but seldom the very product, and a short run hardly changes that.
set -euo pipefail
export OUTPUT="${OUTPUT:-outputs/cpu/webshop}"
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../quickstart.sh" env=webshop "$@"
