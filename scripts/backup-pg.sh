#!/bin/bash
# Dumps PostgreSQL databases out of their Swarm container, proves that each dump can be read,
# uploads it to S3 and compares what arrived. Root's cron runs it on the node that runs the
# database; by hand it does the same. docs/backup.md explains settings, files and exit codes.
#
# The way of the data: pg_dump (in the container) -> pipe -> compressor -> a .partial file ->
# read back to its end. Beside it the roles, and the manifest with every table's row count from
# the snapshot that was dumped. All three are renamed, uploaded, compared; the manifest last.

for COMMON in "${BASH_SOURCE[0]%/*}/parts/backup-common.sh" /usr/local/lib/backup-common.sh; do
  # shellcheck source=scripts/parts/backup-common.sh
  [[ ! -r $COMMON ]] || { . "$COMMON" && break; }
done
declare -F begin_run >/dev/null ||
  { echo "ERROR backup-common.sh is not there; next: 'inv backup.install' puts it in place" >&2 && exit 12; }

usage() {
  cat <<END
Usage: backup-pg.sh [--config FILE] [--database NAME] [--check | --help | --version]

Back up the PostgreSQL databases that /etc/backup-pg.conf names to S3.

  --config FILE    settings to use instead of /etc/backup-pg.conf
  --database NAME  only this one of them
  --check          only see whether a backup could be made: settings, tools, bucket, database

Exit codes (with several databases the first that is not 0):
   0  the backup is in the bucket, and is what was dumped
   1  unexpected failure
   2  wrong usage or settings
  10  another run is in progress
  11  no running container of the service on this node
  12  a tool is missing, or the Docker engine does not answer
  13  PostgreSQL does not answer, or refuses user or database
  14  too little free disk space to begin
  15  the disk filled up during the dump
  16  pg_dump, pg_dumpall, the counting of rows or the compressor failed
  17  the dump cannot be read back
  18  an upload failed: the backup is kept, and the next run uploads it
  19  a backup and its objects in the bucket differ, or a kept backup is damaged
  128+n  stopped by signal n
END
}

