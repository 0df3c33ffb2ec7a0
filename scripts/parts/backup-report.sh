#!/bin/bash
# shellcheck disable=SC2034 # used by those that source this
# What a run tells those who watch: a textfile for node_exporter, and pings to a dead man's switch.
# Neither is ever the run's result. Sourced by backup-common.sh, never run.

readonly METRICS_FOLDER=/var/lib/prometheus/node-exporter # where Debian's node_exporter looks
readonly PING_SECONDS=10 PING_TRIES=3 PING_BYTES=9000     # self-hosted healthchecks take 10 KB

JOB=""            # backup, files, drill, wal, base or replay: of these the end is told
PINGING=""        # the process that tells the beginning
SUCCEEDED=""      # when the job was done, in seconds since 1970; what was done is in RESULT
LOG_TAIL=""       # the last lines of this run's log
declare -A RESULT=()

# From now on the end of this run is told, as one of job $1, on $2: one of the databases, or the app
# stack. What is neither is refused in a moment, and becomes no name of a file.
report_as() { [[ $1 != files && " $PG_DB " != *" $2 "* ]] || JOB=$1 JOB_OF=$2; }

# Notes that the job is done, with figures: "size_bytes=123". What may still fail is another matter.
succeeded() {
  local figure
  SUCCEEDED=$(date +%s)
  for figure; do RESULT[${figure%%=*}]=${figure#*=}; done
}

# Tells how the run has ended, with exit code $1.
report() {
  [[ -n $JOB ]] || return 0
  write_metrics "$1"
  # Another node may have the database, another run may be at it: whoever waits for a ping will tell.
  (($1 == LOCKED || $1 == NO_CONTAINER)) || ping_end "$1"
}

# ---- metrics ------------------------------------------------------------------------------------

# Replaces this job's textfile as a whole. What the last good run was like stays in it after a bad one.
write_metrics() {
  local folder=${METRICS_DIR:-$METRICS_FOLDER} file labels
  [[ -n $METRICS_DIR || -d $folder ]] || return 0
  file=$folder/swarmkeep-$JOB${PROJECT:+-$PROJECT}.$JOB_OF.prom
  labels="project=\"$PROJECT\",stack=\"$STACK\",node=\"$NODE\""
  [[ $JOB == files ]] || labels+=",database=\"$JOB_OF\""
  if (umask 022 && mkdir -p -- "$folder" && metrics "$1" "$file" >"$file.$$" && chmod 644 "$file.$$" &&
    mv -- "$file.$$" "$file") 2>/dev/null; then
    return
  fi
  rm -f -- "$file.$$"
  log WARNING "the metrics could not be written into $folder; next: is it there, and its disk not full?"
}

# The text of the file $2 that is to be replaced, for a run with exit code $1.
metrics() {
  local name
  gauge last_run_timestamp_seconds "Time when the last run ended, in seconds since 1970." "$(date +%s)"
  gauge last_run_exit_code "Exit code of the last run; docs/backup.md lists them." "$1"
  gauge last_run_duration_seconds "How long the last run took." "$SECONDS"
  for name in timestamp_seconds duration_seconds size_bytes rows files; do
    gauge "last_success_$name" "${ABOUT[$name]}" "$(of_last_success "$name" "$2")"
  done
  [[ $JOB != backup ]] || gauge pending_uploads "Finished backups on this node that are not in the bucket." \
    "$(pending_uploads)"
  if [[ $JOB == wal ]]; then
    gauge slot_safe_bytes "WAL that can still be written before the replication slot is lost." "${RESULT[slot_safe_bytes]-}"
    gauge slot_cap_bytes "WAL that PostgreSQL keeps at most for the replication slot." "${RESULT[slot_cap_bytes]-}"
  fi
  printf '# HELP swarmkeep_build_info Version of the scripts on the node; always 1.\n'
  printf '# TYPE swarmkeep_build_info gauge\nswarmkeep_build_info{%s,kind="%s",version="%s"} 1\n' \
    "$labels" "$JOB" "$VERSION"
}

declare -rA ABOUT=(
  [timestamp_seconds]="Time when the last good run ended, in seconds since 1970."
  [duration_seconds]="How long the last good run took."
  [size_bytes]="Size of what the last good run saved or restored."
  [rows]="Rows in all tables of what the last good run saved or restored."
  [files]="Files in the volume when the last good run ended."
)

# Figure $1 of the last good run: this one, or the one that file $2 tells of.
of_last_success() {
  if [[ -z $SUCCEEDED ]]; then
    sed -n "s/^swarmkeep_${JOB}_last_success_$1{.*} //p" "$2" 2>/dev/null || true
  else
    case $1 in
      timestamp_seconds) echo "$SUCCEEDED" ;;
      duration_seconds) echo "$SECONDS" ;;
      *) echo "${RESULT[$1]-}" ;;
    esac
  fi
}

