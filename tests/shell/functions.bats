# The parts of the scripts that are clever, each by itself: sourced, a script only defines functions.
# shellcheck disable=SC2030,SC2031 # each test is a subshell of its own

bats_require_minimum_version 1.5.0
load helper

setup() {
  set_up
  SCRIPTS=$BATS_TEST_DIRNAME/../../scripts
}

# Runs function $2 of script $1 with the words that follow.
call() { bash -c 'set -euo pipefail; . "$1"; shift; "$@"' sh "$SCRIPTS/$1" "${@:2}"; }

@test "compress_in_pieces keeps the order of the pieces and leaves none behind" {
  libdeflate_stands_in 'case $2 in */0) sleep 0.3 ;; esac # the first piece is the last to be done'
  mkdir "$FAKE/pieces"
  head -c 17000000 /dev/urandom >"$FAKE/data"
  PATH=$FAKE/bin:$PATH call backup-pg.sh compress_in_pieces 6 "$FAKE/pieces" <"$FAKE/data" >"$FAKE/data.gz"
  gzip -dc <"$FAKE/data.gz" | cmp - "$FAKE/data"
  [ -z "$(find "$FAKE/pieces" -name '*.gz')" ]
}

@test "compress_in_pieces fails if a piece does, and takes nothing for an empty file" {
  libdeflate_stands_in 'case $2 in */1) exit 3 ;; esac'
  mkdir "$FAKE/pieces"
  head -c 9000000 /dev/urandom >"$FAKE/data"
  PATH=$FAKE/bin:$PATH run call backup-pg.sh compress_in_pieces 6 "$FAKE/pieces" <"$FAKE/data"
  [ "$status" -ne 0 ]
  [ "$(PATH=$FAKE/bin:$PATH call backup-pg.sh compress_in_pieces 6 "$FAKE/pieces" </dev/null | wc -c)" -eq 0 ]
}

@test "differing_tables names three tables, and how many more" {
  printf '%s\n' '"a": 1' '"b": 2' '"c: d": 3' '"e": 4' '"f": 5' | sort >"$FAKE/expected"
  printf '%s\n' '"a": 1' '"b": 3' '"c: d": 4' '"f": 6' '"g": 1' | sort >"$FAKE/counted"
  run call parts/restore-load.sh differing_tables "$FAKE/expected" "$FAKE/counted"
  [[ $output == *"expected "*", got "*"; and 2 more" ]]
  run call parts/restore-load.sh differing_tables "$FAKE/expected" "$FAKE/expected"
  [ "$output" = "" ]
  printf '"c: d": 3\n' >"$FAKE/expected"
  : >"$FAKE/counted"
  run call parts/restore-load.sh differing_tables "$FAKE/expected" "$FAKE/counted"
  [ "$output" = '"c: d" expected 3, got no table' ]
}

@test "changed_files: what lacks, has another size, or is older than the file here" {
  printf '%s\t%s\t%s\n' 1 same 2026-01-02T00:00:00+00:00 2 size 2026-01-02T00:00:00+00:00 \
    3 older 2026-01-01T00:00:00+00:00 >"$FAKE/objects"
  printf '%s\t%s\t%s\n' 1 same 2026-01-01T23:59:59.5 9 size 2026-01-01T00:00:00.0 \
    3 older 2026-01-01T00:00:01.0 4 'new one' 2026-01-01T00:00:00.0 >"$FAKE/files"
  run call backup-files.sh changed_files "$FAKE/objects" "$FAKE/files"
  [ "$output" = "$(printf '9\tsize\n3\tolder\n4\tnew one')" ]
}

@test "a pipe is opened only if it is one" {
  mkdir -p "$FAKE/pipe.d"
  mkfifo "$FAKE/pipe.d/pipe"
  bash -c 'set -euo pipefail; . "$1"; PIPE_DIR=$2; open_pipe; echo through >&8; head -n 1 <&7' sh \
    "$SCRIPTS/parts/backup-common.sh" "$FAKE/pipe.d" | grep -qx through
  rm "$FAKE/pipe.d/pipe"
  echo secret >"$FAKE/pipe.d/pipe"
  RUN=test run bash -c 'set -euo pipefail; . "$1"; PIPE_DIR=$2; open_pipe' sh \
    "$SCRIPTS/parts/backup-common.sh" "$FAKE/pipe.d"
  [ "$status" -eq 16 ]
  [[ $output == *"is no pipe any more"* ]]
}

@test "side_by_side returns the first failure, tells it once, and takes all that succeed" {
  RUN=test run bash -c 'set -euo pipefail; . "$1"; DIR=$2 STEP_TIMEOUT=9
    good() { echo "good $1" >&2; }
    bad() { log ERROR "bad $1"; return "$1"; }
    side_by_side "good 1" "bad 18" "bad 19" "good 2"' sh "$SCRIPTS/parts/backup-common.sh" "$FAKE"
  [ "$status" -eq 18 ]
  [ "$(grep -c ERROR <<<"$output")" -eq 1 ]
  [[ $output == *"good 1"*"bad 18"* ]]
}

