#!/usr/bin/env bash
# A Chromium for tests/reporting/test_page_in_browser.py, from Debian's packages. Does nothing where there is one.
# Needs root; without a browser those tests are skipped. ACTFOCUS_CHROMIUM names one that is not on PATH.
set -euo pipefail

die() {
    printf 'install_chromium.sh: %s\n' "$*" >&2
    exit 1
}

for name in "${ACTFOCUS_CHROMIUM:-chromium}" chromium chromium-browser google-chrome chrome; do
    if command -v "$name" >/dev/null; then exit 0; fi
done
command -v apt-get >/dev/null || die "no apt-get here: install Chromium by hand"
[[ "$(id -u)" == 0 ]] || die "only root may install it: ask for 'apt-get install chromium'"

options=(-qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2)
export DEBIAN_FRONTEND=noninteractive
apt-get "${options[@]}" update && apt-get "${options[@]}" install -y --no-install-recommends chromium >/dev/null ||
    die "Debian's packages cannot be reached, or have no chromium"
