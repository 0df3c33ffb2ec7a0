#!/usr/bin/env bash
# Make sure that Debian packages are installed; with root they are installed, else named.
# usage: tools/need.sh PACKAGE...
set -euo pipefail

missing=()
for package in "$@"; do
  # A tool that is on the PATH will do, wherever it came from.
  command -v "$package" >/dev/null && continue
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

fail() {
  echo "error: $1" >&2
  exit 2
}

command -v apt-get >/dev/null ||
  fail "please install: ${missing[*]} (Debian's names; this machine has no apt to do it with)"
[ "$(id -u)" -eq 0 ] || fail "please install, as root: apt-get install ${missing[*]}"
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 "${missing[@]}")
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Package lists may be missing or old on a new machine: only then are they fetched.
"${install[@]}" >"$log" 2>&1 || { apt-get update -qq && "${install[@]}"; } >"$log" 2>&1 || {
  tail -n 5 "$log" >&2
  fail "apt-get could not install ${missing[*]}: see above"
}