# ---- WAL ----------------------------------------------------------------------------------------

# Runs words in a shell that has sourced the WAL's part, in the folder $FAKE/spool.
segments() {
  mkdir -p "$FAKE/spool"
  (cd "$FAKE/spool" && bash -c 'set -euo pipefail; . "$0"; . "${0%/*}/access-docker.sh"; SEGMENT_BYTES=16777216; '"$1" "$SCRIPTS/parts/wal-segments.sh" "${@:2}")
}

@test "next_segment goes on into the next log, whatever the size of segments" {
  [ "$(segments 'next_segment 0000000100000000000000FE')" = 0000000100000000000000FF ]
  [ "$(segments 'next_segment 0000000100000000000000FF')" = 000000010000000100000000 ]
  [ "$(segments 'next_segment 00000002000000FF000000FF')" = 000000020000010000000000 ]
  [ "$(segments 'SEGMENT_BYTES=1073741824; next_segment 000000010000000000000003')" = 000000010000000100000000 ]
}

@test "finished_segments: in their order, none that is unfinished, a link or something else" {
  mkdir -p "$FAKE/spool"
  (cd "$FAKE/spool" && touch 0000000100000000000000{0A,09,0B} 00000001000000000000000C.partial receiver.log 00000002.history A)
  ln -s /etc/passwd "$FAKE/spool/00000001000000000000000D"
  [ "$(segments 'finished_segments ""' | paste -sd ' ')" = "000000010000000000000009 00000001000000000000000A 00000001000000000000000B" ]
  [ "$(segments 'finished_segments 00000001000000000000000A')" = 00000001000000000000000B ]
}

@test "remove_uploaded: what is in the bucket, but the last, and nothing that has arrived meanwhile" {
  mkdir -p "$FAKE/spool"
  (cd "$FAKE/spool" && touch 0000000100000000000000{09,0A,0B,0C,0D} 00000001000000000000000E.partial receiver.log)
  segments 'LAST=00000001000000000000000B; remove_uploaded'
  [ "$(ls "$FAKE/spool" | paste -sd ' ')" = "00000001000000000000000B 00000001000000000000000C 00000001000000000000000D 00000001000000000000000E.partial receiver.log" ]
}

@test "spool_is_full: by what it holds, or by why pg_receivewal ended; a link says nothing" {
  mkdir -p "$FAKE/spool"
  full() { bash -c '. "$1"; SPOOL=$2 CAP=$3; spool_is_full' bash "$SCRIPTS/wal-pg.sh" "$FAKE/spool" "$1"; }
  head -c 200000 /dev/zero >"$FAKE/spool/000000010000000000000009"
  full 100000
  [ "$(full 10000000 || echo no)" = no ]
  echo "the spool is full" >"$FAKE/spool/receiver.log"
  full 10000000
  echo "pg_receivewal: error: server closed the connection" >>"$FAKE/spool/receiver.log"
  [ "$(full 10000000 || echo no)" = no ]
  echo "the spool is full" >"$FAKE/elsewhere"
  ln -sf "$FAKE/elsewhere" "$FAKE/spool/receiver.log"
  [ "$(full 10000000 || echo no)" = no ]
}

@test "in_mount: the longest mount that a path lies in" {
  mounts() { printf '%s\n' '/var/lib/postgresql/data /vol/a b/_data' '/var/lib/postgresql /vol/up' '/run/secrets /s'; }
  [ "$(mounts | segments 'in_mount /var/lib/postgresql/data/swarmkeep-wal')" = "/vol/a b/_data/swarmkeep-wal" ]
  [ "$(mounts | segments 'in_mount /var/lib/postgresql/swarmkeep-wal')" = /vol/up/swarmkeep-wal ]
  [ "$(mounts | segments 'in_mount /var/lib/other/swarmkeep-wal')" = "" ]
  [ "$(mounts | segments 'in_mount /var/lib/postgresqlx/swarmkeep-wal')" = "" ]
}

@test "a spool that is a link to another place is not entered" {
  mkdir -p "$FAKE/volume/swarmkeep-wal" "$FAKE/other"
  segments 'SPOOL_NAME=swarmkeep-wal SPOOL=$1; enter_spool' "$FAKE/volume/swarmkeep-wal"
  rmdir "$FAKE/volume/swarmkeep-wal"
  ln -s "$FAKE/other" "$FAKE/volume/swarmkeep-wal"
  run segments 'SPOOL_NAME=swarmkeep-wal SPOOL=$1; enter_spool' "$FAKE/volume/swarmkeep-wal"
  [ "$status" -ne 0 ]
}

# The way from segment $1 to time $2, given lines "SEGMENT TIME MD5 [ETAG]" on stdin.
way() {
  awk '{ printf "wal/7/%s/%s_%s_%s.gz\t100\t\"%s\"\n", substr($1, 1, 16), $1, $2, $3, (NF > 3 ? $4 : $3) }' |
    bash -c 'set -euo pipefail; . "$0"; SSE=${3-}; way_through "$1" "$2" 16777216' "$SCRIPTS/parts/restore-replay.sh" "$@"
}

