#!/usr/bin/env bash
# Everything that CI checks: linters, types, import rules, then all tests (unit tests first, whole runs last).
#   bash scripts/test.sh                    unit tests in two processes, then whole runs, one after another, and clusters where
#                                           they can be had (root and SLURM: bash scripts/install_slurm.sh)
#   bash scripts/test.sh -m nightly         the slow tests that rarely break, which the first command skips,
#                                           those of clusters among them
#   bash scripts/test.sh -m "not e2e"       arguments are passed to a single pytest
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

bash scripts/bootstrap.sh
python=.venv/bin/python
failed=()

check() { # runs one check and records a failure, so that a single run shows all failures
    local name="$1"
    shift
    printf '== %s\n' "$name"
    "$@" || failed+=("$name")
}

check ruff "$python" -m ruff check .
check mypy "$python" -m mypy
check import-linter .venv/bin/lint-imports --no-logo
if ((${#failed[@]} > 0)); then
    printf 'test.sh: error: %s failed: fix the errors above; the tests have not run\n' "${failed[*]}" >&2
    exit 1
fi

printf '== pytest\n'
if (($# > 0)); then
    exec "$python" -m pytest "$@"
fi
# Two processes on two cores: with a thread pool each, they would wait for each other. Whole files, so that what a file's
# tests share (models, boards, composed configurations) is made in one process only.
OMP_NUM_THREADS=1 "$python" -m pytest -n 2 --dist loadfile -m "not e2e and not nightly"
whole=e2e
if ((EUID == 0)) && command -v slurmctld >/dev/null; then # network namespaces need root
    whole="(e2e or cluster)"
fi
exec "$python" -m pytest -m "$whole and not nightly"