remove_unfinished() {
  exec 4>&-
  rm -rf -- "$BACKUP_DIR"/*/*.partial* "$PIECES_DIR"
}

# libdeflate holds its whole input in memory, so it gets pieces, as many at a time as there are
# cores (at most 4). Their results one after the other are one gzip file of many members.
# shellcheck disable=SC2016 # a script of its own, run by bash -c
readonly PIECES='
set -euo pipefail
work=$2 n=0 begun=() lanes=$(nproc)
((lanes <= 4)) || lanes=4
pass_on() { wait "${begun[$1]}"; cat "$work/$1.gz"; rm "$work/$1.gz"; }
while dd bs=4M count=1 iflag=fullblock status=none >"$work/$n" && [[ -s $work/$n ]]; do
  libdeflate-gzip "-$1" "$work/$n" &
  begun[n]=$!
  n=$((n + 1))
  ((n < lanes)) || pass_on $((n - lanes))
done
for ((i = n < lanes ? 0 : n - lanes + 1; i < n; i++)); do pass_on "$i"; done'

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
    COMPRESS=(bash -c "$PIECES" pieces "$level" "$PIECES_DIR")
  fi
  need "$tool"
  DECOMPRESS=(gzip -dc)
  ! command -v pigz >/dev/null || DECOMPRESS=(pigz -dc)
}

# ---- the dump ---------------------------------------------------------------------------------

# Finished backups, oldest first: their names (without what follows the time) sort by time.
backups() {
  local file
  for file in "$DIR"/backup_*Z.manifest.json; do
    [[ ! -f $file ]] || printf '%s\n' "${file%.manifest.json}"
  done
}

# An estimate: the newest dump and a fifth; without one a quarter of what the database takes.
check_space() {
  local newest free need=$((DATABASE_SIZE / 4))
  newest=$(backups | tail -n 1)
  [[ ! -f $newest.dump.gz ]] || need=$(($(stat -c %s -- "$newest.dump.gz") * 12 / 10))
  free=$(free_bytes)
  ((free >= need)) || die "$NO_SPACE" "$DIR has $free bytes free, a dump needs about $need" \
    "make room; local dumps with a file .uploaded beside them are in the bucket and may go"
}

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

# ---- which cluster ------------------------------------------------------------------------------

# The cluster that the sets up to the one with manifest $1 were of, as far as a person has accepted
# it; nothing if that was made before this was recorded.
expected_in() { sed -nE 's/^"project": .*"expected_cluster": "([0-9]*)",$/\1/p' "$1" | head -n 1; }

# Sets NEWEST, a file with the manifest of the newest set in the bucket, "" if there is none.
# Returns as aws_cli.
newest_in_bucket() {
  local days
  NEWEST=""
  for days in 40 20000; do
    list_sets "$days" || return
    ((${#SETS[@]} == 0)) || break
  done
  ((${#SETS[@]} > 0)) || return 0
  aws_cli s3 cp --only-show-errors "s3://$S3_BUCKET/$PREFIX/backup_${SETS[0]}.manifest.json" "$DIR/newest.partial" || return
  NEWEST=$DIR/newest.partial
}

# Sets EXPECTED, the cluster that this one should be, by the last set: this node's, or where it has
# none yet, the bucket's. Another one may be a database that somebody lost or put in its place: the
# manifest says so until a person has accepted it, and 'inv backup.verify' fails until then.
expect_cluster() {
  local newest
  EXPECTED="" CLUSTER=""
  [[ ! $FACTS =~ \"cluster\"\ ?:\ ?\"([0-9]+)\" ]] || CLUSTER=${BASH_REMATCH[1]}
  newest=$(backups | tail -n 1)
  if [[ -n $newest ]]; then
    EXPECTED=$(expected_in "$newest.manifest.json")
  elif newest_in_bucket; then
    [[ -z $NEWEST ]] || of_another "$(project_in "$NEWEST")" || EXPECTED=$(expected_in "$NEWEST")
  else
    log WARNING "the last set in the bucket could not be read: whether it was of this cluster is not known"
  fi
  [[ -n $EXPECTED && $EXPECTED != "$CLUSTER" ]] || { EXPECTED=$CLUSTER && return; }
  if aws_cli s3 cp --only-show-errors "s3://$S3_BUCKET/$PREFIX/cluster.json" "$DIR/accepted.partial" &&
    grep -q "\"cluster\": \"$CLUSTER\"" "$DIR/accepted.partial"; then
    EXPECTED=$CLUSTER
    return
  fi
  log WARNING "this is cluster $CLUSTER, the last set was of cluster $EXPECTED; next: 'inv backup.accept' if a new one was meant, else find out where the old one is"
}

# ---- the manifest -----------------------------------------------------------------------------

# What images run: this node's PostgreSQL, and what a deploy has noted of the rest of them.
images() {
  local service image id separator=""
  {
    ask docker inspect -f "$DB_SERVICE_NAME {{.Config.Image}} {{.Image}}" "$CONTAINER" 2>"$ERRORS" </dev/null || true
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

# Writes the manifest, and has PostgreSQL read it: what is no JSON would spoil the whole backup.
write_manifest() {
  local base=$1 version file=$1.manifest.json.partial
  version=$(ask "${ENTER[@]}" pg_dump --version </dev/null 2>"$ERRORS") || version=unknown
  cat >"$file" <<END
{"format": 1, "tool": "backup-pg.sh $VERSION", "database": $(quoted "$PG_DB"),
"started": "${STAMP:0:4}-${STAMP:4:2}-${STAMP:6:2}T${STAMP:9:2}:${STAMP:11:2}:${STAMP:13:2}Z", "seconds": $SECONDS,
"parts": {$(part dump "$base.dump.gz.partial" "$PREFIX/${base##*/}.dump.gz" "$DUMP_SUM"),
$(part globals "$base.globals.sql.gz.partial" "$PREFIX/${base##*/}.globals.sql.gz" "$GLOBALS_SUM")},
"project": $(project_json), "expected_cluster": "$EXPECTED",
"pg_dump_version": $(quoted "$version"),
"images": {$(images)},
${FACTS:1:-1},
"rows": $ROWS}
END
  {
    printf 'SELECT json_typeof('
    sql_text "$file"
    printf '::json);\n'
  } >"$DIR/question.partial"
  [[ $(ask "${ENTER[@]}" psql -XAtqw -v ON_ERROR_STOP=1 2>"$ERRORS" <"$DIR/question.partial") == object ]] || {
    tell psql "$ERRORS"
    die "$DUMP_FAILED" "the manifest is no JSON" "report it, with $PG_DB's names of tables"
  }
}

# Makes the parts of a set final: all flushed to disk, the manifest last. Together with what
# `sha256sum -c` reads.
keep() {
  local base=$1 end
  printf '%s  %s\n' "$DUMP_SUM" "${base##*/}.dump.gz" "$GLOBALS_SUM" "${base##*/}.globals.sql.gz" \
    "$(sum_of "$base.manifest.json.partial")" "${base##*/}.manifest.json" >"$base.sha256"
  sync -- "$base.sha256" "$base".*.partial
  for end in dump.gz globals.sql.gz manifest.json; do
    mv -- "$base.$end.partial" "$base.$end"
  done
}

# ---- the bucket -------------------------------------------------------------------------------

# Uploads a finished backup, the manifest last, and marks it as uploaded. Returns as upload does.
deliver() {
  local base=$1 sum name
  while read -r sum name; do
    send "$DIR/$name" "$PREFIX/$name" "$sum" || return
  done <"$base.sha256"
  arrived "$PREFIX/${base##*/}." || return
  : >"$base.uploaded"
}

