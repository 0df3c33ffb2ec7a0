#!/bin/bash
# shellcheck disable=SC2034,SC2153 # used by its parts, set by them
# Point-in-time recovery: keeps the write-ahead log (WAL) of PostgreSQL and base backups in S3, so that
# a database can be restored as it was at any second. Root's cron runs it each minute on the db node;
# docs/pitr.md explains it.
#
# The way of the data: pg_receivewal (in the container, with a slot) writes each segment into a folder
# beside PGDATA, the spool -> finished segments are compressed -> uploaded in one call -> compared ->
# removed from the spool. Each run first writes a heartbeat and closes the segment with it, so that an
# idle database can be restored to the last minute, too. pg_basebackup -> pipe -> compressor -> bucket.

for PART in backup-common backup-set wal-base wal-segments; do
  for FOLDER in "${BASH_SOURCE[0]%/*}/parts" /usr/local/lib; do
    # shellcheck source=/dev/null
    [[ ! -r $FOLDER/$PART.sh ]] || { . "$FOLDER/$PART.sh" && break; }
  done
done
declare -F begin_run open_session make_base deliver_segments >/dev/null ||
  { echo "ERROR its parts are not there; next: 'inv backup.install' puts them in place" >&2 && exit 12; }

usage() {
  cat <<END
Usage: wal-pg.sh archive | base [--full] | mark NAME | check | stop [--config FILE]

archive  upload the WAL until now, and see that pg_receivewal runs; for a minute if WAL_TICK is less
base     make a base backup; --full: not an incremental one
mark     give this moment a name, to which a database can be restored
check    print what 'inv doctor' judges; changes nothing
stop     end pg_receivewal, drop its slot and empty the spool; what is in the bucket stays

Exit codes:
   0  the WAL until this run is in the bucket
   1  unexpected failure
   2  wrong usage or settings
  10  another run is in progress
  11  no running container of the service on this node
  12  a tool is missing, or the Docker engine does not answer
  13  PostgreSQL does not answer, or refuses the user
  14  too little free disk space to begin
  15  the disk filled up
  16  pg_basebackup, the compressor or age failed
  17  the base backup cannot be read back
  18  an upload failed: what is not in the bucket stays, and the next run uploads it
  19  an object in the bucket is not what was uploaded
  30  pg_receivewal does not run, or does not keep up
  31  the spool cannot be used
  32  WAL is missing: the slot was lost or dropped; a new base backup begins a new chain
  33  the database has tablespaces of its own, which base backups leave out
  128+n  stopped by signal n
END
}

readonly NO_RECEIVER=30 BAD_SPOOL=31 WAL_LOST=32 HAS_TABLESPACES=33
readonly SLOT=swarmkeep SPOOL_NAME=swarmkeep-wal
readonly SPOOL_FULL="the spool is full" # as its last line says then
readonly CLOSE_SECONDS=20 # how long a closed segment may take to arrive in the spool

