#!/bin/bash
# shellcheck disable=SC2034,SC2153,SC2154 # used by those that source this, set by those before it
# How the scripts reach PostgreSQL from a container of their own (ACCESS=network; backup.mode: container): over
# the Swarm's network, with the client programs of an image of the same major version. There is no Docker here:
# a throwaway server is a process. What access-docker.sh has for the host has the same names.
# Sourced by backup-common.sh, never run.

# The programs of PostgreSQL itself, before the wrappers that Debian has for several versions.
for FOLDER in /usr/lib/postgresql/*/bin; do
  [[ ! -d $FOLDER ]] || PATH=$FOLDER:$PATH
done

readonly NETWORK=network # what CONTAINER is, and
readonly PROCESS=process # what THROWAWAY is
readonly SOCKETS=/var/run/postgresql

access_tools() { echo pg_dump; }

engine_failed() { die "$NO_DATABASE" "$DB_SERVICE_NAME cannot be reached" "inv status"; }

# ---- the database -------------------------------------------------------------------------------

# Sets ENTER, the words that run a program that talks to the server $1. Its data goes through the FIFO $2.
enter() {
  local host=$DB_SERVICE_NAME
  [[ $1 != "$PROCESS" ]] || host=$SOCKETS
  ENTER=(env "PGHOST=$host" "PGDATABASE=$PG_DB" "PGUSER=$PG_USER" PGCONNECT_TIMEOUT=10 LC_ALL=C
    "PGOPTIONS=-c search_path=pg_catalog" "PIPE=${2:-}" sh -c "$INSIDE" sh)
}

with_stdin() { :; }
detached() { ENTER=(setsid -f "${ENTER[@]}"); }

# Sets CONTAINER, and DATABASE_SIZE, the database's bytes on disk.
find_container() {
  local size
  CONTAINER=$NETWORK
  enter "$CONTAINER"
  if size=$(ask "${ENTER[@]}" psql -XAtqw -c 'SELECT pg_database_size(current_database())' \
    2>"$ERRORS" </dev/null) && [[ $size =~ ^[0-9]+$ ]]; then
    DATABASE_SIZE=$size
    return
  fi
  tell psql "$ERRORS"
  service_is_here || die "$NO_CONTAINER" "service $DB_SERVICE_NAME does not answer" "inv status; if it is being deployed, this runs again"
  die "$NO_DATABASE" "PostgreSQL does not answer user $PG_USER for database $PG_DB" "check pg_db and pg_user, and inv status"
}

# A FIFO between the program and ours: as for the host, so that both are the same functions.
make_pipe() {
  local pipes=/dev/shm/${PIPES:-backup-pg}
  rm -rf -- "$pipes".*
  PIPE_DIR=$pipes.$RUN
  mkdir -m 700 -- "$PIPE_DIR"
  mkfifo -m 600 -- "$PIPE_DIR/pipe"
  enter "$CONTAINER" "$PIPE_DIR/pipe"
}

# Whether a server is there, whether or not it lets us in.
service_is_here() {
  local code=0
  pg_isready -q -h "$DB_SERVICE_NAME" -t 5 || code=$?
  ((code < 2))
}

described_image() { printf '%s %s\n' "$DB_SERVICE_NAME" "$POSTGRES_IMAGE"; }
image_name() { printf '%s' "$POSTGRES_IMAGE"; }

look_at_container() { MEMORY_LIMIT=$(own_memory_limit) INSIDE_ROOT=""; }

# What this container may use, in bytes; 0 for all of it (cgroup v2, v1).
own_memory_limit() {
  local most
  most=$(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null | head -n 1) || most=""
  [[ $most =~ ^[0-9]{1,15}$ ]] || most=0
  echo "$most"
}

# How large the disk of the server's folder $1 is, and how much of it is free, in kilobytes: only the server
# itself can tell. One that does not (the user is no superuser) is taken to have enough.
server_disk() {
  enter "$CONTAINER"
  {
    ask "${ENTER[@]}" psql -XAtqw -v ON_ERROR_STOP=1 -d postgres -v "folder=$1" 2>"$ERRORS" <<'END' || echo "- 9007199254740992 0 9007199254740992"
CREATE TEMP TABLE said (line text);
SELECT format('COPY said FROM PROGRAM %L', 'df -Pk ' || quote_literal(:'folder')) \gexec
SELECT line FROM said;
END
  } | awk 'END { print $2, $4 }'
}

# What the kernel has killed here, for want of memory.
killed_in() { sed -n 's/^oom_kill //p' /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null || true; }

out_of_memory() { [[ $1 == "$PROCESS" && -n $2 && $(killed_in "$1") != "$2" ]]; }

runs() {
  if [[ $1 == "$PROCESS" ]]; then
    [[ -d $THROWAWAY_DATA ]] && as_postgres pg_ctl -D "$THROWAWAY_DATA" status >/dev/null 2>&1
  else
    service_is_here
  fi
}

await_end() { :; }

# ---- a throwaway server -------------------------------------------------------------------------

readonly THROWAWAY_FOLDER=/var/lib/postgresql/swarmkeep
THROWAWAY_DATA=$THROWAWAY_FOLDER/data

as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/tmp "$@"; }

# A PostgreSQL of the same major version that nobody else can reach: on a socket only, which lets everybody in
# who is here. Sets THROWAWAY and KILLED; $1: what it preloads.
start_throwaway() {
  KILLED=$(killed_in "$PROCESS")
  remove_containers
  mkdir -p -- "$THROWAWAY_FOLDER"
  chown postgres -- "$THROWAWAY_FOLDER"
  THROWAWAY=$PROCESS
  run_as postgres
  start "${RUN_AS[@]}" sh -c "$START_THROWAWAY" sh "$THROWAWAY_DATA" "$PG_USER" "${THROWAWAY_OPTIONS[@]}" \
    -c "unix_socket_directories=$SOCKETS" -c "shared_preload_libraries=$1" </dev/null >/dev/null 2>"$ERRORS"
  THROWAWAY_STARTED=$STARTED
}

# shellcheck disable=SC2016 # expanded there
readonly START_THROWAWAY='
set -e; umask 077; data=$1 user=$2; shift 2
initdb -U "$user" -A trust --encoding=UTF8 --locale=C.UTF-8 --no-sync -D "$data" >"$data.log" 2>&1
exec postgres -D "$data" -c listen_addresses= "$@" >>"$data.log" 2>&1'

await_throwaway() {
  local end=$((SECONDS + $1))
  until pg_isready -q -h "$SOCKETS" && ask psql -XAtqw -h "$SOCKETS" -U "$PG_USER" -d postgres -c 'SELECT 1' >/dev/null 2>&1; do
    ((SECONDS < end)) && kill -0 "$THROWAWAY_STARTED" 2>/dev/null || return 1
    sleep 0.2
  done
}

last_words() { tail -n 5 -- "$THROWAWAY_DATA.log" >"$ERRORS" 2>/dev/null || true; }

start_replay() {
  mkdir -p -- "$THROWAWAY_FOLDER"
  chown postgres -- "$THROWAWAY_FOLDER"
  THROWAWAY=$PROCESS THROWAWAY_DATA=$(replay_data)
}

# Where the scripts that replay put the server's files (FOLDERS in restore-replay.sh).
replay_data() { if [[ -d /var/lib/postgresql/data ]]; then echo /var/lib/postgresql/data/replay; else echo /var/lib/postgresql/replay; fi; }

run_as() {
  RUN_AS=(env HOME=/tmp)
  [[ $1 == root ]] || RUN_AS=(setpriv "--reuid=$1" "--regid=$1" --init-groups env HOME=/tmp)
}

# Not with the dumps, whose folder is root's: PostgreSQL reads it.
replay_folder() { echo /var/lib/postgresql/swarmkeep-replay; }
readonly REPLAY_INSIDE=/var/lib/postgresql/swarmkeep-replay
volumes_root() { echo /var/lib/postgresql; }

# Ends the throwaway server, of a run that was killed, too, and removes its files.
remove_containers() {
  local data
  for data in "$THROWAWAY_FOLDER/data" "$(replay_data)"; do
    [[ ! -s $data/postmaster.pid ]] || as_postgres pg_ctl -D "$data" -m immediate -w -t 10 stop >/dev/null 2>&1 || true
    rm -rf -- "$data" "$data.log" "$data".{parts,wal}
  done
  rm -rf -- "$REPLAY_INSIDE" "$THROWAWAY_FOLDER" /tmp/replay.log /tmp/fetch /tmp/asked
}

# ---- pg_receivewal ------------------------------------------------------------------------------

# Sets SPOOL, a folder in the volume of the backup.
place_spool() {
  SPOOL=$WAL_DIR/$SPOOL_NAME INSIDE_SPOOL=$WAL_DIR/$SPOOL_NAME
  mkdir -p -- "$SPOOL"
}

# Runs the script $1, which runs pg_receivewal, in the background; the other words are the script's.
start_receiver() {
  allow_replication
  enter "$CONTAINER"
  setsid -f "${ENTER[@]}" sh -c "$@" >/dev/null 2>&1 9>&- </dev/null
}

# Has the server let us replicate over the network: the image's pg_hba.conf has a line for all databases, which
# does not hold for replication. That needs no restart; the line goes when archiving ends.
allow_replication() {
  ask_server <<END
SELECT format('COPY (SELECT %L) TO PROGRAM %L', 'host replication "$PG_USER" all scram-sha-256 # swarmkeep',
    'cat >>' || quote_literal(current_setting('hba_file')))
WHERE NOT EXISTS (SELECT FROM pg_hba_file_rules WHERE type LIKE 'host%' AND 'replication' = ANY (database)
  AND (address = 'all' OR address = '0.0.0.0') AND user_name && ARRAY['all', '$PG_USER']) \\gexec
SELECT pg_reload_conf();
END
}

disallow_replication() {
  ask_server <<'END'
SELECT format('COPY (SELECT 1) TO PROGRAM %L', 'sed -i "/# swarmkeep\$/d" ' || quote_literal(current_setting('hba_file'))) \gexec
SELECT pg_reload_conf();
END
}

receivers() { pgrep -f "pg_receivewal .*-S $SLOT " || true; }

stop_receiver() {
  local process
  for process in $(receivers); do kill "$process" 2>/dev/null || true; done
}

receiver_runs() { [[ -n $(receivers) ]]; }

# ---- the apps' volumes --------------------------------------------------------------------------

# NocoDB's is the only one that the container has.
find_volume() {
  VOLUME_DIR=/data
  [[ -d $VOLUME_DIR ]] || die "$NO_CONTAINER" "NocoDB's volume is not mounted at $VOLUME_DIR" "inv backup.install"
}
