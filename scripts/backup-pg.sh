#!/bin/bash
# shellcheck disable=SC2034,SC2153 # used by its parts, set by them
# Dumps PostgreSQL databases out of their Swarm container, proves that each dump can be read,
# uploads it to S3 and compares what arrived. Root's cron runs it on the node that runs the
# database; by hand it does the same. docs/backup.md explains settings, files and exit codes.
#
# The way of the data (parts/backup-set.sh): pg_dump (in the container) -> pipe -> compressor -> a .partial file ->
# read back to its end. Beside it the roles, and the manifest with every table's row count from
# the snapshot that was dumped. All three are renamed, uploaded, compared; the manifest last.

for PART in backup-common backup-set; do
  for FOLDER in "${BASH_SOURCE[0]%/*}/parts" /usr/local/lib; do
    # shellcheck source=/dev/null
    [[ ! -r $FOLDER/$PART.sh ]] || { . "$FOLDER/$PART.sh" && break; }
  done
done
declare -F begin_run open_session >/dev/null ||
  { echo "ERROR its parts are not there; next: 'inv backup.install' puts them in place" >&2 && exit 12; }

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
  16  pg_dump, pg_dumpall, the counting of rows, the compressor or age failed
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

# ---- before the dump --------------------------------------------------------------------------

# Finished backups, oldest first: their names (without what follows the time) sort by time.
backups() {
  local file
  for file in "$DIR"/backup_*Z.manifest.json; do
    [[ ! -f $file ]] || printf '%s\n' "${file%.manifest.json}"
  done
}

# An estimate: the newest dump and a fifth; without one a quarter of what the database takes. While it is
# encrypted, it is there twice.
check_space() {
  local newest free need=$((DATABASE_SIZE / 4))
  newest=$(backups | tail -n 1)
  newest=$(name_of "$newest.dump.gz")
  [[ ! -f $newest ]] || need=$(($(stat -c %s -- "$newest") * 12 / 10))
  [[ -z $AGE ]] || need=$((need * 2))
  free=$(free_bytes)
  ((free >= need)) || die "$NO_SPACE" "$DIR has $free bytes free, a dump needs about $need" \
    "make room; local dumps with a file .uploaded beside them are in the bucket and may go"
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
    read_sets
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

# ---- final names ------------------------------------------------------------------------------

# Makes the parts of a set final: all flushed to disk, the manifest last. Together with what
# `sha256sum -c` reads.
keep() {
  local base=$1 end
  printf '%s  %s\n' "$DUMP_SUM" "${base##*/}.dump.gz$AGE" "$GLOBALS_SUM" "${base##*/}.globals.sql.gz$AGE" \
    "$(sum_of "$base.manifest.json.partial")" "${base##*/}.manifest.json" >"$base.sha256"
  sync -- "$base.sha256" "$base".*.partial
  for end in "dump.gz$AGE" "globals.sql.gz$AGE" manifest.json; do
    mv -- "$base.$end.partial" "$base.$end"
  done
}

# ---- the bucket -------------------------------------------------------------------------------

# Uploads a finished backup, the manifest once its parts have arrived, and marks it as uploaded.
# Returns as send does.
deliver() {
  local base=$1
  side_by_side "send_part dump.gz" "send_part globals.sql.gz" || return
  send_part manifest.json || return
  : >"$base.uploaded"
}

# Uploads the file of $base with the end $1.
send_part() {
  local name
  name=$(name_of "$base.$1")
  name=${name##*/}
  send "$DIR/$name" "$PREFIX/$name" "$(sed -n "s/  $name\$//p" "$base.sha256")"
}

# Uploads what earlier runs could not, oldest first, up to the first failure. It comes after the
# new dump, which must not wait for these. Returns as send does.
deliver_leftovers() {
  local base list
  mapfile -t list < <(backups)
  for base in "${list[@]}"; do
    [[ ! -e $base.uploaded ]] || continue
    if ! (cd -- "$DIR" && sha256sum --status -c -- "$base.sha256") 2>/dev/null; then
      log ERROR "$base.* is damaged: its .sha256 says otherwise; next: delete these files"
      return "$BAD_OBJECT"
    fi
    if [[ -n $AGE && ! -f $base.dump.gz.age ]]; then
      deliver_encrypted "$base" || return
    else
      deliver "$base" || return
    fi
    log INFO "uploaded what an earlier run could not: key=$PREFIX/${base##*/}.manifest.json"
  done
}

# Uploads a set that was made when the settings named no recipients yet: nothing goes up in clear after
# they do. The one on this node stays as it is. Returns 0 or the exit code to take.
deliver_encrypted() {
  local base=$1 file end
  for end in dump.gz globals.sql.gz; do
    cp -- "$base.$end" "$base.$end.partial" && encrypt "$base.$end.partial" "$base.$end.age.partial" || return "$DUMP_FAILED"
  done
  DUMP_SUM=$(sum_of "$base.dump.gz.age.partial") GLOBALS_SUM=$(sum_of "$base.globals.sql.gz.age.partial")
  encrypted_manifest "$base" >"$base.manifest.json.partial"
  is_json "$base.manifest.json.partial"
  for end in dump.gz.age globals.sql.gz.age manifest.json; do
    file=$base.$end.partial
    send "$file" "$PREFIX/${base##*/}.$end" "$(sum_of "$file")" || return
    rm -f -- "$file"
  done
  : >"$base.uploaded"
}

# The manifest of the set $1, which was made in clear, for what goes up encrypted.
encrypted_manifest() {
  local line file=$1.manifest.json
  IMAGES=$(sed -n 's/^"images": {\(.*\)},$/\1/p' "$file")
  FACTS="{$(sed -n 's/^\("server_version" .*\),$/\1/p' "$file")}"
  ROWS=$(sed -n 's/^"rows": \(.*\)}$/\1/p' "$file")
  set_apart_details
  while IFS= read -r line; do
    case $line in
      '"parts": '*) parts_json "$1" ;;
      '"globals": '*) ;;
      '"images": '*) [[ -n $DETAILS ]] && printf '"images": {},%s\n' "$(details_json)" || printf '%s\n' "$line" ;;
      '"server_version" '*) [[ -n $DETAILS ]] && printf '%s,\n' "${FACTS:1:-1}" || printf '%s\n' "$line" ;;
      '"rows": '*) printf '"rows": %s}\n' "$ROWS" ;;
      *) printf '%s\n' "$line" ;;
    esac
  done <"$file"
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
    rm -f -- "$base.manifest.json" "$base".{dump,globals.sql}.gz{,.age} "$base.sha256" "$base.uploaded"
    log INFO "removed $base.*: in the bucket, and older than $KEEP_LOCAL_DAYS days"
  done
}

