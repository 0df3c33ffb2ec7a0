#!/bin/bash
# Dumps one PostgreSQL database out of its Swarm container, proves that the dump can be read,
# uploads it to S3 and compares what arrived. Root's cron runs it on the node that runs the
# database; by hand it does the same. docs/backup.md explains settings, files and exit codes.
#
# The way of the data: pg_dump (in the container) -> pipe -> compressor -> a .partial file ->
# read back to its end -> renamed -> uploaded -> compared -> old local dumps removed.

readonly VERSION=0.1.0
readonly UNEXPECTED=1 USAGE=2 LOCKED=10 NO_CONTAINER=11 NO_TOOLS=12 NO_DATABASE=13 NO_SPACE=14 \
  DISK_FULL=15 DUMP_FAILED=16 BAD_DUMP=17 UPLOAD_FAILED=18 BAD_OBJECT=19

usage() {
  cat <<EOF
Usage: backup-pg.sh [--config FILE] [--check | --help | --version]

Back up the PostgreSQL database that /etc/backup-pg.conf names to S3.

  --config FILE  settings to use instead of /etc/backup-pg.conf
  --check        only see whether a backup could be made: settings, tools, bucket, database

Exit codes:
   0  the dump is in the bucket, and is what was dumped
   1  unexpected failure
   2  wrong usage or settings
  10  another run is in progress
  11  no running container of the service on this node
  12  a tool is missing, or the Docker engine does not answer
  13  PostgreSQL does not answer, or refuses user or database
  14  too little free disk space to begin
  15  the disk filled up during the dump
  16  pg_dump or the compressor failed
  17  the dump cannot be read back
  18  an upload failed: the dump is kept, and the next run uploads it
  19  a dump and its object in the bucket differ, or a kept dump is damaged
  128+n  stopped by signal n
EOF
}

log() {
  printf '%s %s run=%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1" "$RUN" "${2//[[:cntrl:]]/ }" >&2
}

# Ends the run with exit code $1, whose reason is in the log by now.
quit() {
  EXPLAINED=yes
  exit "$1"
}

# Ends the run with exit code $1: what happened $2, what to do $3.
die() {
  log ERROR "$2; next: $3"
  quit "$1"
}

# Logs the last words of tool $1, which are in file $2.
tell() {
  local line
  while IFS= read -r line; do
    [[ -z $line ]] || log ERROR "$1: $line"
  done < <(tail -n 5 -- "$2" 2>/dev/null)
}

# ---- settings ---------------------------------------------------------------------------------