A=00000000000000000000000000000a01 B=00000000000000000000000000000a02

@test "way_through: up to the first segment that reaches beyond the target" {
  list() { printf '%s\n' "000000010000000000000002 20260101T000000Z $A" "000000010000000000000004 20260101T000200Z $A" \
    "000000010000000000000003 20260101T000100Z $A" "000000010000000000000005 20260101T000300Z $A"; }
  run way 000000010000000000000003 20260101T000130Z < <(list)
  [ "${lines[0]}" = "20260101T000200Z 200 complete" ]
  [ "${#lines[@]}" -eq 3 ]
  run way 000000010000000000000003 "" < <(list)
  [ "${lines[0]}" = "20260101T000300Z 300 complete" ]
  [ "${#lines[@]}" -eq 4 ]
  run way 000000010000000000000007 "" < <(list)
  [ "$output" = "none 0 complete" ]
}

@test "way_through: names with 24 digits differ though they are the same number to awk" {
  run way 000000010000000000000003 "" < <(printf '%s\n' "000000010000000000000003 20260101T000100Z $A" \
    "000000010000000000000004 20260101T000200Z $B" "000000010000000000000006 20260101T000300Z $A")
  [ "${lines[0]}" = "20260101T000200Z 200 segment 000000010000000000000005 is missing" ]
  [ "${#lines[@]}" -eq 3 ]
}

@test "way_through: what is there twice, and what is not what was uploaded" {
  run way 000000010000000000000003 "" < <(printf '%s\n' "000000010000000000000003 20260101T000100Z $A" \
    "000000010000000000000003 20260101T000101Z $A" "000000010000000000000004 20260101T000200Z $A")
  [ "${lines[0]}" = "20260101T000200Z 200 complete" ]
  run way 000000010000000000000003 "" < <(printf '%s\n' "000000010000000000000003 20260101T000100Z $A" \
    "000000010000000000000003 20260101T000101Z $B" "000000010000000000000004 20260101T000200Z $A")
  [[ ${lines[0]} == "none 0 segment 000000010000000000000003 is there twice: two servers"* ]]
  # Neither counts, whatever the target: nobody knows which of them belongs to the base backup.
  for target in "" 20260101T000130Z; do
    run way 000000010000000000000003 "$target" < <(printf '%s\n' "000000010000000000000003 20260101T000100Z $A" \
      "000000010000000000000004 20260101T000200Z $A" "000000010000000000000004 20260101T000200Z $B")
    [[ ${lines[0]} == "20260101T000100Z 100 segment 000000010000000000000004 is there twice"* && ${#lines[@]} == 2 ]]
  done
  run way 000000010000000000000003 "" < <(printf '%s\n' "000000010000000000000003 20260101T000100Z $A" \
    "000000010000000000000004 20260101T000200Z $A $B")
  [[ ${lines[0]} == "20260101T000100Z 100 wal/7/"*" is not what was uploaded: its MD5 is another" ]]
  run way 000000010000000000000003 "" < <(printf '%s\n' "000000010000000000000003 20260101T000100Z $A $B-2")
  [ "${lines[0]}" = "20260101T000100Z 100 complete" ]
}

@test "both ways to reach PostgreSQL have the same functions" {
  names() { sed -nE 's/^([a-z_]+)\(\) \{.*/\1/p' "$SCRIPTS/parts/$1" | sort; }
  # What only one of them needs for itself.
  [ "$(names access-docker.sh | grep -vxE 'await|in_mount|throwaway_failed')" = \
    "$(names access-network.sh | grep -vxE 'allow_replication|own_memory_limit|receivers|replay_data|as_postgres')" ]
}

@test "every script finds its parts" {
  for script in "$SCRIPTS"/*.sh; do
    run bash "$script" check --config /nonexistent
    [[ $output != *"parts are not there"* ]] || { echo "$script: $output"; false; }
  done
}

@test "use_server says that PostgreSQL ran out of memory only if it did" {
  # Neither begins to answer; of one the engine knows that a process was killed.
  with='. "${1%/*}/parts/access-docker.sh"; ask() { "$@"; }; RUN=now ERRORS=/dev/null THROWAWAY=0123456789ab; await_throwaway() { return 1; }; killed_in() { :; }; start_throwaway() { KILLED=0; }; start_throwaway x; use_server'
  words() { bash -c 'set -uo pipefail; . "$1"; PATH=$2:$PATH; eval "$3"' sh "$SCRIPTS/restore-pg.sh" "$BATS_TEST_DIRNAME/fakes" "$with"; }
  run words
  [ "$status" -eq 13 ]
  [[ $output == *"the throwaway PostgreSQL does not begin to answer; next: "* ]]
  touch "$FAKE/starved"
  run words
  [ "$status" -eq 13 ]
  [[ $output == *"PostgreSQL ran out of memory (it does not begin to answer); next: give it more (a drill: backup.drill_memory"* ]]
}