# ---- what it does -----------------------------------------------------------------------------

prepare() {
  need "$(access_tools)" aws flock gzip md5sum mkfifo paste setpriv sha256sum timeout
  PIECES_DIR=""
  take_lock "$BACKUP_DIR"
  make_pieces_folder
  use_database "$1"
  ERRORS=$DIR/errors.partial
  choose_compression
  use_recipients
  use_identity_of_drills
}

backup() {
  local base=$DIR/backup_$STAMP code=0 bytes
  find_container
  ping_start
  check_space
  [[ ! -e $(name_of "$base.dump.gz") ]] || die "$UNEXPECTED" "$base.dump.gz exists already" "see whether this node's clock is right"
  log INFO "dumping database=$PG_DB container=$CONTAINER compression=$COMPRESSOR"
  open_session
  make_pipe
  dump "$base.dump.gz.partial"
  verify "$base.dump.gz.partial"
  close_session
  expect_cluster
  dump_globals "$base.globals.sql.gz.partial"
  if [[ -n $AGE ]]; then
    encrypt "$base.dump.gz.partial" "$base.dump.gz.age.partial" || quit "$DUMP_FAILED"
    encrypt "$base.globals.sql.gz.partial" "$base.globals.sql.gz.age.partial" || quit "$DUMP_FAILED"
  fi
  bytes=$(stat -c %s -- "$base.dump.gz$AGE.partial")
  DUMP_SUM=$(sum_of "$base.dump.gz$AGE.partial")
  GLOBALS_SUM=$(sum_of "$base.globals.sql.gz$AGE.partial")
  write_manifest "$base"
  keep "$base"
  log INFO "dumped and read back bytes=$bytes seconds=$SECONDS, uploading"
  deliver "$base" || quit $?
  succeeded size_bytes="$bytes" rows="$(total_rows)"
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
  send "$probe" "$PREFIX/.write-check" "$(sum_of "$probe")" || quit $?
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
  [[ $action != backup ]] || report_as backup "${database:-$PG_DB}"
  prepare "${database:-$PG_DB}"
  "$action"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  main "$@"
fi
