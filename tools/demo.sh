#!/usr/bin/env bash
# The whole product on one machine: lab, both stacks, data, backup, verdict.
# Run again, it changes nothing that is right already.
# usage: tools/demo.sh LAB
set -euo pipefail

lab=$1
inv=.venv/bin/inv

step() {
  printf '\n$ %s\n' "$*"
}

run() {
  step "inv $*"
  "$inv" "$@"
}

run lab.up --name "$lab"
step ". .lab/$lab/env"
# shellcheck disable=SC1090 # written by lab.up
. ".lab/$lab/env"
run deploy-db
run deploy-app
step "python -m lab.demo fill"
.venv/bin/python -m lab.demo fill --name "$lab"
run backup.install
run backup.run
run backup.verify
.venv/bin/python -m lab.demo summary --name "$lab"
