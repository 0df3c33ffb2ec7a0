#!/bin/bash
# shellcheck disable=SC2034,SC2153 # used by those that source this, set by those before it
# The part of upgrade-pg.sh that copies: a server of the new version in a volume of its own, the sessions
# that keep writers away from the old one, the copy, the comparison. Sourced, never run.

readonly NEW_PORT=5433 # of its socket: in the old server's network 5432 is taken
readonly MARK=swarmkeep-upgrade # its cluster_name: the service starts without one

# ---- the old server -----------------------------------------------------------------------------

# Sets OLD, the service's container on this node.
find_old() {
  find_container
  OLD=$CONTAINER
}

# Runs the SQL on stdin in database $1 of the old server; sets SAID.
ask_old() {
  enter "$OLD"
  SAID=$("${ENTER[@]/#PGDATABASE=*/PGDATABASE=$1}" psql -XAtqw -v ON_ERROR_STOP=1 -v VERBOSITY=terse 2>"$ERRORS") || {
    tell psql "$ERRORS"
    die "$NO_DATABASE" "PostgreSQL does not do what is asked in database $1" "see the line above"
  }
}

# All databases that clients can use; and postgres, if somebody has made something in it.
list_databases() {
  ask_old postgres <<'END'
SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate AND datname <> 'postgres' ORDER BY datname;
SELECT 'postgres' WHERE EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema');
END
  printf '%s\n' "$SAID"
}

