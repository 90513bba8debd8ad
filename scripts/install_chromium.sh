#!/usr/bin/env bash
# Installs Chromium for tests/reporting/test_page_in_browser.py from Debian's packages, unless a browser is installed.
# Needs root; without a browser those tests are skipped. ACTFOCUS_CHROMIUM names a browser that is not on PATH.
set -euo pipefail

die() {
    printf 'install_chromium.sh: %s\n' "$*" >&2
    exit 1
}

for name in "${ACTFOCUS_CHROMIUM:-chromium}" chromium chromium-browser google-chrome chrome; do
    if command -v "$name" >/dev/null; then exit 0; fi
done
command -v apt-get >/dev/null || die "apt-get not found: install Chromium manually"
[[ "$(id -u)" == 0 ]] || die "root is required: have an administrator run 'apt-get install chromium'"

options=(-qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2)
export DEBIAN_FRONTEND=noninteractive
apt-get "${options[@]}" update && apt-get "${options[@]}" install -y --no-install-recommends chromium >/dev/null ||
    die "Debian's package index is unreachable or has no chromium package"
