#!/bin/bash
# shellcheck disable=SC2034 # used by its parts
# Brings a set that backup-pg.sh made back: into a new database beside the live one (restore),
# which can then take the live one's place (swap), or into a throwaway PostgreSQL only to see
# that it can be done (drill). docs/recovery.md explains it all.
#
# The way of the data: the bucket -> a .partial file -> its SHA-256 compared -> gzip -> pipe ->
# pg_restore into a database of a passing name -> every table's rows counted and compared with
# the manifest -> the name that was asked for. Whatever goes wrong, that database is dropped.

for PART in backup-common backup-set restore-set restore-load restore-drill restore-replay; do
  for FOLDER in "${BASH_SOURCE[0]%/*}/parts" /usr/local/lib; do
    # shellcheck source=/dev/null
    [[ ! -r $FOLDER/$PART.sh ]] || { . "$FOLDER/$PART.sh" && break; }
  done
done
declare -F begin_run open_session choose_set restore_into drill make_point >/dev/null ||
  { echo "ERROR its parts are not there; next: 'inv backup.install' puts them in place" >&2 && exit 12; }

readonly SWAP_SECONDS=60

usage() {
  cat <<END
Usage: restore-pg.sh restore --database NAME (--latest | --set TIME | --at TIME | --at-mark MARK) --into NEW
                             [--jobs N] [--analyze]
       restore-pg.sh swap --database NAME --with OTHER --keep-as OLD
       restore-pg.sh drill --database NAME (--latest | --set TIME | --at TIME)
                           [--app IMAGE | --with-app] [--memory SIZE] [--cpus N]

restore  a set from the bucket into a new database, and compare every table's rows
swap     let another database take the place of NAME, which is then called OLD
drill    restore into a throwaway PostgreSQL, write the outcome beside the set

  --config FILE  settings to use instead of /etc/backup-pg.conf
  --latest       the newest set; --set: the one of this time stamp (20261122T021500Z)
  --at TIME      not a set, but as it was at this second, from base backup and WAL (docs/pitr.md);
                 --at end: as late as there is WAL; --at-mark: as it was when 'mark' was called
  --jobs N       indexes to build at a time (default: one for each core, at most 8)
  --analyze      gather the planner's statistics first, and not by themselves afterwards
  --progress     lines "progress PHASE DONE TOTAL" on stdout; ends when nobody reads them
  --identity     what is encrypted is read with the identity on stdin (docs/encryption.md)
  --app IMAGE    also start this NocoDB on what was restored, and ask it something
  --with-app     also start the app of this database, as the .apps file beside FILE says
  --memory, --cpus  what a drill's PostgreSQL may use (default: DRILL_MEMORY, DRILL_CPUS)

Exit codes:
   0  done
   1  unexpected failure
   2  wrong usage or settings
  10  another run (a backup, too) is in progress
  11  no running container of the service on this node
  12  a tool is missing, or the Docker engine does not answer
  13  PostgreSQL does not answer, or refuses the user
  14  too little free disk space to begin
  18  the outcome of a drill could not be written into the bucket
  20  there is no such set in the bucket
  21  the set is damaged or incomplete
  22  the database to make exists already, or the one to swap does not
  23  the server is older than the set's, or lacks one of its extensions
  24  pg_restore failed
  25  restored, but a table has not the rows that it had
  26  the names could not be swapped
  27  the app did not answer from what was restored, or could not be started
  28  the bucket could not be read
  29  the time is out of reach: WAL or base backup is missing
  34  it is encrypted, and no identity that was given fits
  128+n  stopped by signal n
END
}

# ---- ending ------------------------------------------------------------------------------------

# As die, where it is the set that is to blame: then a drill's outcome is written. A PostgreSQL
# that ended or lost a process meanwhile says nothing of the set, and its clients have no last words.
blame() {
  if (($1 == RESTORE_FAILED || $1 == APP_FAILED)); then
    # Where its first process has just gone, Docker knows that in a moment.
    [[ -z $KILLED || -n $(killed_in "$CONTAINER") ]] || await_end "$CONTAINER"
    ! out_of_memory "$CONTAINER" "$KILLED" ||
      die "$NO_DATABASE" "PostgreSQL ran out of memory ($2)" "$MORE_MEMORY, then run it again"
    runs "$CONTAINER" || die "$NO_DATABASE" "PostgreSQL ended meanwhile ($2)" \
      "see 'docker logs $CONTAINER' and this node's memory, then run it again"
  fi
  # What cannot be replayed is nothing to add to: the next base backup is a full one.
  [[ -z $POINT || $1 != "$BAD_SET" ]] || rm -f -- "$BACKUP_DIR"/.wal/newest-base.*.manifest
  REASON=$2
  die "$@"
}

readonly MORE_MEMORY="give it more (a drill: backup.drill_memory in hosts.yaml, or --memory)"

