#!/usr/bin/env bash
# Everything CI checks: lints, types, the rooms' imports, then all tests (unit tests first, whole runs last).
#   bash scripts/test.sh                    the unit tests two at a time, then whole runs, one after another
#   bash scripts/test.sh -m nightly         what the first one leaves out because it is slow and seldom breaks
#   bash scripts/test.sh -m "not e2e"       arguments go to one pytest
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

bash scripts/bootstrap.sh
python=.venv/bin/python
failed=()

check() { # runs one lint; says so and goes on when it fails, so that one run shows them all
    local name="$1"
    shift
    printf '== %s\n' "$name"
    "$@" || failed+=("$name")
}

check ruff "$python" -m ruff check .
check mypy "$python" -m mypy
check import-linter .venv/bin/lint-imports --no-logo
if ((${#failed[@]} > 0)); then
    printf 'test.sh: error: %s failed: mend what is listed above; the tests have not run\n' "${failed[*]}" >&2
    exit 1
fi

printf '== pytest\n'
if (($# > 0)); then
    exec "$python" -m pytest "$@"
fi
"$python" -m pytest -n 2 -m "not e2e and not nightly"
exec "$python" -m pytest -m "e2e and not nightly"
