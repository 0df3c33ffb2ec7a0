# scripts/restore-pg.sh: what it refuses before it has changed anything. What it does is shown in
# the lab, with a real PostgreSQL (tests/e2e/test_8_restore.py).
# shellcheck disable=SC2030,SC2031 # each test is a subshell of its own

bats_require_minimum_version 1.5.0
load helper

setup() {
  set_up
  SCRIPT=$BATS_TEST_DIRNAME/../../scripts/restore-pg.sh
  SET=20261122T021500Z
}

restore() { run "$SCRIPT" "$@" --config "$CONF"; }

# No statement and no upload has left this machine.
nothing_happened() {
  [ ! -e "$FAKE/uploads" ]
  [ -z "$(find "$BATS_TEST_TMPDIR/dumps" -name '*.partial*' 2>/dev/null)" ]
}

@test "help and version" {
  run "$SCRIPT" --help
  [ "$status" -eq 0 ]
  [[ $output == *"restore-pg.sh drill"* ]]
  run "$SCRIPT" --version
  [ "$status" -eq 0 ]
  [[ $output =~ ^restore-pg.sh\ [0-9] ]]
}

@test "no action, an unknown one, an unknown option" {
  run "$SCRIPT"
  [ "$status" -eq 2 ]
  restore erase
  [ "$status" -eq 2 ]
  restore restore --force
  [ "$status" -eq 2 ]
  nothing_happened
}

@test "names that are no names, and PostgreSQL's own" {
  for name in "" "a b" "a;b" "1a" 'a"b' postgres template0 "$(printf 'a%.0s' {1..64})"; do
    restore restore --set "$SET" --into "$name"
    [ "$status" -eq 2 ]
    restore swap --with fine --keep-as "$name"
    [ "$status" -eq 2 ]
    restore swap --with "$name" --keep-as fine
    [ "$status" -eq 2 ]
  done
  nothing_happened
}

@test "sets, jobs, sizes that are none" {
  restore restore --into fine
  [ "$status" -eq 2 ]
  restore restore --into fine --set yesterday
  [ "$status" -eq 2 ]
  restore restore --into fine --set "$SET" --jobs 0
  [ "$status" -eq 2 ]
  restore drill --set "$SET" --memory lots
  [ "$status" -eq 2 ]
  restore drill --set "$SET" --app 'x y'
  [ "$status" -eq 2 ]
  nothing_happened
}

@test "settings that others may read" {
  chmod 644 "$CONF"
  restore drill --set "$SET"
  [ "$status" -eq 2 ]
  nothing_happened
}

@test "a backup is in progress: nothing is touched" {
  backup_script=$BATS_TEST_DIRNAME/../../scripts/backup-pg.sh
  SCRIPT=$backup_script backup_in_background
  restore restore --set "$SET" --into fine
  [ "$status" -eq 10 ]
  kill "$RUNNING"
  its_end || true
}

@test "no running container on this node" {
  : >"$FAKE/ids"
  restore restore --set "$SET" --into fine
  [ "$status" -eq 11 ]
  [[ $output == *"next: "* ]]
  nothing_happened
}

@test "no such set" {
  restore restore --set "$SET" --into fine
  [ "$status" -eq 20 ]
  [[ $output == *"backup_$SET.manifest.json does not exist; next: 'inv backup.list'"* ]]
  nothing_happened
}

@test "no set at all" {
  restore restore --latest --into fine
  [ "$status" -eq 20 ]
  [[ $output == *"has no backup; next: "* ]]
}
