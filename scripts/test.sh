#!/usr/bin/env bash
# Everything CI checks: lints, types, the rooms' imports, then all tests (unit tests first, whole runs last).
#   bash scripts/test.sh                    all of it
#   bash scripts/test.sh -m "not e2e"       arguments go to pytest
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
exec "$python" -m pytest "$@"