remove_unfinished() {
  [[ -z $DRILLING || -z $REASON ]] || write_outcome failed "$REASON" || true
  [[ -z $UNFINISHED ]] || drop_unfinished
  [[ -z $DRILLING && -z $THROWAWAY ]] || remove_containers
  rm -rf -- "$BACKUP_DIR"/*/*.partial*
  [[ -z $PIECES_DIR ]] || rm -rf -- "$PIECES_DIR"
}

# Drops the databases that restores have left unfinished: this run, or one that was killed.
drop_unfinished() {
  enter "$CONTAINER"
  ask "${ENTER[@]}" psql -XAtqw >/dev/null 2>&1 <<<"$DROP_PASSING" || true
}

# ---- progress ----------------------------------------------------------------------------------

# Notes that phase $1 has begun: $2 bytes, of which as many are done as file $3 has, or as process
# $3 has read of its stdin.
phase() { [[ -z $PROGRESS ]] || printf '%s %s %s\n' "$1" "${2:-0}" "${3:-}" >"$DIR/phase.partial"; }

# Tells twice a second how far it is. When nobody reads that any more, whoever asked for it has
# gone: then this run ends, so that the next one can begin.
tell_progress() {
  local name total what at
  trap '' PIPE
  while sleep 0.5 && kill -0 $$ 2>/dev/null; do
    read -r name total what <"$DIR/phase.partial" || continue
    at=0
    # Neither needs to be there yet, or still.
    case $what in
      /*) at=$(stat -c %s -- "$what"* | tail -n 1) || at=0 ;;
      ?*) at=$(sed -n 's/^pos:[[:space:]]*//p' "/proc/$what/fdinfo/0") || at=0 ;;
    esac 2>/dev/null
    printf 'progress %s %s %s\n' "$name" "${at:-0}" "$total" || kill -HUP $$
  done
}

# ---- restoring ---------------------------------------------------------------------------------

restore() {
  find_container
  if [[ -n $POINT ]]; then make_point; else choose_set; fi
  restore_into "$INTO"
  log INFO "restore complete set=$SET database=$DATABASE into=$INTO tables=$TABLES rows=$ROWS seconds=$SECONDS"
}

# ---- swapping ----------------------------------------------------------------------------------

# Both names change in one transaction, so at every moment there is the one or the other. It has
# to wait until nobody is connected: its lock keeps new clients out, while a second session ends
# those that are in, and ends itself with the change, or after 6 seconds, whoever lives then.
swap() {
  local end=$((SECONDS + SWAP_SECONDS)) live="" ender
  find_container
  exists "$WITH" || die "$WRONG_NAME" "there is no database $WITH; nothing was changed" "inv status; 'psql -l' in the container lists them"
  ! exists "$KEEP_AS" || die "$WRONG_NAME" "database $KEEP_AS exists already; nothing was changed" "choose another name for the old one"
  ! exists "$DATABASE" || live="ALTER DATABASE \"$DATABASE\" RENAME TO \"$KEEP_AS\";"
  while true; do
    enter "$CONTAINER"
    start "${ENTER[@]}" psql -XAtqw >/dev/null 2>&1 <<SQL
DO \$\$ BEGIN FOR i IN 1..60 LOOP
  EXIT WHEN NOT EXISTS (SELECT FROM pg_database WHERE datname = '$WITH');
  PERFORM pg_stat_clear_snapshot();
  PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ('$DATABASE', '$WITH');
  PERFORM pg_sleep(0.1);
END LOOP; END \$\$;
SQL
    ender=$STARTED
    sql postgres <<SQL && break
BEGIN; SET LOCAL synchronous_commit = on;
$live
ALTER DATABASE "$WITH" RENAME TO "$DATABASE";
COMMIT;
SQL
    finish "$ender"
    ((SECONDS < end)) || {
      tell psql "$ERRORS"
      die "$SWAP_FAILED" "the names could not be swapped: the live database is as it was" "see the line above; stop what uses the database, then run again"
    }
  done
  finish "$ender"
  log INFO "swapped: $WITH is $DATABASE now${live:+; the one before is kept as $KEEP_AS}"
}

# ---- what it does ------------------------------------------------------------------------------

prepare() {
  need "$(access_tools)" aws awk flock gzip md5sum mkfifo setpriv sha256sum timeout
  take_lock "$BACKUP_DIR"
  make_pieces_folder
  use_database "$1"
  # The database itself may be gone: everything is asked in one that is always there.
  DATABASE=$PG_DB PG_DB=postgres
  ERRORS=$DIR/errors.partial
  DECOMPRESS=(gzip -dc)
  ! command -v pigz >/dev/null || DECOMPRESS=(pigz -dc)
  [[ -z $PROGRESS ]] || {
    trap 'exec >/dev/null 2>&1' PIPE
    phase looking
    tell_progress 9>&- &
    CHILDREN+=("$!")
  }
}

