#!/bin/bash
# shellcheck disable=SC2034,SC2153,SC2154 # used by those that source this, set by those before it
# How the scripts reach PostgreSQL from the host (ACCESS=docker): into its container, by docker exec. What
# access-network.sh has for a backup in a container has the same names. Sourced by backup-common.sh, never run.

access_tools() { echo docker; }

engine_failed() {
  tell docker "$ERRORS"
  die "$NO_TOOLS" "the Docker engine does not answer" "see 'systemctl status docker' on this node"
}

# ---- the database's container -------------------------------------------------------------------

# Sets ENTER, the words that run a program in container $1. Its data goes through the FIFO $2
# in there, or without one through docker exec, whose stdin -i connects. Functions and operators
# that clients made in the database are not looked for: ours would not be safe from them.
enter() {
  ENTER=(docker exec -e "PGDATABASE=$PG_DB" -e "PGUSER=$PG_USER" -e PGCONNECT_TIMEOUT=10 -e LC_ALL=C
    -e "PGOPTIONS=-c search_path=pg_catalog" -e "PIPE=${2:-}")
  [[ -n ${2:-} ]] || ENTER+=(-i)
  ENTER+=("$1" sh -c "$INSIDE" sh)
}

# Sets CONTAINER, the service's container on this node, and DATABASE_SIZE, its bytes on disk.
# Several run while an update is under way; they share the data. The newest that answers is it.
find_container() {
  local ids id size
  ids=$(ask docker ps -q --filter "label=com.docker.swarm.service.name=$DB_SERVICE_NAME" \
    --filter status=running 2>"$ERRORS") || engine_failed
  [[ -n $ids ]] || die "$NO_CONTAINER" "service $DB_SERVICE_NAME has no running container on this node" \
    "if it runs on another node, that one makes the backup; else 'docker service ps $DB_SERVICE_NAME'"
  for id in $ids; do
    enter "$id"
    if size=$(ask "${ENTER[@]}" psql -XAtqw -c 'SELECT pg_database_size(current_database())' \
      2>"$ERRORS" </dev/null) && [[ $size =~ ^[0-9]+$ ]]; then
      # shellcheck disable=SC2034 # used by those that source this
      CONTAINER=$id DATABASE_SIZE=$size
      return
    fi
  done
  tell psql "$ERRORS"
  die "$NO_DATABASE" "PostgreSQL in container $id does not answer user $PG_USER for database $PG_DB" \
    "check pg_db and pg_user, and 'docker logs $id'"
}

# docker exec's own stdin and stdout carry 70-100 MB/s and burn a core doing so. A FIFO in the
# container's /dev/shm is a plain kernel pipe between its program and ours. Where the
# container's files are out of reach (rootless Docker), a local FIFO and docker exec carry it.
make_pipe() {
  local process pipes=/dev/shm/${PIPES:-backup-pg} inside=/dev/shm/${PIPES:-backup-pg}.$RUN
  process=$(ask docker inspect -f '{{.State.Pid}}' "$CONTAINER" 2>"$ERRORS") || process=none
  PIPE_DIR=/proc/$process/root$inside
  # A folder of its own: in a shared one the kernel refuses FIFOs of other users.
  # shellcheck disable=SC2016 # expanded in the container
  if ask docker exec "$CONTAINER" sh -c 'rm -rf "$2".*; mkdir -m 700 "$1" && mkfifo -m 600 "$1/pipe"' \
    sh "$inside" "$pipes" 2>"$ERRORS" && [[ -p $PIPE_DIR/pipe && -r $PIPE_DIR/pipe && -w $PIPE_DIR/pipe ]]; then
    enter "$CONTAINER" "$inside/pipe"
    return
  fi
  log WARNING "cannot reach the container's files: the data goes through docker exec, which is slower"
  ask docker exec "$CONTAINER" rm -rf "$inside" 2>"$ERRORS" || true
  PIPE_DIR=$DIR/pipe
  rm -rf -- "$PIPE_DIR"
  mkdir -- "$PIPE_DIR"
  mkfifo -- "$PIPE_DIR/pipe"
  enter "$CONTAINER"
}

# Connects stdin with what ENTER runs, and has it run in the background.
with_stdin() { [[ ${ENTER[*]} == *" -i "* ]] || ENTER=("${ENTER[@]:0:2}" -i "${ENTER[@]:2}"); }
detached() { ENTER=("${ENTER[@]:0:2}" -d "${ENTER[@]:2}"); }