# One metric of this job: its name $1, what it is $2, its value $3; nothing if that is not known.
gauge() {
  local name=swarmkeep_${JOB}_$1
  [[ $3 =~ ^[0-9]+$ ]] || return 0
  printf '# HELP %s %s\n# TYPE %s gauge\n%s{%s} %s\n' "$name" "$2" "$name" "$name" "$labels" "$3"
}

pending_uploads() {
  local file n=0
  for file in "$BACKUP_DIR/$JOB_OF"/backup_*Z.manifest.json; do
    [[ ! -e $file || -e ${file%.manifest.json}.uploaded ]] || n=$((n + 1))
  done
  echo "$n"
}

# ---- pings --------------------------------------------------------------------------------------

# Tells that the job begins. The job does not wait for that.
ping_start() {
  [[ -n $PING_FILE ]] || return 0
  PING_RUN=$(</proc/sys/kernel/random/uuid)
  case $PING in
    healthchecks) ping "/start?rid=$PING_RUN" ;;
    cronitor) ping "?state=run&series=$PING_RUN" ;;
  esac 9>&- </dev/null &
  PINGING=$!
}

# Tells exit code $1, and to healthchecks the last lines of the log.
ping_end() {
  local word=complete up=up
  [[ -n $PING_FILE ]] || return 0
  [[ -z $PINGING ]] || wait "$PINGING"
  (($1 == 0)) || word=fail up=down
  ((${#LOG_TAIL} <= PING_BYTES)) || LOG_TAIL=${LOG_TAIL: -PING_BYTES}
  case $PING in
    healthchecks) ping "/$1?rid=${PING_RUN:-$(</proc/sys/kernel/random/uuid)}" --data-binary @- ;;
    cronitor) ping "?state=$word&series=${PING_RUN:-}&status_code=$1" ;;
    uptime-kuma) ping "?status=$up&msg=exit%20code%20$1&ping=$((SECONDS * 1000))" ;;
  esac <<<"$LOG_TAIL"
}

# Asks for this job's address with $1 at its end; the other words are curl's. The address is a secret:
# it goes to curl through a pipe, and nowhere into the log. A redirect is no answer.
ping() {
  local address try said=""
  address=$(ping_address) || return 0
  for ((try = 1; try <= PING_TRIES; try++)); do
    said=$(curl --silent --proto '=http,https' --max-time "$PING_SECONDS" --output /dev/null --write-out '%{http_code}' \
      --config <(printf 'url = "%s"\n' "${address%%\?*}$1") "${@:2}" 2>/dev/null) || true
    [[ $said != 2[0-9][0-9] ]] || return 0
    ((try == PING_TRIES)) || sleep 1
  done
  [[ $said != 000 ]] || said="no answer"
  log WARNING "the ping of job $JOB was not taken ($said); next: see that this node reaches the address in $PING_FILE"
}

# This job's address in PING_FILE, whose lines are "database ADDRESS", "files ADDRESS", "drill ADDRESS".
ping_address() {
  local name=$JOB mode address
  [[ $JOB != backup ]] || name=database
  mode=$(stat -L -c %a -- "$PING_FILE" 2>/dev/null) || mode=none
  if [[ $mode == none ]] || (((8#$mode & 8#077) != 0)); then
    log WARNING "$PING_FILE is not there, or others could read it: no ping was sent; next: chmod 600 '$PING_FILE'"
    return 1
  fi
  address=$(sed -n "s/^$name //p" "$PING_FILE" | head -n 1)
  [[ -n $address ]] || return 1
  [[ $address =~ ^https?://[^[:space:]\"\\]+$ ]] || {
    log WARNING "$PING_FILE: the address of $name is no http(s) address: no ping was sent"
    return 1
  }
  printf '%s' "${address%/}"
}
