#!/usr/bin/env bats
# wal-pg.sh: what it says and its exit codes where there is no PostgreSQL to archive, what `check`
# prints, and when a base backup is incremental. What it does with a real one: tests/e2e/test_8_pitr.
# shellcheck shell=bash
# shellcheck disable=SC2016,SC2154 # expanded elsewhere; bats sets output

load helper

WAL=$BATS_TEST_DIRNAME/../../scripts/wal-pg.sh
SERVER='7|/var/lib/postgresql/data/pgdata|1073741824|f|0|16777216|15|-|off|active|reserved|1073000000'

setup() {
  set_up
  mkdir "$FAKE/bin"
  cat >"$FAKE/bin/psql" <<'END'
#!/bin/bash
[[ " $* " != *" -c "* ]] || { echo 1000000; exit; }
asked=$(cat)
printf '%s\n' "$asked" >>"$FAKE/asked"
[[ ! -e $FAKE/refused ]] || { echo "FATAL: role does not exist" >&2; exit 2; }
case $asked in
  *pg_is_in_recovery*) cat "$FAKE/server" ;;
  *rolsuper*) echo "t|1000000|debezium" ;;
esac
END
  chmod 755 "$FAKE/bin/psql"
  echo "$SERVER" >"$FAKE/server"
  settings "PATH='$FAKE/bin':\$PATH" PITR=yes
}

wal() { run "$WAL" "$@" --config "$CONF"; }

@test "without an engine: exit 12, one error" {
  touch "$FAKE/docker-down"
  wal archive
  [ "$status" -eq 12 ]
  [[ $output == *"docker: Cannot connect to the Docker daemon"* && $output == *"the Docker engine does not answer; next: "* ]]
}

@test "the database is on another node: exit 11, and no line each minute" {
  : >"$FAKE/ids"
  wal archive
  [ "$status" -eq 11 ]
  [ "$output" = "" ]
}

@test "PostgreSQL refuses the user, or is a standby: exit 13, one error" {
  touch "$FAKE/refused"
  wal archive
  [ "$status" -eq 13 ]
  [[ $output == *"psql: FATAL: role does not exist"* && $output == *"must be a superuser"* ]]
  rm "$FAKE/refused"
  echo "${SERVER/|f|/|t|}" >"$FAKE/server"
  wal archive
  [ "$status" -eq 13 ]
  one_error "PostgreSQL is in recovery"
}

@test "wrong usage: exit 2" {
  for words in "" "mark" "mark a/b" "archive now" "restart"; do
    # shellcheck disable=SC2086 # words
    wal $words
    [ "$status" -eq 2 ]
  done
}

@test "what is no number is never calculated with: bash would run what is in it" {
  local line evil="PATH[\$(touch $FAKE/run)]"
  for line in "7|/d|$evil|f|0|16777216|15|-|off|none" "7|/d|1|f|$evil|16777216|15|-|off|none" \
    "7|/d|1|f|0|$evil|15|-|off|none" "7|/d|1|f|0|16777216|$evil|-|off|none"; do
    echo "$line" >"$FAKE/server"
    wal base
    [ "$status" -eq 13 ]
    wal check
    [ "$status" -eq 13 ]
    [ ! -e "$FAKE/run" ]
  done
}

@test "tablespaces of its own, and a slot that is not there yet, refuse a base backup" {
  echo "${SERVER/|f|0|/|f|2|}" >"$FAKE/server"
  wal base
  [ "$status" -eq 33 ]
  one_error "has 2 tablespaces of its own"
  echo "${SERVER/active|reserved|1073000000/none}" >"$FAKE/server"
  wal base
  [ "$status" -eq 30 ]
  one_error "no WAL is archived yet"
}

