# Sourced by the scripts beside this file, from any working directory. Defines:
#   root            the repository
#   bin             the commands of its virtual environment
#   prepare KIND    makes .venv ready: "run" (what flashcast needs) or "dev" (tests and benchmarks too)
#   need COMMANDS   installs what is missing of the given commands, where that is possible
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$root/.venv/bin
# Debian keeps nghttpd in /usr/sbin, which is not on everybody's PATH.
PATH=$PATH:/usr/sbin:/usr/local/sbin

# Prints the first Python that is new enough and can make a virtual environment.
find_python() {
    local candidate
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        # A version manager's shim can be on PATH and still fail, so each candidate is run.
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Flashcast needs Python 3.11 or newer with its venv module; none is on PATH." >&2
    echo "Debian and Ubuntu: apt-get install python3-venv. Elsewhere: https://www.python.org/downloads/" >&2
    return 3
}

prepare() {
    local python=$bin/python
    if ! "$python" -c "" 2>/dev/null; then
        python=$(find_python) || exit $?
    fi
    "$python" "$root/scripts/setup.py" "$1"
}

# The Debian package of a command.
package_of() {
    case $1 in
        h2load | nghttp) echo nghttp2-client ;;
        nghttpd) echo nghttp2-server ;;
        nginx) echo nginx-light ;;
        node) echo nodejs ;;
        *) echo "$1" ;;
    esac
}

# Commands are looked for, not packages: they may come from elsewhere.
need() {
    local command missing=() packages=()
    for command in "$@"; do
        if ! command -v "$command" >/dev/null; then
            missing+=("$command")
            packages+=("$(package_of "$command")")
        fi
    done
    if ((${#missing[@]} == 0)); then
        return
    fi
    if [[ $(id -u) != 0 || ! -e /etc/debian_version ]] || ! command -v apt-get >/dev/null; then
        echo "Not found: ${missing[*]}. Tests that need them are skipped (with CI set, they fail)." >&2
        return
    fi
    echo "Installing Debian packages for the tests: ${packages[*]} ca-certificates" >&2
    export DEBIAN_FRONTEND=noninteractive
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update >&2 || true
    if ! "${apt[@]}" install -y --no-install-recommends "${packages[@]}" ca-certificates >&2; then
        # One package that cannot be had must not cost the others.
        local package
        for package in "${packages[@]}"; do
            "${apt[@]}" install -y --no-install-recommends "$package" >&2 || echo "Could not install $package." >&2
        done
    fi
}
