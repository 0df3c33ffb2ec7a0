#!/bin/bash
# shellcheck disable=SC2034 # used by its parts
# Another major version of PostgreSQL: copies all databases of the running server into a new volume,
# with the programs of the new version, and compares everything. The service keeps its volume; whoever
# calls this (inv upgrade-db) then gives it the new one. docs/upgrade.md explains it.
#
# The way of the data: a server of the new version starts beside the running one, in its network -> roles
# and settings -> each database: a session that holds its tables against writers and exports a snapshot
# -> pg_dump -> pipe -> pg_restore -> both sides described in the same words and compared -> ANALYZE.

for PART in backup-common upgrade-describe upgrade-fence upgrade-copy; do
  for FOLDER in "${BASH_SOURCE[0]%/*}/parts" /usr/local/lib; do
    # shellcheck source=/dev/null
    [[ ! -r $FOLDER/$PART.sh ]] || { . "$FOLDER/$PART.sh" && break; }
  done
done
declare -F begin_run describe fence_sql start_new copy_databases >/dev/null ||
  { echo "ERROR its parts are not there; next: 'inv backup.install' puts them in place" >&2 && exit 12; }

usage() {
  cat <<END
Usage: upgrade-pg.sh check --image IMAGE
       upgrade-pg.sh rehearse --image IMAGE --volume NAME --mount PATH --pgdata PATH
       upgrade-pg.sh copy --image IMAGE --volume NAME --mount PATH --pgdata PATH --note TEXT
       upgrade-pg.sh written | note | forget

check     see whether all that the server has can be copied; pulls the image
rehearse  copy into a volume that is removed afterwards; nobody is kept from writing
copy      copy into a new volume; reads signs of life from stdin, "g" to begin. Says "prepared" when it
          may begin, "ready" when all is copied and compared: from then on it keeps writers away until
          the old server ends, or at most $HOLD_SECONDS seconds after stdin has ended
written   how many rows were inserted, updated and deleted since the copy
note      what the last copy noted; forget: removes that

  --config FILE  settings to use instead of /etc/backup-pg.conf

Exit codes:
   0  done
   1  unexpected failure
   2  wrong usage or settings
  10  another run (a backup, too) is in progress
  11  no running container of the service on this node
  12  a tool is missing, or the Docker engine does not answer
  13  PostgreSQL does not answer, or refuses the user
  14  too little free disk space to begin
  40  it cannot be copied: what is in the way is said
  41  the copy failed
  42  the copy differs from the original
  43  whoever called this is gone, or the old server was not ended in time
  128+n  stopped by signal n
END
}

readonly IN_THE_WAY=40 COPY_FAILED=41 DIFFERS=42 LEFT_ALONE=43
readonly SILENCE_SECONDS=20 HOLD_SECONDS=60

# ---- ending -------------------------------------------------------------------------------------