# Refuses option $1 unless its value $2 has the form $3.
option() {
  [[ $2 =~ ^($3)$ ]] || die "$USAGE" "$1 '$2' is missing or not allowed" "restore-pg.sh --help"
}

check_options() {
  local name='[A-Za-z_][A-Za-z0-9_.-]{0,62}'
  case $ACTION in
    restore) option --into "$INTO" "$name" ;;
    swap) option --with "$WITH" "$name" && option --keep-as "$KEEP_AS" "$name" ;;
    drill) [[ -z $APP ]] || option --app "$APP" '[A-Za-z0-9][A-Za-z0-9_.:/@-]*' ;;
    *) usage >&2 && quit "$USAGE" ;;
  esac
  [[ " postgres template0 template1 " != *" ${INTO:-$WITH} "* && " postgres template0 template1 " != *" ${KEEP_AS:-x} "* ]] ||
    die "$USAGE" "database '${INTO:-$WITH}' is PostgreSQL's own" "choose another name"
  # The next restore drops what is called so.
  [[ " $INTO $WITH $KEEP_AS" != *" $PASSING"* ]] || die "$USAGE" \
    "names that begin with $PASSING are those of unfinished restores" "choose another name"
  [[ -z $POINT || $POINT == mark:* ]] || option --at "$POINT" '[0-9]{8}T[0-9]{6}Z|end'
  [[ $POINT != mark:* ]] || option --at-mark "${POINT#mark:}" '[A-Za-z0-9][A-Za-z0-9._-]{0,39}(_[0-9]{8}T[0-9]{6}Z)?'
  [[ -z $CLUSTER ]] || option --cluster "$CLUSTER" '[0-9]{1,20}'
  [[ $ACTION == swap || -n $LATEST$POINT ]] || option --set "$SET" '[0-9]{8}T[0-9]{6}Z'
  option --jobs "$JOBS" '[1-9][0-9]?'
  [[ -z $APP || -z $WITH_APP ]] || die "$USAGE" "--app and --with-app are for different apps" "use one of them"
  option --memory "${MEMORY:-1g}" "$MEMORY_FORM"
  option --cpus "${CPUS:-1}" "$CPUS_FORM"
}

main() {
  local config=/etc/backup-pg.conf database=""
  begin_run
  ACTION=${1-} INTO="" WITH="" KEEP_AS="" SET="" LATEST="" APP="" APP_NAME=NocoDB WITH_APP="" ANALYZE="" PROGRESS="" MEMORY="" CPUS="" KILLED=""
  declare -gA MANIFEST=()
  POINT="" CLUSTER="" THROWAWAY="" PIECES_DIR=""
  DRILLING="" REASON="" RESERVED=0 UNFINISHED="" EMPTY="" TABLES=0 ROWS=0 SERVER="" JOBS=$(nproc)
  ((JOBS <= 8)) || JOBS=8
  shift || true
  while (($# > 0)); do
    case $1 in
      --config) shift && config=${1-} ;;
      --database) shift && database=${1-} ;;
      --latest) LATEST=yes ;;
      --set) shift && SET=${1-} ;;
      --at) shift && POINT=${1-} ;;
      --at-mark) shift && POINT=mark:${1-} ;;
      --cluster) shift && CLUSTER=${1-} ;;
      --into) shift && INTO=${1-} ;;
      --with) shift && WITH=${1-} ;;
      --keep-as) shift && KEEP_AS=${1-} ;;
      --jobs) shift && JOBS=${1-} ;;
      --app) shift && APP=${1-} ;;
      --with-app) WITH_APP=yes ;;
      --memory) shift && MEMORY=${1-} ;;
      --cpus) shift && CPUS=${1-} ;;
      --analyze) ANALYZE=yes ;;
      --progress) PROGRESS=yes ;;
      --identity) read_identity ;;
      *) usage >&2 && quit "$USAGE" ;;
    esac
    shift || true
  done
  case $ACTION in
    --help) usage && exit ;;
    --version) echo "restore-pg.sh $VERSION" && exit ;;
  esac
  check_options
  load_config "$config"
  [[ $ACTION != drill ]] || use_identity_of_drills
  [[ -z $APP$WITH_APP || $ACCESS == docker ]] || die "$USAGE" "a drill with an app needs Docker, which a backup in a container has not" \
    "drill without --app (backup.drill_with_app: false)"
  # Each project's own: another one's drill may be under way.
  DRILL_LABEL=swarmkeep.drill${PROJECT:+.$PROJECT}
  MEMORY=${MEMORY:-$DRILL_MEMORY} CPUS=${CPUS:-$DRILL_CPUS}
  database=${database:-${PG_DB%% *}}
  [[ -z $WITH_APP ]] || read_app "${config%.conf}.apps" "$database"
  [[ $ACTION != drill || -z $POINT ]] || report_as replay "$database"
  [[ $ACTION != drill || -n $POINT ]] || report_as drill "$database"
  prepare "$database"
  "$ACTION"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  main "$@"
fi
