#!/bin/sh
# ./cs up cluster.toml    ./cs status    ./cs test [arguments of pytest]
# The first call makes .venv from requirements.lock, and so does the first one after it changed.
# PYTHON=/path/to/python takes another Python than python3.
set -eu
home=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv=$home/.venv
made=$venv/.made-$({ echo "$home"; cat "$home/requirements.lock" "$home/pyproject.toml"; } | cksum | tr ' ' -)
is_made() { [ -e "$made" ] && [ -x "$venv/bin/python" ]; }
say() { echo "cs: $*" >&2; }
if ! is_made; then
  python=${PYTHON:-python3}
  command -v "$python" >/dev/null || { say "there is no $python; install Python 3.11 or newer"; exit 1; }
  exec 9<"$home/requirements.lock"  # the lock below is on this descriptor: it ends with this shell at the latest
  "$python" -c 'import fcntl, sys
if sys.version_info < (3, 11): sys.exit("cs: Python 3.11 or newer is needed; PYTHON=/path/to/python names one")
try: fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("cs: another call is installing, waiting for it", file=sys.stderr); fcntl.flock(9, fcntl.LOCK_EX)'
  if ! is_made; then
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])') sudo='sudo -n'
      [ "$(id -u)" != 0 ] || sudo=''
      say "Python's venv module is missing, installing $package"
      { $sudo apt-get update -q && $sudo apt-get install -yq --no-install-recommends "$package"; } </dev/null >&2 ||
        { say "that did not work; as root, type: apt-get install $package"; exit 1; }
    fi
    say "installing into $venv, once; this takes about half a minute"
    rm -f "$venv"/.made-*  # first, so that nothing which is interrupted below counts as done
    "$python" -m venv --clear "$venv" >&2
    # The lock is complete, so pip has nothing to resolve; Python compiles what it imports. Half the time.
    pip() { "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-compile "$@" >&2; }
    pip --require-hashes -r "$home/requirements.lock"
    pip --no-build-isolation -e "$home"
    : >"$made"
  fi
  exec 9<&-
fi
[ "${1-}" != test ] || { shift; cd "$home"; exec "$venv/bin/python" -m pytest "$@"; }
CONNSERVER_CALLED_AS=$0 exec "$venv/bin/cs-cluster" "$@"