# Sets what has to be known of the old server and of the new image.
look_at_old() {
  local names
  ask_old postgres <<'END'
SELECT current_setting('server_version_num')::int / 10000, (SELECT sum(pg_database_size(oid))::bigint FROM pg_database),
  (SELECT quote_ident(rolname) FROM pg_roles WHERE oid = 10), (SELECT rolname FROM pg_roles WHERE oid = 10),
  (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), current_setting('data_checksums'),
  (SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')),
  (SELECT count(*) FROM pg_prepared_xacts), pg_is_in_recovery(),
  (SELECT count(*) FROM pg_database WHERE NOT datallowconn AND NOT datistemplate);
END
  IFS='|' read -r OLD_MAJOR BYTES BOOT_QUOTED BOOT SUPERUSER CHECKSUMS TABLESPACES PREPARED STANDBY CLOSED <<<"$SAID"
  # What is no number is never calculated with: bash would run commands that are in it.
  [[ $OLD_MAJOR =~ ^[0-9]+$ && $BYTES =~ ^[0-9]+$ ]] || die "$NO_DATABASE" "PostgreSQL says '$SAID'" "report it"
  names=$(list_databases)
  mapfile -t DATABASES <<<"$names"
  # Its programs tell what the image can do, without a server.
  start docker run --rm --label "$LABEL=$RUN" --network none --user postgres --entrypoint sh "$IMAGE" -c '
    postgres --version
    postgres --describe-config | cut -f 1 | sed "s/^/setting /"
    find / -xdev -path "*/extension/*.control" 2>/dev/null | sed "s,.*/,extension ,; s,\.control$,,"' \
    >"$DIR/image.partial" 2>"$ERRORS" </dev/null
  finish "$STARTED"
  NEW_MAJOR=$(sed -nE 's/^postgres \(PostgreSQL\) ([0-9]+).*/\1/p' "$DIR/image.partial" | head -n 1)
  [[ -n $NEW_MAJOR ]] || {
    tell docker "$ERRORS"
    die "$IN_THE_WAY" "image $IMAGE does not say which PostgreSQL it has" "name an image of PostgreSQL"
  }
}

# Makes sure that the image is on this node.
need_image() {
  ! ask docker image inspect "$IMAGE" >/dev/null 2>&1 || return 0
  log INFO "pulling $IMAGE"
  start docker pull -q "$IMAGE" >/dev/null 2>"$ERRORS"
  finish "$STARTED"
  ((STATUS == 0)) || {
    tell docker "$ERRORS"
    die "$IN_THE_WAY" "image $IMAGE is not on this node and cannot be pulled" "correct its name, or log this node in: inv registry.login"
  }
}

# Refuses what cannot work, before anything is changed.
look_for_hindrances() {
  local name lacking root need free
  refuse() { die "$IN_THE_WAY" "$1; nothing was changed" "$2"; }
  ((NEW_MAJOR > OLD_MAJOR)) || refuse "PostgreSQL $OLD_MAJOR runs, the image has $NEW_MAJOR" "name a newer major version"
  [[ $SUPERUSER == t ]] || refuse "user $PG_USER is no superuser" "ALTER ROLE $PG_USER SUPERUSER"
  [[ $STANDBY == f ]] || refuse "PostgreSQL is in recovery" "wait until it has ended"
  [[ $TABLESPACES == 0 ]] || refuse "the server has $TABLESPACES tablespaces of its own" "move what is in them to pg_default: ALTER TABLE ... SET TABLESPACE"
  [[ $PREPARED == 0 ]] || refuse "the server has $PREPARED prepared transactions" "end them: SELECT * FROM pg_prepared_xacts"
  [[ $CLOSED == 0 ]] || refuse "the server has $CLOSED databases that allow no connections" "see pg_database.datallowconn; drop them, or allow connections"
  for name in "${DATABASES[@]}"; do
    [[ $name =~ ^[A-Za-z_][A-Za-z0-9_.-]{0,62}$ ]] || refuse "database '$name' has a name that is not supported" "rename it: letters, digits, _ . -"
    ask_old "$name" <<<"SELECT extname FROM pg_extension"
    lacking=$(comm -23 <(sort <<<"$SAID") <(sed -n 's/^extension //p' "$DIR/image.partial" | sort) | paste -sd ' ')
    [[ -z $lacking ]] || refuse "database $name uses extensions that $IMAGE lacks: $lacking" "use an image that has them"
  done
  root=$(ask docker info -f '{{.DockerRootDir}}' 2>"$ERRORS") && [[ -d $root ]] || root=$DIR
  free=$(df --output=avail -B1 -- "$root" | tail -n 1)
  # What is loaded is in the log, too, until the next checkpoint.
  need=$((BYTES * 12 / 10 + (BYTES < 2147483648 ? BYTES : 2147483648) + 134217728))
  ((free >= need)) || die "$NO_SPACE" "$root has $free bytes free, the copy needs about $need; nothing was changed" "make room there"
}

# ---- the new server -----------------------------------------------------------------------------

# Makes the volume. One of an earlier copy that no service has ever used is made anew.
make_volume() {
  local label options
  if label=$(ask docker volume inspect -f "{{index .Labels \"$LABEL\"}}" "$VOLUME" 2>/dev/null); then
    options=$(volume_file "$VOLUME" postmaster.opts)
    [[ -n $label && $options == *"$MARK"* ]] ||
      die "$IN_THE_WAY" "volume $VOLUME is there already, and it is not of an upgrade that was cut off; nothing was changed" \
        "if it is of one that failed or was undone, and what was written in it may go, on this node: docker ps -aq --filter volume=$VOLUME | xargs -r docker rm -v; docker volume rm $VOLUME"
    ask docker volume rm "$VOLUME" >/dev/null 2>"$ERRORS" || {
      tell docker "$ERRORS"
      die "$IN_THE_WAY" "volume $VOLUME of an earlier copy cannot be removed" "see the line above"
    }
  fi
  [[ ! -f $DIR/volumes ]] || { grep -vxF -- "$VOLUME" "$DIR/volumes" || true; } >"$DIR/volumes.partial"
  [[ ! -f $DIR/volumes ]] || mv -- "$DIR/volumes.partial" "$DIR/volumes"
  ask docker volume create --label "$LABEL=$RUN" "$VOLUME" >/dev/null
}

# What is in file $2 of the data directory in volume $1; nothing where that is out of reach.
volume_file() {
  local root
  root=$(ask docker volume inspect -f '{{.Mountpoint}}' "$1" 2>/dev/null) || return 0
  dd if="$root${NEW_DATA#"$MOUNT"}/$2" iflag=nofollow,nonblock bs=64k count=1 status=none 2>/dev/null || true
}

# Starts a server of the new version, in the old one's network to reach it, with a socket of its own
# only. It is not flushed before it is finished: until then nobody needs it. Its password is thrown away.
start_new() {
  local arguments="--encoding=UTF8 --locale=C.UTF-8"
  [[ $CHECKSUMS != on ]] || arguments+=" --data-checksums"
  NEW=$(ask docker run -d --label "$LABEL=$RUN" --network "container:$OLD" --shm-size 256m \
    -v "$VOLUME:$MOUNT" -e "PGDATA=$NEW_DATA" -e "POSTGRES_USER=$BOOT" -e POSTGRES_DB=postgres \
    -e "POSTGRES_PASSWORD=$(od -An -v -N 16 -tx1 /dev/urandom | tr -d ' \n')" -e "POSTGRES_INITDB_ARGS=$arguments" "$IMAGE" \
    postgres -c "port=$NEW_PORT" -c listen_addresses= -c "cluster_name=$MARK" -c fsync=off -c full_page_writes=off \
    -c wal_level=minimal -c max_wal_senders=0 -c max_wal_size=2GB -c autovacuum=off 2>"$ERRORS") || {
    tell docker "$ERRORS"
    die "$COPY_FAILED" "a server could not be started from $IMAGE" "see the line above"
  }
  await_new
  copy_settings
  copy_password
}

# Runs psql with the SQL on stdin in database $1 of the new server.
new_psql() {
  start docker exec -i -e "PGUSER=$BOOT" -e "PGPORT=$NEW_PORT" -e LC_ALL=C -e "PGOPTIONS=-c search_path=pg_catalog" \
    "$NEW" psql -XAtqw -v ON_ERROR_STOP=1 -v VERBOSITY=terse -d "$1"
  finish "$STARTED"
  return "$STATUS"
}

# Waits until it answers. The image's first start has a server on another socket.
await_new() {
  local end=$((SECONDS + 120))
  until ask docker exec "$NEW" pg_isready -q -p "$NEW_PORT" >/dev/null 2>&1; do
    if ((SECONDS >= end)) || ! runs "$NEW"; then
      ask docker logs --tail 5 "$NEW" >"$ERRORS" 2>&1 || true
      tell postgres "$ERRORS"
      die "$COPY_FAILED" "the new server does not begin to answer" "see the lines above"
    fi
    sleep 0.2
  done
}

# Gives the new server the settings that somebody has made in files of the old one, but for those that it
# does not know and those of point-in-time recovery, which are made anew; and who may connect from where.
# It is started once more with them: a setting that keeps it from starting must not be found out later.
copy_settings() {
  local name value unknown="" code=1
  ask_old postgres <<'END'
SELECT name || ' = ''' || replace(setting, '''', '''''') || '''' FROM pg_file_settings
WHERE name NOT IN ('max_slot_wal_keep_size', 'summarize_wal', 'primary_conninfo', 'primary_slot_name', 'restore_command',
  'data_directory', 'hba_file', 'ident_file', 'external_pid_file', 'config_file', 'port', 'listen_addresses', 'archive_command',
  'lc_messages', 'lc_monetary', 'lc_numeric', 'lc_time') AND setting !~ E'[\\n\\r]' ORDER BY seqno;
END
  printf '%s\n' "$SAID" >"$DIR/settings.partial"
  new_psql postgres >"$DIR/known.partial" 2>"$ERRORS" <<<"SELECT name || ' = ''' || replace(setting, '''', '''''') || '''' FROM pg_file_settings"
  : >"$DIR/set.partial"
  while IFS= read -r value; do
    name=${value%% = *}
    if [[ -z $name ]] || grep -qxF -- "$value" "$DIR/known.partial"; then
      continue
    elif [[ $name == *.* ]] || grep -qxF -- "setting $name" "$DIR/image.partial"; then
      printf '%s\n' "$value" >>"$DIR/set.partial"
    else
      unknown+=" $name"
    fi
  done <"$DIR/settings.partial"
  [[ -z $unknown ]] || log WARNING "PostgreSQL $NEW_MAJOR has no such settings, they are left out:$unknown"
  append_settings && copy_file hba_file pg_hba.conf && copy_file ident_file pg_ident.conf && code=0
  ((code == 0)) || {
    tell docker "$ERRORS"
    die "$COPY_FAILED" "the settings could not be copied" "see the line above"
  }
  ask docker restart -t 60 "$NEW" >/dev/null 2>"$ERRORS"
  await_new
}

# shellcheck disable=SC2016 # expanded in the container
append_settings() { ask docker exec -i "$NEW" sh -c 'cat >>"$PGDATA/postgresql.auto.conf"' <"$DIR/set.partial" 2>"$ERRORS"; }

# Copies a file that setting $1 names as $2. One outside of the data directory comes with the stack.
# shellcheck disable=SC2016 # expanded in the container
copy_file() {
  ask_old postgres <<<"SELECT current_setting('$1') FROM pg_settings WHERE name = 'data_directory' AND starts_with(current_setting('$1'), setting || '/')"
  [[ -n $SAID ]] || return 0
  ask docker exec "$OLD" cat -- "$SAID" >"$DIR/file.partial" 2>"$ERRORS" &&
    ask docker exec -i "$NEW" sh -c 'cat >"$PGDATA/$1"' sh "$2" <"$DIR/file.partial" 2>"$ERRORS"
}

# Lets the new server's programs log in to the old one. The password goes from container to container.
# shellcheck disable=SC2016 # expanded in the containers
copy_password() {
  local code=1
  ask docker exec "$OLD" sh -c 'if [ -r "${POSTGRES_PASSWORD_FILE:-}" ]; then cat "$POSTGRES_PASSWORD_FILE"; else printf %s "${POSTGRES_PASSWORD:-}"; fi' 2>"$ERRORS" |
    ask docker exec -i "$NEW" sh -c 'umask 077; printf "127.0.0.1:5432:*:*:%s\n" "$(sed "s/[\\\\:]/\\\\&/g")" >/dev/shm/pgpass' 2>"$ERRORS" &&
    ask docker exec -e PGPASSFILE=/dev/shm/pgpass "$NEW" psql -XAtqw -h 127.0.0.1 -U "$PG_USER" -d postgres -c '' >/dev/null 2>"$ERRORS" && code=0
  ((code == 0)) || {
    tell psql "$ERRORS"
    die "$COPY_FAILED" "the running server does not let $PG_USER log in from inside its container" "see the line above; pg_hba.conf must allow it from 127.0.0.1"
  }
}

# Roles with their passwords, memberships and settings. The first one is there already.
copy_globals() {
  local code=1
  ask docker exec -e PGPASSFILE=/dev/shm/pgpass "$NEW" pg_dumpall -w -h 127.0.0.1 -U "$PG_USER" --globals-only \
    >"$DIR/globals.partial" 2>"$ERRORS" && grep -q '^-- PostgreSQL database cluster dump complete' "$DIR/globals.partial" && code=0
  ((code == 0)) || {
    tell pg_dumpall "$ERRORS"
    die "$COPY_FAILED" "the roles could not be dumped" "see the line above"
  }
  { echo "SET log_statement = 'none'; SET log_min_error_statement = 'panic';" && grep -vxF -- "CREATE ROLE $BOOT_QUOTED;" "$DIR/globals.partial"; } |
    new_psql postgres >/dev/null 2>"$ERRORS" || {
    tell psql "$ERRORS"
    die "$COPY_FAILED" "the roles could not be made" "see the line above"
  }
  ask_old postgres < <(describe_roles)
  printf '%s\n' "$SAID" | LC_ALL=C sort >"$DIR/old.roles.partial"
}

# Ends it, so that all is on the disk; the volume stays.
stop_new() {
  local code=unknown
  ! ask docker kill -s INT "$NEW" >/dev/null 2>"$ERRORS" || code=$(timeout 300 docker wait "$NEW" 2>"$ERRORS") || code=unknown
  [[ $code == 0 ]] || {
    tell docker "$ERRORS"
    die "$COPY_FAILED" "the new server did not end cleanly (exit code $code)" "run it again"
  }
  # It did not flush by itself.
  sync -f -- "$(ask docker volume inspect -f '{{.Mountpoint}}' "$VOLUME")" 2>/dev/null || sync
  ask docker rm -v "$NEW" >/dev/null 2>"$ERRORS"
}

# ---- the copy -----------------------------------------------------------------------------------

copy_databases() {
  local number
  for number in "${!DATABASES[@]}"; do open_fence "$number"; done
  for number in "${!DATABASES[@]}"; do copy_database "$number" "${DATABASES[number]}"; done
  compare_roles
  start docker exec -e "PGUSER=$BOOT" -e "PGPORT=$NEW_PORT" "$NEW" vacuumdb -qw --all --analyze-only -j "$(jobs_at_a_time)" >/dev/null 2>"$ERRORS" </dev/null
  finish "$STARTED"
  ((STATUS == 0)) || {
    tell vacuumdb "$ERRORS"
    die "$COPY_FAILED" "the copy could not be analyzed" "see the line above"
  }
}

jobs_at_a_time() { (($(nproc) < 8)) && nproc || echo 8; }

# Opens a session in database $1 (its number) of the old server and sets SNAPSHOTS[$1]. With FENCE the session
# holds all tables in SHARE mode: whoever reads goes on, whoever writes waits, until it ends by whatever
# cause. Clients that are in the middle of something are disconnected first. Then the session describes
# the database as the snapshot has it.
open_fence() {
  local try
  for try in 1 2 3 4 5; do
    ! try_fence "$1" || return 0
    # A client may have been quicker, or made a table meanwhile.
    sleep 0.2
  done
  tell psql "$DIR/fence.$1.error.partial"
  die "$COPY_FAILED" "writers could not be kept away from database ${DATABASES[$1]}" "see the line above; stop what uses it, then run again"
}

try_fence() {
  local fifo=$DIR/fence.$1.partial end=$((SECONDS + 90)) pipe
  rm -f -- "$fifo"
  mkfifo -- "$fifo"
  exec {pipe}<>"$fifo"
  enter "$OLD"
  start "${ENTER[@]/#PGDATABASE=*/PGDATABASE=${DATABASES[$1]}}" psql -XAtqw -v ON_ERROR_STOP=1 -v VERBOSITY=terse \
    <"$fifo" >"$DIR/old.$1.partial" 2>"$DIR/fence.$1.error.partial"
  FENCES[$1]=$STARTED
  {
    fence_sql
    describe
    printf '%s\n' '\echo end'
  } >&"$pipe"
  until SNAPSHOTS[$1]=$(sed -n 's/^snapshot //p' "$DIR/old.$1.partial") && [[ ${SNAPSHOTS[$1]} =~ ^[0-9A-Fa-f-]+$ ]]; do
    if ! kill -0 "$STARTED" 2>/dev/null || ((SECONDS >= end)); then
      exec {pipe}>&-
      kill "$STARTED" 2>/dev/null || true
      finish "$STARTED"
      return 1
    fi
    sleep 0.05
  done
}

fences_hold() {
  local process
  for process in "${FENCES[@]}"; do kill -0 "$process" 2>/dev/null || return 1; done
}

# Copies database $2, number $1, and compares both.
copy_database() {
  local number=$1 name=$2 create=--create
  [[ $name != postgres ]] || create=""
  log INFO "copying database $name"
  # shellcheck disable=SC2086 # words, or none
  start docker exec -e PGPASSFILE=/dev/shm/pgpass -e LC_ALL=C "$NEW" sh -c "$COPY_INSIDE" sh "$PG_USER" "$name" "${SNAPSHOTS[number]}" \
    "$BOOT" "$NEW_PORT" "$(jobs_at_a_time)" $create >/dev/null 2>"$DIR/copy.error.partial" </dev/null
  finish "$STARTED"
  ((STATUS == 0)) || {
    # Without its session there is no snapshot.
    tell psql "$DIR/fence.$number.error.partial"
    tell pg_restore "$DIR/copy.error.partial"
    die "$COPY_FAILED" "database $name could not be copied" "see the lines above; 124 means longer than STEP_TIMEOUT"
  }
  await_description "$number"
  new_psql "$name" < <(describe) >"$DIR/said.partial" 2>"$ERRORS" || {
    tell psql "$ERRORS"
    die "$COPY_FAILED" "the copy of database $name could not be described" "see the line above"
  }
  LC_ALL=C sort "$DIR/said.partial" >"$DIR/new.$number.partial"
  compare "$DIR/old.$number.sorted.partial" "$DIR/new.$number.partial" "the copy of database $name"
  TABLES=$((TABLES + $(grep -c '^rows ' "$DIR/new.$number.partial" || true)))
  ROWS=$((ROWS + $(awk '/^rows / { n += $NF } END { printf "%.0f", n }' "$DIR/new.$number.partial")))
  new_psql "$name" <<<"$COUNTERS_SQL" >"$DIR/said.partial" 2>"$ERRORS"
  SAID=$(<"$DIR/said.partial")
  add_counters
  printf '%s\n' "${COUNTERS[*]}" >"$DIR/counters"
}

# What has been done to rows of tables since the counters began.
readonly COUNTERS_SQL="SELECT coalesce(sum(n_tup_ins), 0), coalesce(sum(n_tup_upd), 0), coalesce(sum(n_tup_del), 0) FROM pg_stat_user_tables"

add_counters() {
  local inserted updated deleted
  IFS='|' read -r inserted updated deleted <<<"$SAID"
  [[ $inserted =~ ^[0-9]+$ && $updated =~ ^[0-9]+$ && $deleted =~ ^[0-9]+$ ]] || die "$NO_DATABASE" "PostgreSQL says '$SAID'" "report it"
  COUNTERS=($((COUNTERS[0] + inserted)) $((COUNTERS[1] + updated)) $((COUNTERS[2] + deleted)))
}

# Dumps with the new version's programs, as PostgreSQL advises, straight into pg_restore; then indexes and
# constraints, for which pg_restore wants a file, several at a time.
# shellcheck disable=SC2016 # expanded in the container
readonly COPY_INSIDE='
user=$1 name=$2 snapshot=$3 boot=$4 port=$5 jobs=$6 code=0; shift 6; umask 077
pipe=/tmp/copy.pipe; rm -f "$pipe"; mkfifo "$pipe" || exit
dump() { pg_dump -w -h 127.0.0.1 -U "$user" -d "$name" -Fc -Z0 --snapshot="$snapshot" --lock-wait-timeout=60s "$@"; }
export PGOPTIONS="-c synchronous_commit=off -c maintenance_work_mem=128MB -c max_parallel_maintenance_workers=0"
dump --section=pre-data --section=data >"$pipe" & dump=$!
pg_restore -w -p "$port" -U "$boot" --exit-on-error -d postgres "$@" <"$pipe" || code=$?
wait "$dump" || exit
[ "$code" = 0 ] || exit "$code"
dump --section=post-data >/tmp/copy.post || exit
exec pg_restore -w -p "$port" -U "$boot" --exit-on-error -d "$name" -j "$jobs" /tmp/copy.post'

# Waits until the session has described database number $1.
await_description() {
  until [[ $(tail -n 1 "$DIR/old.$1.partial") == end ]]; do
    kill -0 "${FENCES[$1]}" 2>/dev/null || {
      tell psql "$DIR/fence.$1.error.partial"
      die "$COPY_FAILED" "the session in database ${DATABASES[$1]} has ended" "see the line above, then run again"
    }
    sleep 0.05
  done
  grep -vE '^(snapshot .*|end)$' "$DIR/old.$1.partial" | LC_ALL=C sort >"$DIR/old.$1.sorted.partial"
}

compare_roles() {
  new_psql postgres < <(describe_roles) >"$DIR/said.partial" 2>"$ERRORS"
  LC_ALL=C sort "$DIR/said.partial" >"$DIR/new.roles.partial"
  compare "$DIR/old.roles.partial" "$DIR/new.roles.partial" "the copy of the roles"
}

# Compares file $1, the original, with $2; $3 says of what.
compare() {
  cmp -s "$1" "$2" && return
  diff "$1" "$2" | grep '^[<>]' | head -n 5 >"$DIR/differing.partial" || true
  sed -i 's/^</original:/; s/^>/copy:/; s/ password=.*/ with its password/' "$DIR/differing.partial"
  tell differs "$DIR/differing.partial"
  die "$DIFFERS" "$3 differs from the original in $(diff "$1" "$2" | grep -c '^[<>]') lines; the service is as it was" "see the lines above; report it"
}

# What the fence does not hold (a new table, a sequence, a large object) must not be lost either.
compare_again() {
  local number
  for number in "${!DATABASES[@]}"; do
    ask_old "${DATABASES[number]}" < <(describe)
    printf '%s\n' "$SAID" | LC_ALL=C sort >"$DIR/again.partial"
    compare "$DIR/old.$number.sorted.partial" "$DIR/again.partial" "database ${DATABASES[number]} has changed meanwhile; what it was"
  done
  ask_old postgres < <(describe_roles)
  printf '%s\n' "$SAID" | LC_ALL=C sort >"$DIR/again.partial"
  compare "$DIR/old.roles.partial" "$DIR/again.partial" "a role has changed meanwhile; what they were"
}
