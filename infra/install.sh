#!/usr/bin/env bash
# Usage: install.sh VENV LOCK [LOCK …]. Makes the virtual environment and installs exactly what the lock files name.
# Says what it does; asks for no password; names in one line what it cannot install itself.
set -euo pipefail
venv=$1; shift
python=${PYTHON:-python3}

say() { printf '%s\n' "$*"; }
fail() { printf 'install: %s\n' "$*" >&2; exit 1; }

root() { # run as root when that needs no password
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}
packages() { # install Debian packages when that is possible without asking
  command -v apt-get >/dev/null || return 1
  root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null 2>&1 || true
  root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null 2>&1
}

command -v "$python" >/dev/null || fail "Python 3.11 or newer is missing; run: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$("$python" --version) is too old; Python 3.11 or newer is needed (set PYTHON=/path/to/python3.12)"
command -v git >/dev/null || { say "Installing git …"; packages git || fail "git is missing; run: apt-get install git"; }

if [ ! -x "$venv/bin/python" ]; then
  say "Making the virtual environment …"
  if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
    rm -rf "$venv"
    package="python$("$python" -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')-venv"
    say "Installing $package …"
    packages "$package" || packages python3-venv || fail "Python's venv module is missing; run: apt-get install $package"
    "$python" -m venv "$venv"
  fi
fi
if [ ! -x "$venv/bin/uv" ]; then
  say "Installing the installer (uv) …"
  awk '/^uv==/{on=1} on{print} on&&!/\\$/{exit}' requirements.lock > "$venv/uv.lock.txt"
  "$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r "$venv/uv.lock.txt"
fi
# Where the machine has a certificate store it decides whom to trust, as for every other program: gateways that inspect TLS are in it.
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then export UV_SYSTEM_CERTS=1; fi
arguments=()
for lock in "$@"; do arguments+=(-r "$lock"); done
say "Installing $(cat "$@" | grep -cE '^[A-Za-z0-9]') pinned packages …"
VIRTUAL_ENV="$venv" "$venv/bin/uv" pip install -q --require-hashes --compile-bytecode "${arguments[@]}"
VIRTUAL_ENV="$venv" "$venv/bin/uv" pip install -q --no-deps --no-build-isolation-package vitrine -e . 2>/dev/null ||
  VIRTUAL_ENV="$venv" "$venv/bin/uv" pip install -q --no-deps -e .
say "Installed."