load_config() {
  local file=$1 owner mode name='[A-Za-z_][A-Za-z0-9_.-]{0,62}'
  [[ -f $file && -r $file ]] ||
    die $USAGE "$file: no such settings file, or not readable" "'inv backup.install' makes it"
  read -r owner mode < <(stat -L -c '%u %a' -- "$file")
  (((owner == 0 || owner == EUID) && (8#$mode & 8#077) == 0)) ||
    die $USAGE "$file: others could read or change it" "chown root '$file' && chmod 600 '$file'"
  unset PG_DB PG_USER DB_SERVICE_NAME S3_BUCKET AWS_REGION
  S3_ENDPOINT_URL="" BACKUP_DIR=/var/backups/postgres KEEP_LOCAL_DAYS=7 COMPRESSION=auto STEP_TIMEOUT=21600
  # shellcheck source=/dev/null
  . "$file" || die $USAGE "$file: is not valid shell" "write lines like PG_DB='nocodb'"
  setting PG_DB "$name"
  setting PG_USER "$name"
  setting DB_SERVICE_NAME '[A-Za-z0-9][A-Za-z0-9_.-]*'
  setting S3_BUCKET '[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]'
  setting AWS_REGION '[a-z0-9][a-z0-9-]*'
  setting S3_ENDPOINT_URL '(https?://[^[:space:]]+)?'
  setting BACKUP_DIR '/[^[:cntrl:]]+'
  setting KEEP_LOCAL_DAYS '[0-9]{1,4}'
  setting STEP_TIMEOUT '[0-9]{1,9}'
  setting COMPRESSION 'auto|(gzip|pigz)-[1-9]|igzip-[0-3]|libdeflate-([1-9]|1[0-2])'
  DIR=$BACKUP_DIR/$PG_DB PREFIX=postgres/$PG_DB
  export PATH AWS_DEFAULT_REGION=$AWS_REGION AWS_PAGER=
  [[ -z ${AWS_SHARED_CREDENTIALS_FILE:-} ]] || export AWS_SHARED_CREDENTIALS_FILE
}

# Refuses setting $1 unless it has the form $2: they go into keys, paths and commands.
setting() {
  [[ ${!1-} =~ ^($2)$ ]] ||
    die $USAGE "setting $1: '${!1-}' is missing or not allowed" "docs/backup.md lists the settings"
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

need() {
  local tool
  for tool; do
    command -v "$tool" >/dev/null ||
      die $NO_TOOLS "$tool is not installed" "'inv backup.install' does it, or apt-get install"
  done
}

# ---- processes --------------------------------------------------------------------------------

# Starts a program in the background, since bash heeds signals while it waits but not while it
# runs one, and sets STARTED. The program ends with this script, even if that is killed hard, and
# does not hold the lock.
start() {
  setpriv --pdeathsig TERM timeout --kill-after=10 "$STEP_TIMEOUT" "$@" <&0 9>&- &
  STARTED=$!
  CHILDREN+=("$STARTED")
}

# Sets STATUS to the exit code of a started program.
finish() {
  STATUS=0
  wait "$1" 2>/dev/null || STATUS=$? # without bash's own word on who was killed
}

# Runs a program that answers at once or never.
ask() { timeout --kill-after=5 60 "$@"; }

# Whoever has the lock is alone: what is unfinished is ours, or of a run that was killed.
remove_unfinished() { rm -rf -- "$DIR"/*.partial* "$PIECES_DIR"; }

cleanup() {
  local code=$?
  trap - EXIT
  trap '' HUP INT TERM
  set +e
  if ((code != 0)) && [[ -z $EXPLAINED ]]; then
    log ERROR "unexpected failure$WHERE (exit code $code); next: report it with these lines"
    code=$UNEXPECTED
  fi
  ((${#CHILDREN[@]} == 0)) || kill -- "${CHILDREN[@]}" 2>/dev/null
  wait
  [[ -z $PIPE_DIR ]] || rm -rf -- "$PIPE_DIR"
  [[ -z $HAVE_LOCK ]] || remove_unfinished
  exit "$code"
}

on_signal() {
  log ERROR "stopped by SIG$1, an unfinished dump is removed, a finished one kept; next: run it again"
  quit $((128 + $(kill -l "$1")))
}

# ---- the database's container -----------------------------------------------------------------

# What sh runs in the container. Where the server asks for a password even on its local socket,
# that comes from the container's own secret and never leaves it. The pipe is opened for both
# directions first, because opening a FIFO for one of them waits for somebody at the other end.
# shellcheck disable=SC2016 # expanded in the container
readonly INSIDE='
if [ -r "${POSTGRES_PASSWORD_FILE:-}" ]; then POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE"); fi
if [ -n "${POSTGRES_PASSWORD:-}" ]; then export PGPASSWORD="$POSTGRES_PASSWORD"; fi
case $PIPE:$1 in
  /*:pg_dump) exec 3<>"$PIPE" >"$PIPE" 3>&- ;;
  /*:pg_restore) exec 3<>"$PIPE" <"$PIPE" 3>&- ;;
esac
exec "$@"'

# Sets ENTER, the words that run a program in container $1. Its data goes through the FIFO $2
# in there, or without one through docker exec, whose stdin -i connects.
enter() {
  ENTER=(docker exec -e "PGDATABASE=$PG_DB" -e "PGUSER=$PG_USER" -e PGCONNECT_TIMEOUT=10 -e LC_ALL=C
    -e "PIPE=${2:-}")
  [[ -n ${2:-} ]] || ENTER+=(-i)
  ENTER+=("$1" sh -c "$INSIDE" sh)
}

# Sets CONTAINER, the service's container on this node, and DATABASE_SIZE, its bytes on disk.
# Several run while an update is under way; they share the data. The newest that answers is it.
find_container() {
  local ids id size
  ids=$(ask docker ps -q --filter "label=com.docker.swarm.service.name=$DB_SERVICE_NAME" \
    --filter status=running 2>"$ERRORS") || {
    tell docker "$ERRORS"
    die $NO_TOOLS "the Docker engine does not answer" "see 'systemctl status docker' on this node"
  }
  [[ -n $ids ]] || die $NO_CONTAINER "service $DB_SERVICE_NAME has no running container on this node" \
    "if it runs on another node, that one makes the backup; else 'docker service ps $DB_SERVICE_NAME'"
  for id in $ids; do
    enter "$id"
    if size=$(ask "${ENTER[@]}" psql -XAtqw -c 'SELECT pg_database_size(current_database())' \
      2>"$ERRORS" </dev/null) && [[ $size =~ ^[0-9]+$ ]]; then
      CONTAINER=$id DATABASE_SIZE=$size
      return
    fi
  done
  tell psql "$ERRORS"
  die $NO_DATABASE "PostgreSQL in container $id does not answer user $PG_USER for database $PG_DB" \
    "check pg_db and pg_user, and 'docker logs $id'"
}

# docker exec's own stdin and stdout carry 70-100 MB/s and burn a core doing so. A FIFO in the
# container's /dev/shm is a plain kernel pipe between pg_dump and the compressor. Where the
# container's files are out of reach (rootless Docker), a local FIFO and docker exec carry it.
make_pipe() {
  local process inside=/dev/shm/backup-pg.$RUN
  process=$(ask docker inspect -f '{{.State.Pid}}' "$CONTAINER" 2>"$ERRORS") || process=none
  PIPE_DIR=/proc/$process/root$inside
  # A folder of its own: in a shared one the kernel refuses FIFOs of other users.
  # shellcheck disable=SC2016 # expanded in the container
  if ask docker exec "$CONTAINER" sh -c 'rm -rf /dev/shm/backup-pg.*; mkdir -m 700 "$1" && mkfifo -m 600 "$1/pipe"' \
    sh "$inside" 2>"$ERRORS" && [[ -p $PIPE_DIR/pipe && -r $PIPE_DIR/pipe && -w $PIPE_DIR/pipe ]]; then
    enter "$CONTAINER" "$inside/pipe"
    return
  fi
  log WARNING "cannot reach the container's files: the dump goes through docker exec, which is slower"
  ask docker exec "$CONTAINER" rm -rf "$inside" 2>"$ERRORS" || true
  PIPE_DIR=$DIR/pipe
  rm -rf -- "$PIPE_DIR"
  mkdir -- "$PIPE_DIR"
  mkfifo -- "$PIPE_DIR/pipe"
  enter "$CONTAINER"
}

# Opens the pipe's ends, 7 to read and 8 to write. The container is not trusted with the path:
# both come from what was opened first, and only if that is a pipe and no link to somewhere else.
open_pipe() {
  exec 6<>"$PIPE_DIR/pipe"
  [[ -p /proc/self/fd/6 ]] ||
    die $DUMP_FAILED "$PIPE_DIR/pipe is no pipe any more" "find out who changes files in the container"
  # shellcheck disable=SC2094 # that is what a pipe is for
  exec 7</proc/self/fd/6 8>/proc/self/fd/6 6>&-
}

# Waits for both ends of the pipe: $1 is docker exec, $2 our program; sets THERE and HERE. Each
# was started without the other's descriptor, so each notices when the other has gone, and docker
# exec keeps its own open until the program in the container has exited.
close_pipe() {
  exec 7<&- 8>&-
  finish "$1"
  THERE=$STATUS
  ((THERE == 0)) || kill "$2" 2>/dev/null || true
  finish "$2"
  HERE=$STATUS
  ((THERE == 0 && HERE == 0))
}

# ---- the dump ---------------------------------------------------------------------------------

# Finished dumps, oldest first: their names sort by time.
dumps() {
  local file
  for file in "$DIR"/backup_*Z.dump.gz; do
    [[ ! -f $file ]] || printf '%s\n' "$file"
  done
}

free_bytes() { echo $(($(df --output=avail -k -- "$DIR" | tail -n 1) * 1024)); }

# An estimate: the newest dump and a fifth; without one a quarter of what the database takes.
check_space() {
  local newest free need=$((DATABASE_SIZE / 4))
  newest=$(dumps | tail -n 1)
  [[ -z $newest ]] || need=$(($(stat -c %s -- "$newest") * 12 / 10))
  free=$(free_bytes)
  ((free >= need)) || die $NO_SPACE "$DIR has $free bytes free, a dump needs about $need" \
    "make room; local dumps with a file .uploaded beside them are in the bucket and may go"
}

# Waiting for a lock, pg_dump would not notice that its reader has gone: hence the time-out.
dump() {
  local target=$1 compressor
  open_pipe
  start "${COMPRESS[@]}" <&7 8>&- >"$target" 2>"$ERRORS"
  compressor=$STARTED
  start "${ENTER[@]}" pg_dump -Fc -Z0 -w --lock-wait-timeout=10min >&8 7<&- 2>"$DIR/pg.partial" </dev/null
  close_pipe "$STARTED" "$compressor" && return
  (($(free_bytes) >= 1048576)) ||
    die $DISK_FULL "the disk of $DIR filled up, the unfinished dump is removed" "make room and run it again"
  tell "$COMPRESSOR" "$ERRORS"
  tell pg_dump "$DIR/pg.partial"
  die $DUMP_FAILED "the dump failed (exit codes: pg_dump $THERE, $COMPRESSOR $HERE) and is removed" \
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
  die $BAD_DUMP "the dump cannot be read back (exit codes: pg_restore $THERE, ${DECOMPRESS[0]} $HERE) and is removed" \
    "see the lines above, 'docker logs $CONTAINER', and this node's disk and memory"
}

# ---- the bucket -------------------------------------------------------------------------------

# Runs the AWS CLI; its output is in $DIR/answer.partial.
aws_cli() {
  local endpoint=()
  [[ -z $S3_ENDPOINT_URL ]] || endpoint=(--endpoint-url "$S3_ENDPOINT_URL")
  start aws "${endpoint[@]}" --cli-connect-timeout 10 --cli-read-timeout 60 "$@" \
    >"$DIR/answer.partial" 2>"$ERRORS" </dev/null
  finish "$STARTED"
  return "$STATUS"
}

# Puts file $1 at key $2 and asks the bucket what it has got. Returns 0 or the exit code to take.
upload() {
  local file=$1 key=$2 bytes sum answer
  bytes=$(stat -c %s -- "$file")
  read -r sum _ <"$file.sha256"
  if ! { aws_cli s3 cp --only-show-errors --content-type application/gzip \
    --metadata "sha256=$sum,bytes=$bytes,database=$PG_DB" "$file" "s3://$S3_BUCKET/$key" &&
    aws_cli s3api head-object --bucket "$S3_BUCKET" --key "$key" \
      --query '[ContentLength,Metadata.sha256]' --output text; }; then
    tell aws "$ERRORS"
    # The CLI of Debian 12 reports some refusals as a fault of its own: ask plainly for the reason.
    if grep -q NoneType "$ERRORS" && ! aws_cli s3api head-bucket --bucket "$S3_BUCKET"; then
      tell aws "$ERRORS"
    fi
    log ERROR "s3://$S3_BUCKET/$key could not be uploaded or looked at; next: $(advice)"
    return $UPLOAD_FAILED
  fi
  answer=$(<"$DIR/answer.partial")
  [[ $answer != "$bytes"$'\t'"$sum" ]] || return 0
  log ERROR "s3://$S3_BUCKET/$key is '$answer' instead of '$bytes $sum' (size, sha256); next: find out who else writes there; the next run uploads the dump again"
  return $BAD_OBJECT
}

# What to do about what the AWS CLI said.
advice() {
  case $(<"$ERRORS") in
    *NoSuchBucket* | *"Not Found"*) echo "create bucket $S3_BUCKET, or correct s3_bucket_name" ;;
    *"locate credentials"*) echo "give this node AWS credentials: in the vault, in ~/.aws, or an instance role" ;;
    *AccessDenied* | *Forbidden* | *InvalidAccessKeyId* | *SignatureDoesNotMatch* | *ExpiredToken*)
      echo "check this node's AWS key and what it may do (docs/backup.md, Permissions)" ;;
    *) echo "check that this node reaches ${S3_ENDPOINT_URL:-S3 in $AWS_REGION}" ;;
  esac
}

# Uploads a finished dump and marks it as uploaded. Returns as upload does.
deliver() {
  upload "$1" "$PREFIX/${1##*/}" || return
  : >"$1.uploaded"
}

# Uploads what earlier runs could not, oldest first, up to the first failure. It comes after the
# new dump, which must not wait for these. Returns as upload does.
deliver_leftovers() {
  local file list
  mapfile -t list < <(dumps)
  for file in "${list[@]}"; do
    [[ ! -e $file.uploaded ]] || continue
    if [[ "$(sha256sum <"$file")" != "$(cut -d ' ' -f 1 "$file.sha256" 2>/dev/null)  -" ]]; then
      log ERROR "$file is damaged: its .sha256 says otherwise; next: delete both"
      return $BAD_OBJECT
    fi
    deliver "$file" || return
    log INFO "uploaded what an earlier run could not: key=$PREFIX/${file##*/}"
  done
}

# Removes dumps older than KEEP_LOCAL_DAYS, by the time in their names; never the newest, and
# never one that is not in the bucket.
prune() {
  local cutoff file list
  cutoff=backup_$(date -u -d "-$KEEP_LOCAL_DAYS days" +%Y%m%dT%H%M%SZ)
  mapfile -t list < <(dumps)
  for file in "${list[@]:0:${#list[@]}-1}"; do
    [[ -e $file.uploaded && ${file##*/} < $cutoff ]] || continue
    rm -f -- "$file" "$file.sha256" "$file.uploaded"
    log INFO "removed $file: in the bucket, and older than $KEEP_LOCAL_DAYS days"
  done
}

# ---- what it does -----------------------------------------------------------------------------

prepare() {
  need aws docker flock gzip mkfifo setpriv sha256sum timeout
  mkdir -p -- "$DIR" || die $USAGE "$DIR cannot be made" "correct backup.directory, or its parent's owner"
  exec 9>"$BACKUP_DIR/.lock"
  flock -n 9 || die $LOCKED "another run is in progress" "wait for it; 'fuser -v $BACKUP_DIR/.lock' shows it"
  PIECES_DIR=/dev/shm/backup-pieces.$(stat -c %d-%i -- "$BACKUP_DIR/.lock") # one for each lock
  HAVE_LOCK=yes
  remove_unfinished
  mkdir -m 700 -- "$PIECES_DIR"
  ERRORS=$DIR/errors.partial
  choose_compression
}

backup() {
  local file=$DIR/backup_$STAMP.dump.gz code=0 sum bytes
  find_container
  check_space
  [[ ! -e $file ]] || die $UNEXPECTED "$file exists already" "see whether this node's clock is right"
  log INFO "dumping database=$PG_DB container=$CONTAINER compression=$COMPRESSOR"
  make_pipe
  dump "$file.partial"
  verify "$file.partial"
  bytes=$(stat -c %s -- "$file.partial")
  sum=$(sha256sum <"$file.partial")
  sync -- "$file.partial"
  printf '%s  %s\n' "${sum%% *}" "${file##*/}" >"$file.sha256"
  sync -- "$file.sha256"
  mv -- "$file.partial" "$file"
  log INFO "dumped and read back bytes=$bytes seconds=$SECONDS, uploading"
  deliver "$file" || quit $?
  log INFO "backup complete database=$PG_DB bytes=$bytes seconds=$SECONDS key=$PREFIX/${file##*/}"
  deliver_leftovers || code=$?
  prune
  quit "$code"
}

# The bucket comes before the container: a node that does not run the database now is checked too.
check() {
  local probe=$DIR/write-check.partial
  echo "backup-pg.sh --check may write here" >"$probe"
  sha256sum <"$probe" >"$probe.sha256"
  upload "$probe" "$PREFIX/.write-check" || quit $?
  find_container
  check_space
  log INFO "ready: bucket s3://$S3_BUCKET, container $CONTAINER, database $PG_DB"
}

main() {
  set -Eeuo pipefail
  umask 077
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  export LC_ALL=C
  local config=/etc/backup-pg.conf action=backup name
  STAMP=$(date -u +%Y%m%dT%H%M%SZ) RUN=$STAMP-$$
  CHILDREN=() PIPE_DIR="" HAVE_LOCK="" EXPLAINED="" WHERE="" ERRORS=/dev/null
  while (($# > 0)); do
    case $1 in
      --config) shift && config=${1-} ;;
      --check) action=check ;;
      --help) usage && exit ;;
      --version) echo "backup-pg.sh $VERSION" && exit ;;
      *) usage >&2 && exit $USAGE ;;
    esac
    shift || true
  done
  trap cleanup EXIT
  trap 'WHERE=" in line $LINENO"' ERR
  for name in HUP INT TERM; do
    # shellcheck disable=SC2064 # the signal's name is filled in now
    trap "on_signal $name" "$name"
  done
  load_config "$config"
  prepare
  "$action"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  main "$@"
fi
