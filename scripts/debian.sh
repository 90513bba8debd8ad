# Sourced by the scripts that install something from Debian's packages; needs root.

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

debian_install() { # $@: packages
    command -v apt-get >/dev/null || die "apt-get not found: install $* manually"
    [[ "$(id -u)" == 0 ]] || die "root is required: have an administrator run 'apt-get install $*'"
    local options=(-qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2)
    export DEBIAN_FRONTEND=noninteractive
    apt-get "${options[@]}" update &&
        apt-get "${options[@]}" install -y --no-install-recommends "$@" >/dev/null ||
        die "Debian's package index is unreachable or lacks one of $*"
}
