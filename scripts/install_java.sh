#!/usr/bin/env bash
# Installs Java, which the world textworld_express starts, from Debian's packages, unless there is one. Needs root;
# without it the tests of that world are skipped.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/debian.sh"

command -v java >/dev/null || debian_install default-jre-headless
