#!/usr/bin/env bash
# Installs Chromium for tests/reporting/test_page_in_browser.py from Debian's packages, unless a browser is installed.
# Needs root; without a browser those tests are skipped. ACTFOCUS_CHROMIUM names a browser that is not on PATH.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/debian.sh"

for name in "${ACTFOCUS_CHROMIUM:-chromium}" chromium chromium-browser google-chrome chrome; do
    if command -v "$name" >/dev/null; then exit 0; fi
done
debian_install chromium
