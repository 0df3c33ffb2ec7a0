#!/bin/bash
# What backup-pg.sh, restore-pg.sh and backup-files.sh share: log lines and exit codes, settings,
# the lock, processes that end with the script, the database's container. It is sourced, never
# run. Each of them defines remove_unfinished.

# shellcheck disable=SC2034 # used by those that source this

# shellcheck source=scripts/parts/backup-bucket.sh
. "${BASH_SOURCE[0]%/*}/backup-bucket.sh"
# shellcheck source=scripts/parts/backup-report.sh
. "${BASH_SOURCE[0]%/*}/backup-report.sh"
# shellcheck source=scripts/parts/backup-encryption.sh
. "${BASH_SOURCE[0]%/*}/backup-encryption.sh"

readonly PARTS=${BASH_SOURCE[0]%/*}
readonly VERSION=0.7.1
readonly UNEXPECTED=1 USAGE=2 LOCKED=10 NO_CONTAINER=11 NO_TOOLS=12 NO_DATABASE=13 NO_SPACE=14 \
  DISK_FULL=15 DUMP_FAILED=16 BAD_DUMP=17 UPLOAD_FAILED=18 BAD_OBJECT=19

log() {
  local line
  line="$(date -u +%Y-%m-%dT%H:%M:%SZ) $1 run=$RUN ${2//[[:cntrl:]]/ }"
  printf '%s\n' "$line" >&2
  LOG_TAIL+=$line$'\n'
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

# A text as JSON.
quoted() {
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

# The project as JSON, for what is written into the bucket.
project_json() { printf '{"name": %s, "id": "%s"}' "$(quoted "$PROJECT")" "$PROJECT_ID"; }

# The identity in file $1, which a script of ours wrote: its line begins with "project".
project_in() { sed -nE 's/^"project": \{"name": "[a-z0-9-]*", "id": "([0-9a-f]*)"\}.*/\1/p' "$1" | head -n 1; }

# Whether what names project $1 is another project's. What was made before there were any is ours.
of_another() { [[ -n $1 && -n $PROJECT_ID && $1 != "$PROJECT_ID" ]]; }

# File $1 as a text in SQL. Whoever may name a table has a say in what is in it: one that held what
# ends the text would go on as SQL of ours. So that cannot be guessed.
sql_text() {
  local tag
  tag=text_$(od -An -v -N 16 -tx1 /dev/urandom | tr -d ' \n')
  if [[ ${#tag} != 37 ]] || grep -qF -- "$tag" "$1"; then
    die "$UNEXPECTED" "$1 cannot be passed on to PostgreSQL" "run it again; if it stays so, report it"
  fi
  printf '$%s$' "$tag"
  cat -- "$1"
  printf '$%s$' "$tag"
}

# The SHA-256 of file $1.
sum_of() {
  local sum
  sum=$(sha256sum <"$1")
  printf '%s' "${sum%% *}"
}

# ---- a run ------------------------------------------------------------------------------------

# Sets what every run needs, and has it end cleanly whatever ends it.
begin_run() {
  set -Eeuo pipefail
  shopt -s inherit_errexit
  umask 077
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  export LC_ALL=C
  local name
  STAMP=$(date -u +%Y%m%dT%H%M%SZ) RUN=$STAMP-$$
  CHILDREN=() PIPE_DIR="" HAVE_LOCK="" EXPLAINED="" WHERE="" ERRORS=/dev/null
  trap cleanup EXIT
  trap 'WHERE=" in line $LINENO"' ERR
  for name in HUP INT TERM; do
    # shellcheck disable=SC2064 # the signal's name is filled in now
    trap "on_signal $name" "$name"
  done
}

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
  wait # also for the ping of the beginning, which has a deadline
  [[ -z $PIPE_DIR ]] || rm -rf -- "$PIPE_DIR"
  [[ -z $HAVE_LOCK ]] || remove_unfinished
  report "$code"
  exit "$code"
}

on_signal() {
  log ERROR "stopped by SIG$1, what is unfinished is removed, what is finished kept; next: run it again"
  quit $((128 + $(kill -l "$1")))
}

# Whoever has the lock of folder $1 is alone there: what is unfinished is ours, or of a run that
# was killed. It is waited for at most $2 seconds (default: not at all).
take_lock() {
  mkdir -p -- "$1" || die "$USAGE" "$1 cannot be made" "correct backup.directory, or its parent's owner"
  exec 9>"$1/.lock"
  flock -w "${2:-0}" 9 || die "$LOCKED" "another run is in progress" "wait for it; 'fuser -v $1/.lock' shows it"
  HAVE_LOCK=yes
  remove_unfinished
}

# ---- settings ---------------------------------------------------------------------------------

# Refuses file $1, which is to be sourced, unless it is the user's own or root's alone.
need_private() {
  local file=$1 owner mode
  read -r owner mode < <(stat -L -c '%u %a' -- "$file")
  (((owner == 0 || owner == EUID) && (8#$mode & 8#077) == 0)) ||
    die "$USAGE" "$file: others could read or change it" "chown root '$file' && chmod 600 '$file'"
}

# Reads settings file $1 and checks what all scripts use of it.
read_config() {
  local file=$1
  [[ -f $file && -r $file ]] ||
    die "$USAGE" "$file: no such settings file, or not readable" "'inv backup.install' makes it"
  need_private "$file"
  unset PG_DB PG_USER DB_SERVICE_NAME S3_BUCKET AWS_REGION APP_STACK STATE_DIR
  STACK="" NODE=${NODE_NAME:-$(uname -n)} METRICS_DIR="" PING="" PING_FILE=""
  PITR=no WAL_TICK=60 MAX_SLOT_WAL=10737418240 INCREMENTAL_FROM=10737418240
  ACCESS=docker POSTGRES_IMAGE=""
  RECIPIENTS="" MANIFEST_MODE=clear IDENTITY_FILE=""
  PROJECT="" PROJECT_ID="" S3_ENDPOINT_URL="" BACKUP_DIR=/var/backups/postgres KEEP_LOCAL_DAYS=7 COMPRESSION=auto
  COUNT_ROWS=yes SSE="" SSE_KMS_KEY_ID="" STEP_TIMEOUT=21600 DRILL_MEMORY=512m DRILL_CPUS=1
  # shellcheck source=/dev/null
  . "$file" || die "$USAGE" "$file: is not valid shell" "write lines like AWS_REGION='eu-central-1'"
  setting ACCESS 'docker|network'
  # shellcheck source=/dev/null
  . "$PARTS/access-$ACCESS.sh"
  setting PROJECT '([a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?)?'
  setting PROJECT_ID '([0-9a-f]{16})?'
  setting S3_BUCKET '[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]'
  setting AWS_REGION '[a-z0-9][a-z0-9-]*'
  setting S3_ENDPOINT_URL '(https?://[^[:space:]]+)?'
  setting SSE '(AES256|aws:kms)?'
  setting SSE_KMS_KEY_ID '([A-Za-z0-9][A-Za-z0-9:/_-]{0,255})?'
  setting STEP_TIMEOUT '[0-9]{1,9}'
  setting STACK '([A-Za-z0-9][A-Za-z0-9_.-]*)?'
  setting NODE '[A-Za-z0-9][A-Za-z0-9_.-]*'
  setting METRICS_DIR '(/[^[:cntrl:]]+)?'
  setting PING '(healthchecks|cronitor|uptime-kuma)?'
  setting PING_FILE '(/[^[:cntrl:]]+)?'
  setting RECIPIENTS "($RECIPIENT_FORM(,$RECIPIENT_FORM)*)?"
  setting MANIFEST_MODE 'clear|encrypted'
  setting IDENTITY_FILE '(/[^[:cntrl:]]+)?'
  export PATH AWS_DEFAULT_REGION=$AWS_REGION AWS_PAGER=
  [[ -z ${AWS_SHARED_CREDENTIALS_FILE:-} ]] || export AWS_SHARED_CREDENTIALS_FILE
}

readonly MEMORY_FORM='[1-9][0-9]*[mg]' CPUS_FORM='[0-9]+(\.[0-9]+)?'

# Reads settings file $1 and checks what there is about the database, too.
load_config() {
  local name='[A-Za-z_][A-Za-z0-9_.-]{0,62}'
  read_config "$1"
  setting PG_DB "$name( $name)*"
  setting PG_USER "$name"
  setting DB_SERVICE_NAME '[A-Za-z0-9][A-Za-z0-9_.-]*'
  setting BACKUP_DIR '/[^[:cntrl:]]+'
  setting KEEP_LOCAL_DAYS '[0-9]{1,4}'
  setting COUNT_ROWS 'yes|no'
  setting DRILL_MEMORY "$MEMORY_FORM"
  setting DRILL_CPUS "$CPUS_FORM"
  setting PITR 'yes|no'
  setting WAL_TICK '[1-9][0-9]?'
  setting MAX_SLOT_WAL '[1-9][0-9]{6,14}'
  setting INCREMENTAL_FROM '(0|[1-9][0-9]{6,15})'
  setting COMPRESSION 'auto|(gzip|pigz)-[1-9]|igzip-[0-3]|libdeflate-([1-9]|1[0-2])'
}

# Refuses setting $1 unless it has the form $2: they go into keys, paths and commands.
setting() {
  [[ ${!1-} =~ ^($2)$ ]] ||
    die "$USAGE" "setting $1: '${!1-}' is missing or not allowed" "docs/backup.md lists the settings"
}

# Makes $1, one of the databases that PG_DB names, the one that this run is about.
use_database() {
  [[ " $PG_DB " == *" $1 "* ]] ||
    die "$USAGE" "database $1: is not among those of PG_DB ($PG_DB)" "pg_db in hosts.yaml names them"
  PG_DB=$1 DIR=$BACKUP_DIR/$1 PREFIX=${PROJECT:+$PROJECT/}postgres/$1
  mkdir -p -- "$DIR" || die "$USAGE" "$DIR cannot be made" "correct backup.directory, or its parent's owner"
}

need() {
  local tool
  for tool; do
    command -v "$tool" >/dev/null ||
      die "$NO_TOOLS" "$tool is not installed" "'inv backup.install' does it, or apt-get install"
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

alone() {
  CHILDREN=() ERRORS=$DIR/errors.$1.partial ANSWER=$DIR/answer.$1.partial
  $2 9>&-
}

# Runs functions side by side, in a process each, and returns the first exit code that is not 0.
# Each argument is a function with its words. Of several failures the log has the first one only:
# they have one reason. A function finds $ERRORS and $ANSWER to be its own; what it sets is lost.
side_by_side() {
  local words n=0 code=0 running=()
  for words; do
    alone "$n" "$words" 2>"$DIR/said.$n.partial" &
    running+=("$!")
    n=$((n + 1))
  done
  CHILDREN+=("${running[@]}")
  for n in "${!running[@]}"; do
    finish "${running[n]}"
    ((code == 0)) || continue
    code=$STATUS
    cat -- "$DIR/said.$n.partial" >&2
    LOG_TAIL+=$(<"$DIR/said.$n.partial")$'\n'
  done
  return "$code"
}

# Runs a program that answers at once or never.
ask() { timeout --kill-after=5 60 "$@"; }

# ---- the database's container -----------------------------------------------------------------

# What sh runs in the container. Where the server asks for a password even on its local socket,
# that comes from the container's own secret and never leaves it. The pipe is opened for both
# directions first, because opening a FIFO for one of them waits for somebody at the other end.
# shellcheck disable=SC2016 # expanded in the container
readonly INSIDE='
if [ -r "${POSTGRES_PASSWORD_FILE:-}" ]; then POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE"); fi
if [ -n "${POSTGRES_PASSWORD:-}" ]; then export PGPASSWORD="$POSTGRES_PASSWORD"; fi
case $PIPE:$1 in
  /*:pg_dump | /*:pg_basebackup) exec 3<>"$PIPE" >"$PIPE" 3>&- ;;
  /*:pg_restore) exec 3<>"$PIPE" <"$PIPE" 3>&- ;;
esac
exec "$@"'

# Opens the pipe's ends, 7 to read and 8 to write. The container is not trusted with the path:
# both come from what was opened first, and only if that is a pipe and no link to somewhere else.
open_pipe() {
  exec 6<>"$PIPE_DIR/pipe"
  [[ -p /proc/self/fd/6 ]] ||
    die "$DUMP_FAILED" "$PIPE_DIR/pipe is no pipe any more" "find out who changes files in the container"
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

# What psql runs to count every row of every table, one line "name": rows each, for JSON. Without
# tables of extensions, of which pg_dump does not take the rows. ONLY: each row counts once.
readonly COUNT_SQL="
SELECT format('SELECT %L || '': '' || count(*) FROM ONLY %I.%I',
  to_json(format('%I.%I', n.nspname, c.relname)), n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname, c.relname
\\gexec
"

# What a replay of a cluster of $1 bytes takes where Docker has its volumes: the $3 base backups that it is
# combined from, $2 bytes unpacked (0 if that is not known), once more all of it where they are several,
# what the WAL adds, and the segments that recovery keeps.
replay_bytes() {
  local parts=$2
  ((parts > 0)) || parts=$1
  (($3 < 2)) || parts=$((parts + $1))
  echo $((parts + $1 / 2 + SEGMENT_BYTES * 64))
}

free_bytes() { echo $(($(df --output=avail -k -- "$DIR" | tail -n 1) * 1024)); }