remove_unfinished() {
  rm -rf -- "$DIR"/*.partial*
  [[ -z $PIECES_DIR ]] || rm -rf -- "$PIECES_DIR"
}

# ---- what is known from run to run --------------------------------------------------------------

# Sets what earlier runs have left: CLUSTER; FIRST and LAST, the first segment of this chain and the
# newest that is in the bucket; UNTIL, the time up to which every commit is there; SPOOL, the folder as
# this host sees it. In a file of its own BASE, the segment that the newest base backup begins in, BASE_OF,
# its cluster, CHAIN, what it is combined from, UNPACKED, how many bytes all of that is when it is unpacked,
# BASE_BYTES, the size of the newest full one, and SUMS, whether the server had checksums of its pages.
read_state() {
  CLUSTER="" FIRST="" LAST="" UNTIL="" SPOOL="" BASE="" BASE_OF="" BASE_BYTES="" CHAIN="" UNPACKED=0 SUMS=""
  # shellcheck source=/dev/null
  [[ ! -f $WAL_DIR/state ]] || . "$WAL_DIR/state"
  # shellcheck source=/dev/null
  [[ ! -f $WAL_DIR/newest-base ]] || . "$WAL_DIR/newest-base"
  PREFIX=${PROJECT:+$PROJECT/}wal/$CLUSTER
}

# Replaces file $1 by the variables that the other words name.
keep_in() {
  local file=$1 name
  shift
  for name; do printf '%s=%q\n' "$name" "${!name}"; done >"$file.new"
  sync -- "$file.new"
  mv -- "$file.new" "$file"
}

write_state() { keep_in "$WAL_DIR/state" CLUSTER FIRST LAST UNTIL SPOOL SEGMENT_BYTES; }

# From the base backups until now there is no way to what comes: a new one is needed.
begin_chain() {
  FIRST="" LAST="" UNTIL="" BASE="" BASE_OF="" CHAIN="" UNPACKED=0
  rm -f -- "$WAL_DIR"/newest-base{,.*.manifest} "$WAL_DIR/base.tried"
  write_state
}

# ---- PostgreSQL ---------------------------------------------------------------------------------

# Runs the SQL on stdin; sets SAID. The run ends if it fails.
ask_server() {
  enter "$CONTAINER"
  SAID=$(ask "${ENTER[@]}" psql -XAtqw -v ON_ERROR_STOP=1 -v VERBOSITY=terse 2>"$ERRORS") || {
    tell psql "$ERRORS"
    die "$NO_DATABASE" "PostgreSQL does not do what is asked" "see the line above; user $PG_USER must be a superuser"
  }
}

# Sets what has to be known of the server.
read_server() {
  ask_server <<END
SELECT (SELECT system_identifier FROM pg_control_system()), current_setting('data_directory'),
  (SELECT CASE WHEN setting = '-1' THEN -1 ELSE setting::bigint * 1048576 END FROM pg_settings
    WHERE name = 'max_slot_wal_keep_size'), pg_is_in_recovery(),
  (SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')),
  pg_size_bytes(current_setting('wal_segment_size')), current_setting('server_version_num')::int / 10000,
  coalesce(current_setting('summarize_wal', true), '-'), current_setting('data_checksums'),
  coalesce((SELECT concat_ws('|', CASE WHEN active THEN 'active' ELSE 'idle' END, wal_status, safe_wal_size)
    FROM pg_replication_slots WHERE slot_name = '$SLOT'), 'none');
END
  IFS='|' read -r CLUSTER DATA CAP STANDBY TABLESPACES SEGMENT_BYTES MAJOR SUMMARIES CHECKSUMS SLOT_STATE WAL_STATUS SAFE_BYTES <<<"$SAID"
  # What is no number is never calculated with: bash would run commands that are in it.
  [[ $CLUSTER =~ ^[0-9]+$ && $CAP =~ ^(-1|[0-9]+)$ && $TABLESPACES =~ ^[0-9]+$ && $SEGMENT_BYTES =~ ^[0-9]+$ && $MAJOR =~ ^[0-9]+$ ]] || die "$NO_DATABASE" "PostgreSQL says '$SAID'" "report it"
  [[ $STANDBY == f ]] || die "$NO_DATABASE" "PostgreSQL is in recovery" "wait until it has ended; 'docker logs $CONTAINER'"
  PREFIX=${PROJECT:+$PROJECT/}wal/$CLUSTER
}

# As read_server; another cluster than before begins a chain of its own.
look() {
  local before=$CLUSTER
  read_server
  if [[ -n $before && $before != "$CLUSTER" ]]; then
    log WARNING "this is cluster $CLUSTER, the WAL until now was of cluster $before: a new chain begins"
    begin_chain
  fi
}

# Has the server keep at most so much WAL for the slot, and the spool hold as much: when nobody archives,
# the disk must not fill up. Sets CAP, in bytes: backup.max_slot_wal, or a quarter of what is free now.
set_cap() {
  local free cap=$MAX_SLOT_WAL before=$CAP
  free=$(df --output=avail -B1 -- "$SPOOL" | tail -n 1)
  ((cap <= free / 4)) || cap=$((free / 4))
  ((cap >= 67108864)) || cap=67108864
  CAP=$((cap / 1048576 * 1048576))
  printf '%s' "$CAP" >"$WAL_DIR/cap"
  # What is free goes up and down by a little all the time.
  ((before == -1 || CAP > before + before / 10 || CAP < before - before / 10)) || { CAP=$before && return; }
  ask_server <<<"ALTER SYSTEM SET max_slot_wal_keep_size = '$((CAP / 1048576))MB'; SELECT pg_reload_conf()"
  log INFO "PostgreSQL keeps at most $((CAP / 1048576)) MB of WAL for what is not archived yet"
}

# Whether the spool holds as much as it may, or pg_receivewal was ended because it did.
spool_is_full() { (($(du -s -B1 -- "$SPOOL" | cut -f 1) > CAP)) || [[ $(receiver_log) == *"$SPOOL_FULL" ]]; }

# The last words of pg_receivewal. They are in the volume, whose owner is not trusted: no link is followed,
# and nobody is waited for.
receiver_log() { dd if="$SPOOL/receiver.log" iflag=nofollow,nonblock bs=64k count=16 status=none 2>/dev/null | tail -n 5; }

# Sees that there is a slot: it keeps the WAL that is not in the spool yet. After one that was lost (its
# WAL is gone) or dropped by hand a new one begins with what WAL there still is: whether that leaves a
# gap, check_order sees. The spool goes with the slot: pg_receivewal would go on from what is in there.
ensure_slot() {
  if [[ $SLOT_STATE == none ]]; then
    [[ -z $LAST ]] || log WARNING "slot $SLOT is gone, a new one is made; next: find out who dropped it"
  elif [[ $WAL_STATUS == lost ]]; then
    log WARNING "slot $SLOT was lost: more WAL was written than backup.max_slot_wal keeps, and nobody archived it; a new one is made"
  elif [[ $SLOT_STATE == idle && $(receiver_log) == *"requested WAL segment"*"has already been removed"* ]]; then
    # It goes on after the newest segment in the spool, and has told PostgreSQL of later ones.
    log WARNING "segments are gone from the spool $SPOOL that were not in the bucket, and PostgreSQL has them no more; next: find out who removed them; slot $SLOT is made anew"
  else
    return 0
  fi
  # What has arrived leads on from what is in the bucket: it stays until it is there, too.
  [[ -z $LAST ]] || deliver_segments || quit $?
  stop_receiver
  ask_server <<SQL
SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE slot_name = '$SLOT' AND active;
DO \$\$ BEGIN FOR i IN 1..100 LOOP
  EXIT WHEN NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '$SLOT' AND active);
  PERFORM pg_sleep(0.1);
END LOOP; END \$\$;
SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE slot_name = '$SLOT';
SQL
  empty_spool
  # Reserved from now on, not from the first connection on.
  ask_server <<<"SELECT pg_create_physical_replication_slot('$SLOT', true)"
  SLOT_STATE=idle SAFE_BYTES=""
}

# ---- the receiver -------------------------------------------------------------------------------

# Starts pg_receivewal if nobody holds the slot. It ends when its connection does, and says why in the
# spool; or when the spool is full, whether or not anybody supervises it: then the slot's cap counts.
# It flushes a segment when that is finished. Until then PostgreSQL keeps it for the slot; to flush each
# commit here, too, made NocoDB's own 1.3 times as slow.
ensure_receiver() {
  [[ $SLOT_STATE != active ]] || return 0
  remove_unfilled
  start_receiver "$RECEIVE" sh "$INSIDE_SPOOL" "$SLOT" "$((CAP / 1024))" "$SPOOL_FULL"
}

# What sh does there: $1 is the spool, $2 the slot, $3 how many kilobytes the spool may have, $4 what it says then.
# shellcheck disable=SC2016 # expanded there
readonly RECEIVE='
umask 077; unset PGOPTIONS
pg_receivewal -w -n -D "$1" -S "$2" -s 5 >"$1/receiver.log" 2>&1 &
while kill -0 $! 2>/dev/null; do
  sleep 2
  used=$(du -sk "$1" 2>/dev/null | cut -f 1)
  [ "${used:-0}" -le "$3" ] || { kill $!; echo "$4" >>"$1/receiver.log"; }
done'

# Writes a heartbeat (a commit of its own, with a time; it needs no table), closes its segment, and sets
# CLOSED, that segment, and BEAT, the time up to which every commit is in it or before it.
heartbeat() {
  ask_server <<'END'
SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"');
SELECT pg_logical_emit_message(true, 'swarmkeep', 'heartbeat') \gset _
SELECT pg_walfile_name(pg_switch_wal());
END
  { read -r BEAT && read -r CLOSED; } <<<"$SAID"
}

# Begins a new chain where PostgreSQL's WAL is behind what is in the bucket: its volume was set back, to a
# snapshot for example. What it writes now is another history, under the names of the one before.
check_progress() {
  [[ -n $LAST && ! $CLOSED > $LAST ]] || return 0
  log ERROR "PostgreSQL writes segment $CLOSED, and $LAST is in the bucket already: its volume was set back; next: find out by whom; a new chain begins by itself, and 'inv backup.verify' fails until the WAL is beyond $LAST"
  begin_chain
  GAP=yes SLOT_STATE=none
  ensure_slot
  ensure_receiver
  heartbeat
}

# Waits until the closed segment is in the spool.
await_segment() {
  local end=$((SECONDS + CLOSE_SECONDS)) again=$((SECONDS + 3))
  until [[ -f $SPOOL/$CLOSED || ! $CLOSED > $LAST ]]; do
    ((SECONDS < end)) || {
      # It may be behind: what it has finished is worth as much.
      deliver_segments || true
      receiver_log >"$ERRORS" || true
      tell pg_receivewal "$ERRORS"
      die "$NO_RECEIVER" "segment $CLOSED did not arrive: pg_receivewal does not run, or does not keep up" \
        "see the line above; the next run starts it again"
    }
    # It may have ended right after it was seen to run. One that is still on its way is left alone.
    ((SECONDS < again)) || { again=$end; read_server; receiver_runs || ensure_receiver; }
    sleep 0.1
  done
}

# ---- what it does -------------------------------------------------------------------------------

archive() {
  local here=0
  CLOSED="" BEAT=""
  service_is_here || here=$?
  # What arrived before needs no engine.
  ((here != 2)) || { [[ -z $LAST ]] || deliver_segments || quit $?; engine_failed; }
  if ((here != 0)); then
    # Another node may have it: that is no line each minute. What arrived before it ended is worth as much.
    [[ -n $LAST && ! -f $WAL_DIR/absent ]] || quit "$NO_CONTAINER"
    deliver_segments || quit $?
    : >"$WAL_DIR/absent"
  fi
  find_container
  rm -f -- "$WAL_DIR/absent"
  look
  find_spool
  set_cap
  ensure_slot
  if spool_is_full; then
    log ERROR "the spool has more than $((CAP / 1048576)) MB that are not in the bucket: pg_receivewal waits; next: see the lines before; more room: backup.max_slot_wal"
    deliver_segments || quit $?
  fi
  ensure_receiver
  heartbeat
  check_progress
  await_segment
  deliver_segments || quit $?
  succeeded slot_safe_bytes="$SAFE_BYTES" slot_cap_bytes="$CAP"
  # It may have been finished meanwhile.
  # shellcheck source=/dev/null
  [[ ! -f $WAL_DIR/newest-base ]] || . "$WAL_DIR/newest-base"
  # One that had begun before the chain did is of no use to it, nor is one of another cluster.
  [[ $BASE_OF == "$CLUSTER" && -n $BASE && ! $BASE < $FIRST ]] || start_base
  [[ -z $GAP ]] || quit "$WAL_LOST"
}

# Archives every WAL_TICK seconds for a minute, the first time now.
archive_for_a_minute() {
  while true; do
    archive
    ((SECONDS - SECONDS % WAL_TICK + WAL_TICK < 60)) || break
    sleep $((WAL_TICK - SECONDS % WAL_TICK))
  done
}

# Makes a base backup in a process of its own, unless that was tried a moment ago: uploading goes on.
start_base() {
  [[ -z $(find "$WAL_DIR/base.tried" -mmin -10 2>/dev/null) ]] || return 0
  : >"$WAL_DIR/base.tried"
  log INFO "a base backup begins: this chain has none"
  setsid -f "$0" base --config "$CONFIG" 9>&- </dev/null
}

# Gives this moment a name. The point itself is in the WAL; the object says that it is there, and when.
mark() {
  local name=${NAME}_$STAMP
  find_container
  look
  [[ $SLOT_STATE != none ]] || die "$NO_RECEIVER" "no WAL is archived yet" "inv backup.install begins it; inv backup.verify"
  # The time is one after it: whatever reaches until then has it.
  ask_server <<END
SELECT pg_create_restore_point('$name') \\gset _
SELECT to_char((clock_timestamp() + interval '1 second') AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"');
END
  printf '{"format": 1, "mark": %s, "time": "%s", "point": "%s",\n"project": %s}\n' "$(quoted "$NAME")" "$SAID" "$name" \
    "$(project_json)" >"$DIR/mark.partial"
  send "$DIR/mark.partial" "$PREFIX/mark_${NAME}_$SAID.json" "$(sum_of "$DIR/mark.partial")" || quit $?
  log INFO "marked: $NAME at $SAID"
}

# How many bytes the newest base backup has in the bucket, with all that it adds to.
chain_bytes() {
  local one sum=0
  for one in $CHAIN; do sum=$((sum + ${one#*:})); done
  printf '%s' "$sum"
}

# Prints a line for each thing that can keep WAL from being archived or replayed: its name and values.
check() {
  local root superuser others size behind=-
  find_container
  read_server
  ask_server <<END
SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), (SELECT sum(pg_database_size(oid))::bigint FROM pg_database),
  (SELECT coalesce(string_agg(slot_name, ',' ORDER BY slot_name), '-') FROM pg_replication_slots WHERE slot_name <> '$SLOT');
END
  IFS='|' read -r superuser size others <<<"$SAID"
  [[ $size =~ ^[0-9]+$ ]] || die "$NO_DATABASE" "PostgreSQL says '$SAID'" "report it"
  [[ $SLOT_STATE != active ]] || receiver_runs || SLOT_STATE=foreign
  if [[ $SUMMARIES == on ]]; then
    ask_server <<<"SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), summarized_lsn)::bigint FROM pg_get_wal_summarizer_state()"
    behind=$SAID
  fi
  root=$(volumes_root)
  [[ -d $root ]] || root=$DIR
  cat <<END
superuser $superuser
tablespaces $TABLESPACES
slot $SLOT_STATE ${WAL_STATUS:--} ${SAFE_BYTES:--}
cap $CAP
other_slots $others
spool $([[ -n $SPOOL && -d $SPOOL ]] && du -s -B1 -- "$SPOOL" | cut -f 1 || echo 0)
summaries $behind
volumes $(df --output=avail -B1 -- "$root" | tail -n 1) $(replay_bytes "$size" "$UNPACKED" "$(wc -w <<<"$CHAIN")")
folder $(free_bytes) $(($(chain_bytes) + size / 2))
END
}

# Removes what was known from run to run.
forget() { rm -f -- "$WAL_DIR"/{state,newest-base,newest-base.*.manifest,cap,base.tried,absent,summarize-wal}; }

# What is in the bucket stays: databases can be restored to any second until now.
stop() {
  local here=0
  service_is_here || here=$?
  ((here != 2)) || engine_failed
  if ((here != 0)); then
    log WARNING "service $DB_SERVICE_NAME has no running container on this node: if its volume is still used, drop slot $SLOT there"
    forget
    return
  fi
  find_container
  look
  find_spool
  stop_receiver
  [[ -z $LAST ]] || deliver_segments || true
  empty_spool
  ask_server <<<"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '$SLOT' AND active;
    SELECT pg_sleep(1); SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '$SLOT';
    ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf()"
  disallow_replication
  [[ $(cat "$WAL_DIR/summarize-wal" 2>/dev/null) != "$CLUSTER" ]] || ask_server <<<"ALTER SYSTEM RESET summarize_wal; SELECT pg_reload_conf()"
  forget
  log INFO "archiving has ended; what is in the bucket stays"
}

main() {
  CONFIG=/etc/backup-pg.conf
  begin_run
  ACTION=${1-} NAME="" FULL="" GAP="" PIECES_DIR="" CLOSED="" BEAT=""
  shift || true
  while (($# > 0)); do
    case $1 in
      --config) shift && CONFIG=${1-} ;;
      --full)
        [[ $ACTION == base ]] || { usage >&2 && quit "$USAGE"; }
        FULL=yes
        ;;
      *)
        [[ $ACTION == mark && -z $NAME ]] || { usage >&2 && quit "$USAGE"; }
        NAME=$1
        ;;
    esac
    shift || true
  done
  case $ACTION in
    --help) usage && exit ;;
    --version) echo "wal-pg.sh $VERSION" && exit ;;
    mark) [[ $NAME =~ ^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$ ]] ||
      die "$USAGE" "mark '$NAME' is missing or not allowed" "letters, digits, _ . - and at most 40 of them" ;;
    archive | base | check | stop) ;;
    *) usage >&2 && quit "$USAGE" ;;
  esac
  load_config "$CONFIG"
  need "$(access_tools)" aws awk find flock gzip md5sum mkfifo setpriv sha256sum tar timeout
  WAL_DIR=$BACKUP_DIR/.wal DIR=$BACKUP_DIR/.wal/${ACTION/stop/archive}
  case $ACTION in
    archive) report_as wal "${PG_DB%% *}" ;;
    base) report_as base "${PG_DB%% *}" ;;
  esac
  # Its schedule is gone by now: nothing begins after a run that may be under way.
  # Where the run before it archives for its whole minute, a run waits until that has ended.
  case $ACTION in
    stop) take_lock "$DIR" 90 ;;
    archive) take_lock "$DIR" "$((WAL_TICK < 60 ? 10 : 0))" ;;
    *) take_lock "$DIR" ;;
  esac
  ERRORS=$DIR/errors.partial PG_DB=postgres
  make_pieces_folder
  choose_compression
  use_recipients
  read_state
  case $ACTION in
    archive) archive_for_a_minute ;;
    base) make_base ;;
    *) "$ACTION" ;;
  esac
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  main "$@"
fi
