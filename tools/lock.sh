#!/usr/bin/env bash
# Renew requirements.lock (to use), requirements-dev.lock (to develop) and requirements-bench.lock
# (what the benchmarks compare with), with hashes.
# usage: tools/lock.sh PYTHON
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$1" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pip-tools>=7.5'
compile=("$work/venv/bin/pip-compile" --quiet --generate-hashes --allow-unsafe --strip-extras
  --no-header --no-emit-index-url --no-emit-find-links)
"${compile[@]}" --extra dev --output-file requirements-dev.lock pyproject.toml
# The smaller one takes its versions from the larger: what is tested is what is used.
"${compile[@]}" --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml
# The peers are no part of the product: their own versions, without the product's dependencies.
"$1" - << 'EOF' > "$work/bench.in"
import tomllib

with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"]["bench"], sep="\n")
EOF
"${compile[@]}" --no-annotate --output-file requirements-bench.lock "$work/bench.in"