# Whether the service has a container on this node. Returns 2 where the engine does not answer.
service_is_here() {
  local ids
  ids=$(ask docker ps -q --filter "label=com.docker.swarm.service.name=$DB_SERVICE_NAME" 2>"$ERRORS") || return 2
  [[ -n $ids ]]
}

# The image of the database's container: with the service before it and its hash behind it; its name alone.
described_image() { ask docker inspect -f "$DB_SERVICE_NAME {{.Config.Image}} {{.Image}}" "$CONTAINER" 2>"$ERRORS" </dev/null || true; }
image_name() { ask docker inspect -f '{{.Config.Image}}' "$CONTAINER" 2>"$ERRORS" || echo unknown; }

# Sets of container $CONTAINER: MEMORY_LIMIT (bytes; 0 for none) and INSIDE_ROOT, where its files are.
look_at_container() {
  local process
  read -r process MEMORY_LIMIT < <(ask docker inspect -f '{{.State.Pid}} {{.HostConfig.Memory}}' "$CONTAINER" 2>"$ERRORS" || echo none 0)
  INSIDE_ROOT=/proc/$process/root
}

# How large the disk of the server's folder $1 is, and how much of it is free, in kilobytes.
server_disk() {
  { df -Pk "$INSIDE_ROOT$1" || ask docker exec "$CONTAINER" df -Pk "$1"; } 2>"$ERRORS" | awk 'END { print $2, $4 }'
}

# How many processes of container $1 the kernel has killed for want of memory (cgroup v2, v1). Read
# from outside: whatever runs in such a container may be killed next. "" where that is out of reach.
# $2: where its files are, if that is known.
killed_in() {
  local groups=${2-}
  [[ -n $groups ]] || groups=/proc/$(ask docker inspect -f '{{.State.Pid}}' "$1" 2>/dev/null || echo none)/root
  groups+=/sys/fs/cgroup
  sed -n 's/^oom_kill //p' "$groups/memory.events" "$groups/memory/memory.oom_control" 2>/dev/null || true
}

# Whether container $1 has lost a process for want of memory, since killed_in said $2. Docker's own
# word counts only where the kernel's is out of reach: it may be of long ago while the container runs.
out_of_memory() {
  local now
  now=$(killed_in "$1")
  if [[ -n $now ]]; then [[ $now != "$2" ]]; else
    [[ $(ask docker inspect -f '{{.State.OOMKilled}}' "$1" 2>/dev/null) == true ]]
  fi
}

# Whether container $1 runs.
runs() { [[ $(ask docker inspect -f '{{.State.Running}}' "$1" 2>&1) == true ]]; }

# Waits a moment for container $1 to be known to have ended.
await_end() { timeout 10 docker wait "$1" >/dev/null 2>&1 || true; }

# ---- a throwaway server -------------------------------------------------------------------------

# A PostgreSQL of the live one's image that nobody else can reach: without a network, it needs no
# password. It is thrown away, so it need not be safe from a crash. Sets THROWAWAY and KILLED; $1: what it preloads.
start_throwaway() {
  local image
  KILLED=0
  image=$(ask docker inspect -f '{{.Image}}' "$CONTAINER")
  THROWAWAY=$(ask docker run -d --label "$DRILL_LABEL=$RUN" --network none --memory "$MEMORY" --cpus "$CPUS" \
    --cpu-shares 128 --shm-size 128m -e "POSTGRES_USER=$PG_USER" -e POSTGRES_DB=postgres \
    -e POSTGRES_HOST_AUTH_METHOD=trust -e 'POSTGRES_INITDB_ARGS=--encoding=UTF8 --no-sync' "$image" \
    postgres "${THROWAWAY_OPTIONS[@]}" -c "shared_preload_libraries=$1" 2>"$ERRORS") || throwaway_failed
}

throwaway_failed() {
  tell docker "$ERRORS"
  die "$NO_TOOLS" "the throwaway PostgreSQL could not be started" "see the line above"
}

# Waits until it answers, for at most $1 seconds.
await_throwaway() { await "$THROWAWAY" "$1" pg_isready -q -h 127.0.0.1; }

# Writes the last words of container $1 to $ERRORS.
last_words() { ask docker logs --tail 5 "$1" >"$ERRORS" 2>&1 || true; }

# Waits until a program succeeds in container $1, for at most $2 seconds.
await() {
  local container=$1 end=$((SECONDS + $2))
  shift 2
  until ask docker exec "$container" "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) && runs "$container" || return 1
    sleep 0.2
  done
}

