#!/bin/bash
# shellcheck disable=SC2034,SC2153 # used by those that source this, set by those before it
# How a set is made: a session that holds a snapshot, the dump through a compressor, reading it back,
# roles, the manifest. Sourced by backup-pg.sh and restore-pg.sh, never run.

# ---- compressing ------------------------------------------------------------------------------

# Makes PIECES_DIR, a folder in memory: one for each lock, so that whoever has it removes what a run
# that was killed has left.
make_pieces_folder() {
  PIECES_DIR=/dev/shm/backup-pieces.$(stat -L -c %d-%i /proc/self/fd/9)
  rm -rf -- "$PIECES_DIR"
  mkdir -m 700 -- "$PIECES_DIR"
}

# Compresses stdin with libdeflate, level $1; pieces are in folder $2. libdeflate holds its whole
# input in memory, so it gets pieces, as many at a time as there are cores (at most 4). Their results
# one after the other are one gzip file of many members.
compress_in_pieces() {
  local level=$1 work=$2 n=0 i begun=() lanes
  lanes=$(nproc)
  ((lanes <= 4)) || lanes=4
  while dd bs=4M count=1 iflag=fullblock status=none >"$work/$n" && [[ -s $work/$n ]]; do
    libdeflate-gzip "-$level" "$work/$n" &
    begun[n]=$!
    n=$((n + 1))
    ((n < lanes)) || pass_piece_on $((n - lanes)) || return
  done
  for ((i = n < lanes ? 0 : n - lanes + 1; i < n; i++)); do pass_piece_on "$i" || return; done
}

# Writes compressed piece $1 to stdout, once it is finished.
pass_piece_on() { wait "${begun[$1]}" && cat "$work/$1.gz" && rm "$work/$1.gz"; }

# Sets COMPRESSOR, its words COMPRESS, and DECOMPRESS. "auto" is the fastest that stays within 5 %
# of gzip -6 whatever the data. libdeflate-6 does (-11 to +1 %) in a quarter of gzip's time on one
# core; pigz -5 was up to 7 % larger, so without libdeflate it is pigz -6.
choose_compression() {
  COMPRESSOR=$COMPRESSION
  if [[ $COMPRESSOR == auto ]]; then
    COMPRESSOR=gzip-6
    ! command -v pigz >/dev/null || COMPRESSOR=pigz-6
    ! command -v libdeflate-gzip >/dev/null || COMPRESSOR=libdeflate-6
  fi
  local tool=${COMPRESSOR%-*} level=${COMPRESSOR##*-}
  COMPRESS=("$tool" "-$level" -c)
  if [[ $tool == libdeflate ]]; then
    tool=libdeflate-gzip
    # In a process of its own, which can be given a time-out and ended as any other program.
    export -f compress_in_pieces pass_piece_on
    COMPRESS=(bash -c 'set -euo pipefail; compress_in_pieces "$@"' pieces "$level" "$PIECES_DIR")
  fi
  need "$tool"
  DECOMPRESS=(gzip -dc)
  ! command -v pigz >/dev/null || DECOMPRESS=(pigz -dc)
}

# ---- the dump ---------------------------------------------------------------------------------

# The facts of the manifest that PostgreSQL knows, as one line of JSON. Columns that came or went
# between the versions are looked for by name. acl is null where nobody has changed who may do
# what with the database; a grantee of null is everybody, a role of null means all roles.
readonly FACTS_SQL="
SELECT json_build_object(
  'server_version', current_setting('server_version'),
  'server_version_num', current_setting('server_version_num')::int,
  'encoding', pg_encoding_to_char(d.encoding), 'collate', d.datcollate, 'ctype', d.datctype,
  'locale_provider', coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),
  'icu_locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
  'owner', pg_get_userbyid(d.datdba), 'connection_limit', d.datconnlimit,
  'acl', CASE WHEN d.datacl IS NOT NULL THEN coalesce((SELECT jsonb_agg(jsonb_build_object(
      'grantee', CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END,
      'privilege', a.privilege_type, 'grantable', a.is_grantable)) FROM aclexplode(d.datacl) a), '[]') END,
  'settings', (SELECT jsonb_agg(jsonb_build_object('role', r.rolname, 'setting', setting))
    FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) setting
    WHERE s.setdatabase = d.oid),
  'size', pg_database_size(d.oid),
  'cluster', (SELECT system_identifier::text FROM pg_control_system()),
  'extensions', (SELECT json_object_agg(extname, extversion) FROM pg_extension))
FROM pg_database d WHERE d.datname = current_database();
"

