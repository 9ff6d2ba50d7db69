# shellcheck shell=bash
# Sourced by examples/run and tests/run. Needs a Python >= 3.11 and nothing else; PYTHON says which one to use.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '== %s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# apt_install PACKAGE...: for what pip cannot bring.
apt_install() {
    command -v apt-get > /dev/null || fail "Please install $* with this system's package manager, then run this again."
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo > /dev/null || fail "Please install $* (as root: apt-get install $*), then run this again."
        as_root=(sudo)
    fi
    say "Installing $* with ${as_root[*]:+sudo }apt-get"
    local get=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    "${get[@]}" update
    "${get[@]}" install -y --no-install-recommends "$@" > /dev/null
}

# find_python: print the first Python >= 3.11.
find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3 python3.{14..11}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            printf '%s\n' "$name"
            return
        fi
        [ "$name" != "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not a Python 3.11 or newer."
    done
    fail "No Python 3.11 or newer was found. Install one, or name it: PYTHON=/path/to/python3 $0"
}

# make_venv: an environment of the project's own, made again where it is broken, or came here with a moved or
# copied folder: its commands hold the path that it was made at.
make_venv() {
    case $("$venv/bin/pip" --version 2> /dev/null || true) in
        *" from $venv/"*) return ;;
    esac
    local python version
    python=$(find_python)
    # Debian keeps what `venv` needs in a package of its own.
    if ! "$python" -c 'import ensurepip, venv' 2> /dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        apt_install "python$version-venv"
    fi
    say "Making .venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
}

# prepare_venv REQUIREMENT FILE...: install this project, with the extras and options of REQUIREMENT, into .venv;
# skipped as long as REQUIREMENT and the FILEs are the same as the last time.
prepare_venv() {
    local requirement=$1 stamp=$venv/installed content
    shift
    make_venv
    cd -- "$root" || return
    content=$requirement$'\n'$(find "$@" -type f -not -path '*/__pycache__/*' -exec cksum {} + | LC_ALL=C sort)
    if [ -f "$stamp" ] && [ "$content" = "$(cat "$stamp")" ]; then return; fi
    say "Installing $requirement into .venv"
    rm -f -- "$stamp"
    # shellcheck disable=SC2086 # "-e .[test]" is two words
    "$venv/bin/python" -m pip install -qq $requirement
    printf '%s\n' "$content" > "$stamp"
}