# Uploads what earlier runs could not, oldest first, up to the first failure. It comes after the
# new dump, which must not wait for these. Returns as upload does.
deliver_leftovers() {
  local base list
  mapfile -t list < <(backups)
  for base in "${list[@]}"; do
    [[ ! -e $base.uploaded ]] || continue
    if ! (cd -- "$DIR" && sha256sum --status -c -- "$base.sha256") 2>/dev/null; then
      log ERROR "$base.* is damaged: its .sha256 says otherwise; next: delete these files"
      return "$BAD_OBJECT"
    fi
    deliver "$base" || return
    log INFO "uploaded what an earlier run could not: key=$PREFIX/${base##*/}.manifest.json"
  done
}

# Removes backups older than KEEP_LOCAL_DAYS, by the time in their names; never the newest, and
# never one that is not in the bucket.
prune() {
  local cutoff base list
  cutoff=backup_$(date -u -d "-$KEEP_LOCAL_DAYS days" +%Y%m%dT%H%M%SZ)
  mapfile -t list < <(backups)
  for base in "${list[@]:0:${#list[@]}-1}"; do
    [[ -e $base.uploaded && ${base##*/} < $cutoff ]] || continue
    # The manifest first: what lacks it does not count.
    rm -f -- "$base.manifest.json" "$base.dump.gz" "$base.globals.sql.gz" "$base.sha256" "$base.uploaded"
    log INFO "removed $base.*: in the bucket, and older than $KEEP_LOCAL_DAYS days"
  done
}

# ---- what it does -----------------------------------------------------------------------------

prepare() {
  need aws docker flock gzip mkfifo paste setpriv sha256sum timeout
  PIECES_DIR=""
  take_lock "$BACKUP_DIR"
  PIECES_DIR=/dev/shm/backup-pieces.$(stat -c %d-%i -- "$BACKUP_DIR/.lock") # one for each lock
  rm -rf -- "$PIECES_DIR"
  mkdir -m 700 -- "$PIECES_DIR"
  use_database "$1"
  ERRORS=$DIR/errors.partial
  choose_compression
}

backup() {
  local base=$DIR/backup_$STAMP code=0 bytes
  find_container
  check_space
  [[ ! -e $base.dump.gz ]] || die "$UNEXPECTED" "$base.dump.gz exists already" "see whether this node's clock is right"
  log INFO "dumping database=$PG_DB container=$CONTAINER compression=$COMPRESSOR"
  open_session
  make_pipe
  dump "$base.dump.gz.partial"
  verify "$base.dump.gz.partial"
  close_session
  expect_cluster
  dump_globals "$base.globals.sql.gz.partial"
  bytes=$(stat -c %s -- "$base.dump.gz.partial")
  DUMP_SUM=$(sum_of "$base.dump.gz.partial")
  GLOBALS_SUM=$(sum_of "$base.globals.sql.gz.partial")
  write_manifest "$base"
  keep "$base"
  log INFO "dumped and read back bytes=$bytes seconds=$SECONDS, uploading"
  deliver "$base" || quit $?
  log INFO "backup complete database=$PG_DB bytes=$bytes seconds=$SECONDS key=$PREFIX/${base##*/}.manifest.json"
  deliver_leftovers || code=$?
  prune
  quit "$code"
}

# The bucket comes before the container: a node that does not run the database now is checked too.
check() {
  local probe=$DIR/write-check.partial other
  newest_in_bucket || {
    bucket_failed "s3://$S3_BUCKET/$PREFIX/ could not be read"
    quit "$UPLOAD_FAILED"
  }
  if [[ -n $NEWEST ]] && other=$(project_in "$NEWEST") && of_another "$other"; then
    die "$USAGE" "s3://$S3_BUCKET/$PREFIX/ is where another project ($other) has its backups" \
      "give this one a name of its own: 'project:' in hosts.yaml; then inv backup.install"
  fi
  echo "backup-pg.sh --check may write here" >"$probe"
  upload "$probe" "$PREFIX/.write-check" "$(sum_of "$probe")" || quit $?
  find_container
  check_space
  log INFO "ready: bucket s3://$S3_BUCKET, container $CONTAINER, database $PG_DB"
}

# Runs itself for every database: one's failure does not keep the others from being backed up.
each_database() {
  local database code=0
  for database in $PG_DB; do
    setpriv --pdeathsig TERM "$0" "$@" --database "$database" &
    CHILDREN=("$!")
    finish "$!"
    ((code != 0)) || code=$STATUS
  done
  quit "$code"
}

main() {
  local config=/etc/backup-pg.conf action=backup database="" given=("$@")
  begin_run
  while (($# > 0)); do
    case $1 in
      --config) shift && config=${1-} ;;
      --database) shift && database=${1-} ;;
      --check) action=check ;;
      --help) usage && exit ;;
      --version) echo "backup-pg.sh $VERSION" && exit ;;
      *) usage >&2 && quit "$USAGE" ;;
    esac
    shift || true
  done
  load_config "$config"
  [[ -n $database || $PG_DB != *' '* ]] || each_database "${given[@]}"
  prepare "${database:-$PG_DB}"
  "$action"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  main "$@"
fi