# Opens a session in the database and sets SNAPSHOT, which pg_dump is to share: what the session
# says of the database, while pg_dump works, is true of exactly what is dumped.
open_session() {
  local end=$((SECONDS + 60)) counts=""
  [[ $COUNT_ROWS == no ]] || counts=$COUNT_SQL
  rm -f -- "$DIR/session.partial"
  mkfifo -- "$DIR/session.partial"
  exec 4<>"$DIR/session.partial"
  enter "$CONTAINER"
  start "${ENTER[@]}" psql -XAtqw -v ON_ERROR_STOP=1 <"$DIR/session.partial" 4>&- \
    >"$DIR/facts.partial" 2>"$DIR/psql.partial"
  SESSION=$STARTED
  # Neither a time-out of the server's nor its parallel workers: those are for its clients.
  cat >&4 <<END
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL lock_timeout = '10min';
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL max_parallel_workers_per_gather = 0;
DO \$\$ BEGIN IF current_setting('server_version_num')::int >= 170000
THEN SET LOCAL transaction_timeout = 0; END IF; END \$\$;
SELECT pg_export_snapshot();
$FACTS_SQL
$counts
\\echo end
END
  until SNAPSHOT=$(head -n 1 "$DIR/facts.partial") && [[ $SNAPSHOT =~ ^[0-9A-Fa-f-]+$ ]]; do
    if ! kill -0 "$SESSION" 2>/dev/null || ((SECONDS >= end)); then
      session_failed
    fi
    sleep 0.05
  done
}

session_failed() {
  tell psql "$DIR/psql.partial"
  die "$DUMP_FAILED" "PostgreSQL could not be asked about database $PG_DB and its rows" \
    "see the lines above and 'docker logs $CONTAINER'; backup.count_rows: false leaves the rows out"
}

# Waits for the session's last words and sets FACTS, and ROWS, both in JSON.
close_session() {
  exec 4>&-
  finish "$SESSION"
  ((STATUS == 0)) && [[ $(tail -n 1 "$DIR/facts.partial") == end ]] || session_failed
  FACTS=$(sed -n 2p "$DIR/facts.partial")
  ROWS=null
  [[ $COUNT_ROWS == no ]] || ROWS="{$(sed '1,2d;$d' "$DIR/facts.partial" | paste -sd ,)}"
}

# How many rows all tables have; nothing where they were not counted.
total_rows() { [[ $COUNT_ROWS == no ]] || sed '1,2d;$d' "$DIR/facts.partial" | awk '{ n += $NF } END { printf "%.0f\n", n }'; }

# Waiting for a lock, pg_dump would not notice that its reader has gone: hence the time-out.
dump() {
  local target=$1 compressor
  open_pipe
  start "${COMPRESS[@]}" <&7 4>&- 8>&- >"$target" 2>"$ERRORS"
  compressor=$STARTED
  start "${ENTER[@]}" pg_dump -Fc -Z0 -w --lock-wait-timeout=10min "--snapshot=$SNAPSHOT" \
    >&8 4>&- 7<&- 2>"$DIR/pg.partial" </dev/null
  close_pipe "$STARTED" "$compressor" && return
  (($(free_bytes) >= 1048576)) ||
    die "$DISK_FULL" "the disk of $DIR filled up, the unfinished dump is removed" "make room and run it again"
  tell "$COMPRESSOR" "$ERRORS"
  tell pg_dump "$DIR/pg.partial"
  die "$DUMP_FAILED" "the dump failed (exit codes: pg_dump $THERE, $COMPRESSOR $HERE) and is removed" \
    "see the lines above and 'docker logs $CONTAINER'; 124 means longer than STEP_TIMEOUT"
}

# A dump counts once it was read to its end: the gzip stream with its checksums, and every block
# of the archive. (pg_restore --list does not notice that an archive is cut off.)
verify() {
  local target=$1 reader
  open_pipe
  start "${ENTER[@]}" pg_restore -f /dev/null <&7 8>&- >/dev/null 2>"$ERRORS"
  reader=$STARTED
  start "${DECOMPRESS[@]}" <"$target" >&8 7<&- 2>"$DIR/gz.partial"
  close_pipe "$reader" "$STARTED" && return
  tell "${DECOMPRESS[0]}" "$DIR/gz.partial"
  tell pg_restore "$ERRORS"
  die "$BAD_DUMP" "the dump cannot be read back (exit codes: pg_restore $THERE, ${DECOMPRESS[0]} $HERE) and is removed" \
    "see the lines above, 'docker logs $CONTAINER', and this node's disk and memory"
}