# What this run, or one that was killed, has left: the new server with its sessions in the old one, and a
# volume that nothing points to yet.
remove_unfinished() {
  local ids volume
  ids=$(ask docker ps -aq --filter "label=$LABEL" 2>/dev/null) || ids=""
  # shellcheck disable=SC2086 # words
  [[ -z $ids ]] || ask docker rm -f -v $ids >/dev/null 2>&1 || true
  while read -r volume; do
    [[ -z $volume ]] || is_finished "$volume" || ask docker volume rm "$volume" >/dev/null 2>&1 || true
  done < <(ask docker volume ls -q --filter "label=$LABEL" 2>/dev/null)
  rm -rf -- "$DIR"/*.partial*
}

# Whether a volume holds a copy that the service was given, or may have been.
is_finished() { [[ -f $DIR/volumes ]] && grep -qxF -- "$1" "$DIR/volumes"; }

# ---- whoever called -----------------------------------------------------------------------------

# Reads signs of life. Without them, what is not finished ends.
watch_caller() {
  local word
  while IFS= read -r -n 1 -t "$SILENCE_SECONDS" word; do
    [[ $word != g ]] || : >"$DIR/go.partial"
  done
  : >"$DIR/gone.partial"
  [[ -e $DIR/ready.partial ]] || kill -HUP $$ 2>/dev/null
}

await_go() {
  echo prepared
  until [[ -e $DIR/go.partial ]]; do sleep 0.1; done
}

# Keeps writers away until the old server ends: what it acknowledges is in the copy, or nowhere. Whoever
# called may die just after the service was told to change, so this holds on for a while.
await_end_of_old() {
  local end=$((SECONDS + 1800))
  echo "ready $TABLES $ROWS $SECONDS"
  while runs "$OLD"; do
    [[ ! -e $DIR/gone.partial ]] || ((end <= SECONDS + HOLD_SECONDS)) || end=$((SECONDS + HOLD_SECONDS))
    fences_hold || {
      ! runs "$OLD" || die "$LEFT_ALONE" "a session that keeps writers away has ended" "run it again"
      break
    }
    ((SECONDS < end)) || die "$LEFT_ALONE" "the old server was not ended in time: writers may go on in it" "run it again"
    sleep 0.2
  done
  log INFO "the old server has ended, every commit of it is in $VOLUME"
}

# Whether container $1 runs.
runs() { [[ $(ask docker inspect -f '{{.State.Running}}' "$1" 2>&1) == true ]]; }

# ---- what it does -------------------------------------------------------------------------------

look() {
  find_old
  need_image
  look_at_old
  look_for_hindrances
}

check() {
  look
  log INFO "all can be copied: ${#DATABASES[@]} databases, $BYTES bytes, PostgreSQL $OLD_MAJOR to $NEW_MAJOR"
}

rehearse() {
  VOLUME+=_rehearsal
  check
  make_volume
  start_new
  copy_globals
  begin_time
  copy_databases
  stop_new
  log INFO "rehearsed: tables=$TABLES rows=$ROWS seconds=$((SECONDS - BEGAN))"
}

copy() {
  watch_caller <&0 9>&- &
  CHILDREN+=("$!")
  look
  make_volume
  start_new
  await_go
  FENCE=yes
  begin_time
  copy_globals
  copy_databases
  compare_again
  : >"$DIR/ready.partial"
  stop_new
  # From here on the service may be given the volume, so it is no longer removed.
  printf '%s\n' "$VOLUME" >>"$DIR/volumes"
  printf '%s\n' "$NOTE" >"$DIR/note"
  await_end_of_old
}

begin_time() { BEGAN=$SECONDS; }

# The counters of PostgreSQL begin with the copy itself, so what they were then is taken away.
written() {
  local name
  find_old
  COUNTERS=(0 0 0)
  while read -r name; do
    ask_old "$name" <<<"$COUNTERS_SQL"
    add_counters
  done < <(list_databases)
  BEFORE=(0 0 0)
  [[ ! -f $DIR/counters ]] || read -r -a BEFORE <"$DIR/counters" || BEFORE=(0 0 0)
  echo "written $((COUNTERS[0] - BEFORE[0])) $((COUNTERS[1] - BEFORE[1])) $((COUNTERS[2] - BEFORE[2]))"
}

note() { [[ ! -f $DIR/note ]] || cat -- "$DIR/note"; }

forget() { rm -f -- "$DIR"/{note,counters}; }

# Refuses option $1 unless its value $2 has the form $3.
option() {
  [[ $2 =~ ^($3)$ ]] || die "$USAGE" "$1 '$2' is missing or not allowed" "upgrade-pg.sh --help"
}

check_options() {
  local path='(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+'
  case $ACTION in
    check | rehearse | copy) option --image "$IMAGE" '[A-Za-z0-9][A-Za-z0-9_.:/@-]*' ;;
    written | note | forget) return ;;
    *) usage >&2 && quit "$USAGE" ;;
  esac
  [[ $ACTION != check ]] || return 0
  option --volume "$VOLUME" '[A-Za-z0-9][A-Za-z0-9_.-]*'
  option --mount "$MOUNT" "$path"
  option --pgdata "$NEW_DATA" "$path"
}

main() {
  local config=/etc/backup-pg.conf
  begin_run
  ACTION=${1-} IMAGE="" VOLUME="" MOUNT="" NEW_DATA="" NOTE="" FENCE="" NEW="" TABLES=0 ROWS=0 BEGAN=0
  FENCES=() SNAPSHOTS=() DATABASES=() COUNTERS=(0 0 0)
  shift || true
  while (($# > 0)); do
    case $1 in
      --config) shift && config=${1-} ;;
      --image) shift && IMAGE=${1-} ;;
      --volume) shift && VOLUME=${1-} ;;
      --mount) shift && MOUNT=${1-} ;;
      --pgdata) shift && NEW_DATA=${1-} ;;
      --note) shift && NOTE=${1-} ;;
      *) usage >&2 && quit "$USAGE" ;;
    esac
    shift || true
  done
  case $ACTION in
    --help) usage && exit ;;
    --version) echo "upgrade-pg.sh $VERSION" && exit ;;
  esac
  check_options
  load_config "$config"
  LABEL=swarmkeep.upgrade${PROJECT:+.$PROJECT}
  PG_DB=${PG_DB%% *} DIR=$BACKUP_DIR/.upgrade ERRORS=$BACKUP_DIR/.upgrade/errors.partial
  need awk diff docker flock mkfifo setpriv timeout
  mkdir -p -- "$DIR" || die "$USAGE" "$DIR cannot be made" "correct backup.directory, or its parent's owner"
  case $ACTION in
    check | rehearse | copy) take_lock "$BACKUP_DIR" 300 ;;
    # Beside a run that has the lock, whose files are not to be touched.
    *) PIPE_DIR=$(mktemp -d) && ERRORS=$PIPE_DIR/errors ;;
  esac
  "$ACTION"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  main "$@"
fi