# A container of the live one's image with the files in REPLAY, in which nothing runs yet. Sets THROWAWAY.
start_replay() {
  local image limits=()
  image=$(ask docker inspect -f '{{.Image}}' "$CONTAINER")
  # A drill must not be felt; who restores waits for it, and production still comes first.
  [[ $ACTION != drill ]] || limits=(--memory "$MEMORY" --cpus "$CPUS")
  THROWAWAY=$(ask docker run -d --label "$DRILL_LABEL=$RUN" --network none "${limits[@]}" \
    --cpu-shares 128 --shm-size 128m -v "$REPLAY:/replay:ro" --entrypoint tail "$image" -f /dev/null 2>"$ERRORS") || throwaway_failed
}

# Sets RUN_AS, the words that run a program there as user $1.
run_as() { RUN_AS=(docker exec -u "$1" "$THROWAWAY"); }

# Where this host has what is to be replayed, and where it is in there; where such servers have their files.
replay_folder() { echo "$DIR/replay.partial"; }
readonly REPLAY_INSIDE=/replay
volumes_root() { ask docker info -f '{{.DockerRootDir}}' 2>"$ERRORS" || echo "$DIR"; }

# Removes the containers of this project's drills, with their volumes.
remove_containers() {
  local ids
  ids=$(ask docker ps -aq --filter "label=$DRILL_LABEL" 2>/dev/null) || ids=""
  # shellcheck disable=SC2086 # words
  [[ -z $ids ]] || ask docker rm -f -v $ids >/dev/null 2>&1 || true
}

# ---- pg_receivewal ------------------------------------------------------------------------------

# Makes the spool where it is not there, and sets SPOOL and INSIDE_SPOOL, its names on this host and in
# the container. It must lie in the volume: what is in the container alone goes with it.
place_spool() {
  INSIDE_SPOOL=${DATA%/*}/$SPOOL_NAME
  ask docker exec -u postgres "$CONTAINER" mkdir -p -m 700 "$INSIDE_SPOOL" 2>"$ERRORS" || {
    tell docker "$ERRORS"
    die "$BAD_SPOOL" "folder $INSIDE_SPOOL cannot be made" "it must be writable for postgres, beside PGDATA"
  }
  SPOOL=$(ask docker inspect -f '{{range .Mounts}}{{.Destination}} {{.Source}}{{"\n"}}{{end}}' "$CONTAINER" 2>"$ERRORS" |
    in_mount "$INSIDE_SPOOL")
  [[ -n $SPOOL ]] || die "$BAD_SPOOL" "$INSIDE_SPOOL is in no volume: it would be lost with the container" \
    "PGDATA must be a folder in its volume, as it is in Swarmkeep's compose file"
}

# Given lines "DESTINATION SOURCE" on stdin, prints where path $1 of the container is on the host.
in_mount() {
  awk -v path="$1" '
    { source = substr($0, length($1) + 2) }
    index(path, $1 "/") == 1 && length($1) > best { best = length($1); found = source substr(path, best + 1) }
    END { if (best) print found }'
}

# Runs the script $1, which runs pg_receivewal, in the container; the other words are the script's.
start_receiver() {
  enter "$CONTAINER" "$SLOT" # without stdin
  ask "${ENTER[@]:0:2}" -d -u postgres "${ENTER[@]:2}" sh -c "$@" >/dev/null 2>"$ERRORS" </dev/null || {
    tell docker "$ERRORS"
    die "$NO_RECEIVER" "pg_receivewal could not be started" "see the line above"
  }
}

# Ends every pg_receivewal of ours in the container, from outside: it has neither ps nor pkill.
stop_receiver() {
  local process
  while read -r process; do
    kill "$process" 2>/dev/null || true
  done < <(ask docker top "$CONTAINER" -eo pid,args 2>/dev/null | awk '/[p]g_receivewal .*-S '"$SLOT"' / { print $1 }')
}

# Whether it is our pg_receivewal that reads the slot: it writes into the spool.
receiver_runs() {
  ask docker top "$CONTAINER" -eo pid,args 2>/dev/null |
    awk '/[p]g_receivewal .*\/'"$SPOOL_NAME -S $SLOT"'/ { found = 1 } END { exit !found }'
}

disallow_replication() { :; } # the local socket lets us anyway

# ---- the apps' volumes --------------------------------------------------------------------------

# Sets VOLUME_DIR, where this node has the files of volume $1.
find_volume() {
  local volume=$1
  ask docker info >/dev/null 2>"$ERRORS" || engine_failed
  VOLUME_DIR=$(ask docker volume inspect -f '{{.Mountpoint}}' "$volume" 2>"$ERRORS") && [[ -d $VOLUME_DIR ]] ||
    die "$NO_CONTAINER" "this node has no volume $volume" "nothing to do if its app has never run here; else 'docker volume ls'"
}