# Roles and what else is not of one database, into file $1. Its last line shows that it is whole.
dump_globals() {
  local options=(--globals-only -w)
  enter "$CONTAINER"
  if ! ask "${ENTER[@]}" pg_dumpall "${options[@]}" >"$DIR/globals.partial" 2>"$ERRORS" </dev/null &&
    grep -q 'permission denied.*pg_authid' "$ERRORS"; then
    log WARNING "user $PG_USER may not read passwords of roles: they are not in the backup"
    options+=(--no-role-passwords)
    ask "${ENTER[@]}" pg_dumpall "${options[@]}" >"$DIR/globals.partial" 2>"$ERRORS" </dev/null || true
  fi
  if ! grep -q '^-- PostgreSQL database cluster dump complete' "$DIR/globals.partial"; then
    tell pg_dumpall "$ERRORS"
    die "$DUMP_FAILED" "the roles could not be dumped" "see the lines above and 'docker logs $CONTAINER'"
  fi
  gzip -6 -c <"$DIR/globals.partial" >"$1"
}

# ---- the manifest -----------------------------------------------------------------------------

# What images run: this node's PostgreSQL, and what a deploy has noted of the rest of them.
images() {
  local service image id separator=""
  {
    described_image
    grep -v "^$DB_SERVICE_NAME " "${IMAGES_FILE:-/etc/backup-pg.images}" 2>/dev/null || true
  } | while read -r service image id; do
    # The digest of a registry's image is part of its name; else the image's own hash tells.
    [[ $image == *@* || -z $id ]] || image+="@$id"
    printf '%s%s: %s' "$separator" "$(quoted "$service")" "$(quoted "$image")"
    separator=", "
  done
}

# One part of the manifest: its name $1, file $2, key $3 and SHA-256 $4.
part() {
  printf '%s: {"key": %s, "bytes": %s, "sha256": "%s"}' \
    "$(quoted "$1")" "$(quoted "$3")" "$(stat -c %s -- "$2")" "$4"
}

# The parts of the set $1, two lines of the manifest.
parts_json() {
  local name=${1##*/}
  printf '"parts": {%s,\n%s},%s\n' "$(part dump "$1.dump.gz$AGE.partial" "$PREFIX/$name.dump.gz$AGE" "$DUMP_SUM")" \
    "$(part globals "$1.globals.sql.gz$AGE.partial" "$PREFIX/$name.globals.sql.gz$AGE" "$GLOBALS_SUM")" "$(recipients_json)"
}

# Sets what the manifest says of the database: FACTS, ROWS and IMAGES, in JSON; and DETAILS, where only those
# who have an identity may read all of it. Then what is left in clear is what verify needs.
set_apart_details() {
  local name clear="" private=$DIR/details.partial
  DETAILS=""
  [[ $MANIFEST_MODE == encrypted && -n $AGE ]] || return 0
  printf '{%s,"images":{%s},"rows":%s}' "${FACTS:1:-1}" "$IMAGES" "$ROWS" >"$private"
  is_json "$private"
  encrypt "$private" "$private.age" || quit "$DUMP_FAILED"
  DETAILS=$(base64 -w 0 <"$private.age")
  for name in server_version server_version_num size cluster; do
    [[ ! $FACTS =~ \"$name\"\ ?:\ ?(\"[^\"\\]*\"|[0-9]+) ]] || clear+=", \"$name\": ${BASH_REMATCH[1]}"
  done
  FACTS="{${clear#, }}" ROWS=null IMAGES=""
}

details_json() { [[ -z $DETAILS ]] || printf '\n"details": "%s",' "$DETAILS"; }

# Ends the run if PostgreSQL cannot read file $1 as a JSON object.
is_json() {
  {
    printf 'SELECT json_typeof('
    sql_text "$1"
    printf '::json);\n'
  } >"$DIR/question.partial"
  [[ $(ask "${ENTER[@]}" psql -XAtqw -v ON_ERROR_STOP=1 2>"$ERRORS" <"$DIR/question.partial") == object ]] || {
    tell psql "$ERRORS"
    die "$DUMP_FAILED" "the manifest is no JSON" "report it, with $PG_DB's names of tables"
  }
}

# Writes the manifest, and has PostgreSQL read it: what is no JSON would spoil the whole backup.
write_manifest() {
  local base=$1 version file=$1.manifest.json.partial
  version=$(ask "${ENTER[@]}" pg_dump --version </dev/null 2>"$ERRORS") || version=unknown
  IMAGES=$(images)
  set_apart_details
  cat >"$file" <<END
{"format": 1, "tool": "backup-pg.sh $VERSION", "database": $(quoted "$PG_DB"),
"started": "${STAMP:0:4}-${STAMP:4:2}-${STAMP:6:2}T${STAMP:9:2}:${STAMP:11:2}:${STAMP:13:2}Z", "seconds": $SECONDS,
$(parts_json "$base")
"project": $(project_json), "expected_cluster": "$EXPECTED",
"pg_dump_version": $(quoted "$version"),
"images": {$IMAGES},$(details_json)
${FACTS:1:-1},
"rows": $ROWS}
END
  is_json "$file"
}
