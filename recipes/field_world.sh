#!/usr/bin/env bash
# A tiny policy in a world that the field cites, on two CPU cores: it is taught to play worse than the oracle, trained with GRPO, and
# judged before and after on held-out goals (TextCraft) or levels (BabyAI). recipes/matrices/field_worlds.yaml has three seeds of
# BabyAI, textcraft.yaml those of TextCraft; docs/results.md says where it learns.
#
#   bash recipes/field_world.sh textcraft                   with ActFocus' weights, in outputs/textcraft
#   bash recipes/field_world.sh babyai credit=uniform       further arguments override the configuration
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

WORLD="${1:-}"
if [[ ! -f "configs/small/$WORLD.yaml" || ! -f "requirements/$WORLD.txt" ]]; then
    echo "field_world.sh: error: the first argument is '$WORLD': name a world, textcraft or babyai" >&2
    exit 2
fi
shift
RUN="${OUTPUT:-outputs/$WORLD}"

bash scripts/bootstrap.sh
.venv/bin/python -m pip install -q -c requirements/constraints-cpu.txt -r "requirements/$WORLD.txt"
.venv/bin/python -m actfocus_verl.train experiment="small/$WORLD" run.dir="$RUN" "$@"
.venv/bin/python -m actfocus_verl.report run="$RUN"
