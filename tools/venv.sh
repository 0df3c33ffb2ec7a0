#!/usr/bin/env bash
# Create a virtual environment with exactly what a lock file names, hashes checked.
# usage: tools/venv.sh PYTHON VENV LOCKFILE
set -euo pipefail

python=$1 venv=$2 lockfile=$3

fail() {
  echo "error: $1" >&2
  exit 2
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  fail "needs Python 3.11 or newer as '$python': install it, or name yours: make PYTHON=/path/to/python3"

# Debian ships Python without the parts that make virtual environments.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  tools=$(dirname "$0")
  "$tools/need.sh" python3-venv
fi

echo "creating $venv with the locked dependencies"
"$python" -m venv --clear "$venv"
"$venv/bin/pip" install --quiet --require-hashes --requirement "$lockfile" ||
  fail "the dependencies could not be installed: see above; is the package index reachable?"