@test "check: a line for each thing, and nothing is changed" {
  mkdir -p "$BATS_TEST_TMPDIR/dumps/.wal"
  echo "CLUSTER=6 LAST=000000010000000000000009" >"$BATS_TEST_TMPDIR/dumps/.wal/state"
  touch "$BATS_TEST_TMPDIR/dumps/.wal/newest-base"
  echo "pg_receivewal -w -n -D /var/lib/postgresql/data/swarmkeep-wal -S swarmkeep -s 5" >"$FAKE/top"
  wal check
  [ "$status" -eq 0 ]
  [ "$(cut -d ' ' -f 1 <<<"$output" | paste -sd ' ')" = "superuser tablespaces slot cap other_slots spool summaries volumes folder" ]
  [[ $output == *"slot active reserved 1073000000"* && $output == *"other_slots debezium"* ]]
  # Somebody else may read the slot.
  echo "pg_receivewal -n -D /tmp/other -S swarmkeep" >"$FAKE/top"
  wal check
  [[ $output == *"slot foreign reserved"* ]]
  # Another cluster than before: the next archive run begins a chain, not this one.
  [ "$(cat "$BATS_TEST_TMPDIR/dumps/.wal/state")" = "CLUSTER=6 LAST=000000010000000000000009" ]
  [ -e "$BATS_TEST_TMPDIR/dumps/.wal/newest-base" ]
  ! grep -qE 'ALTER|create|drop' "$FAKE/asked" || return 1
}

@test "remove_unfilled: files that pg_receivewal would refuse, and no others" {
  cd "$BATS_TEST_TMPDIR"
  mkdir spool && cd spool
  : >000000010000000000000001.partial
  truncate -s 8192 000000010000000000000002.partial 000000010000000000000003 notes.partial
  truncate -s 16777216 000000010000000000000004.partial
  mkdir 000000010000000000000006.partial
  ln -s 000000010000000000000004.partial 000000010000000000000005.partial
  bash -c '. "$1" && SEGMENT_BYTES=16777216 && remove_unfilled' bash "$WAL"
  [ "$(echo *)" = "000000010000000000000001.partial 000000010000000000000003 000000010000000000000004.partial 000000010000000000000006.partial notes.partial" ]
}

# Runs words after choose_parent, in a world of a server of 17 with a full base backup and an
# incremental one; $1 changes that world first. Prints PARENT and CHAIN.
parent() {
  bash -c '
    . "$1"
    WAL_DIR=$2 PREFIX=wal/7 S3_BUCKET=b CLUSTER=7 MAJOR=17 SUMMARIES=on SIZE=2000 INCREMENTAL_FROM=1000
    FULL="" STAMP=20260103T000000Z SUMS=off CHECKSUMS=off BASE_BYTES=10
    BASE=000000010000000000000009 BASE_OF=7 FIRST=000000010000000000000002 CHAIN="20260101T000000Z:10 20260102T000000Z:5"
    declare -A SIZES=([wal/7/base_20260101T000000Z.tar.gz]=10 [wal/7/base_20260101T000000Z.json]=1
      [wal/7/base_20260102T000000Z.tar.gz]=5 [wal/7/base_20260102T000000Z.json]=1)
    list_sizes() { :; }
    read_sizes() { :; }
    ask_server() { cat >"$WAL_DIR/asked"; }
    touch "$WAL_DIR/newest-base.20260102T000000Z.manifest"
    eval "$3"
    choose_parent
    echo "$PARENT|$CHAIN"' bash "$WAL" "$FAKE" "${1-}" 2>/dev/null
}

@test "choose_parent: an incremental base backup adds to the newest one" {
  [ "$(parent)" = "20260102T000000Z|20260101T000000Z:10 20260102T000000Z:5" ]
}

@test "choose_parent: a full one where an incremental one cannot be, or would be useless" {
  for world in MAJOR=16 SIZE=999 INCREMENTAL_FROM=0 'CHAIN=""' BASE_OF=8 FIRST=000000010000000000000010 \
    'rm "$WAL_DIR"/newest-base.*.manifest' \
    'rm "$WAL_DIR"/newest-base.*; ln -s /etc/passwd "$WAL_DIR/newest-base.20260102T000000Z.manifest"' FULL=yes CHECKSUMS=on \
    STAMP=20260101T120000Z BASE_BYTES=9 'SIZES[wal/7/base_20260101T000000Z.tar.gz]=9' \
    'unset "SIZES[wal/7/base_20260101T000000Z.json]"' 'unset "SIZES[wal/7/base_20260102T000000Z.tar.gz]"' \
    'CHAIN="1:1 2:1 3:1 4:1 5:1 6:1 7:1"'; do
    [ "$(parent "$world")" = "|" ] || { echo "$world" >&2 && false; }
  done
}

@test "choose_parent: the first one has PostgreSQL note what changes" {
  [ "$(parent SUMMARIES=off)" = "|" ]
  grep -q "summarize_wal = on" "$FAKE/asked"
  [ "$(cat "$FAKE/summarize-wal")" = 7 ]
}
