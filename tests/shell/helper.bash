# What every test of backup-pg.sh needs: a folder of its own, settings, and fakes for the
# programs that would reach out. Everything lies in $BATS_TEST_TMPDIR, which bats removes.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2119,SC2120,SC2154 # bats sets output; the tests pass and use the rest

SCRIPT=$BATS_TEST_DIRNAME/../../scripts/backup-pg.sh

set_up() {
  export FAKE=$BATS_TEST_TMPDIR/fake
  DUMPS=$BATS_TEST_TMPDIR/dumps/nocodb
  CONF=$BATS_TEST_TMPDIR/backup-pg.conf
  mkdir -p "$FAKE/container/root/dev/shm" "$FAKE/bucket"
  echo 0123456789ab >"$FAKE/ids"
  echo 1000000 >"$FAKE/database-size"
  seq 20000 >"$FAKE/content"
  printf '%s\n' '"public.nc_users_v2": 1' '"\"My schema\".t": 20000' >"$FAKE/tables"
  settings
}

# Writes the settings, with the given lines last.
settings() {
  (
    umask 077
    cat >"$CONF" <<SETTINGS
PATH='$BATS_TEST_DIRNAME/fakes':/usr/bin:/bin
PG_DB='nocodb'
PG_USER='noco'
DB_SERVICE_NAME='dbstack_root_db'
S3_BUCKET='example-backups'
AWS_REGION='eu-central-1'
BACKUP_DIR='$BATS_TEST_TMPDIR/dumps'
IMAGES_FILE='$FAKE/images'
COMPRESSION='gzip-6'
SETTINGS
    printf '%s\n' "$@" >>"$CONF"
  )
}

# Runs the script; $status and $output are what bats makes of it, stderr included.
backup() { run "$SCRIPT" --config "$CONF" "$@"; }

# The folder in memory for the pieces that libdeflate gets.
pieces() { echo "/dev/shm/backup-pieces.$(stat -c %d-%i "$BATS_TEST_TMPDIR/dumps/.lock")"; }

# Starts the script in the background and waits until file $1 of $FAKE is there: pg_dump at work.
backup_in_background() {
  touch "$FAKE/hold"
  # bats' own descriptor would be kept open. A shell's background jobs ignore SIGINT, and what
  # nohup runs SIGHUP; bash cannot trap what was ignored when it started.
  env --default-signal "$SCRIPT" --config "$CONF" >"$FAKE/log" 2>&1 3>&- &
  RUNNING=$!
  wait_for test -e "$FAKE/${1-dumping}"
}

# Puts a libdeflate-gzip in place that runs $1 first, and has it used.
libdeflate_stands_in() {
  mkdir "$FAKE/bin"
  printf '#!/bin/sh\n%s\nexec /bin/gzip "$@"\n' "$1" >"$FAKE/bin/libdeflate-gzip"
  chmod 755 "$FAKE/bin/libdeflate-gzip"
  settings "PATH='$FAKE/bin':\$PATH" COMPRESSION=libdeflate-6
}

# Waits for the script in the background, for at most 20 seconds, and returns its exit code.
its_end() {
  wait_for gone "$RUNNING" || return
  wait "$RUNNING"
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# Waits until a command succeeds, for at most 20 seconds.
wait_for() {
  local end=$((SECONDS + 20))
  until "$@"; do
    ((SECONDS < end)) || { echo "still not: $*" >&2; return 1; }
    sleep 0.02
  done
}

# Puts a finished backup of the given time in place; "uploaded" as $2 marks it so.
old_backup() {
  local base=backup_$1
  mkdir -p "$DUMPS"
  (
    cd "$DUMPS"
    { echo ARCHIVE; echo "$1"; echo END; } | gzip >"$base.dump.gz"
    echo 'CREATE ROLE noco;' | gzip >"$base.globals.sql.gz"
    echo '{"format": 1}' >"$base.manifest.json"
    sha256sum "$base.dump.gz" "$base.globals.sql.gz" "$base.manifest.json" >"$base.sha256"
    [[ -z ${2-} ]] || touch "$base.uploaded"
  )
}

# Only the backup's parts that were uploaded, not their folder and not the time in their names.
uploaded_parts() { sed -E 's,.*/backup_[0-9TZ]+\.,,' "$FAKE/uploads"; }

# The time stamp of the only backup that was uploaded.
stamp() { sed -nE '1s,.*backup_([0-9TZ]+)\..*,\1,p' "$FAKE/uploads"; }

# The local files of dumps, without their folder.
local_files() { (cd "$DUMPS" && find . -mindepth 1 | cut -c 3- | sort); }

# Fails unless exactly one line of the output has level ERROR, contains $1, and says what is next.
one_error() {
  local errors
  errors=$(grep -c ' ERROR .*; next: ' <<<"$output")
  [[ $errors == 1 && $output == *"$1"* ]] || { echo "want one error with '$1'" >&2; return 1; }
}

# Fails unless the run left nothing unfinished: no partial file, no pieces in memory, no pipe in
# the container.
nothing_half_done() {
  [[ ! -e $(pieces) ]]
  [[ -z $(find "$BATS_TEST_TMPDIR/dumps" -name '*.partial*' -o -name pipe) ]]
  [[ -z $(ls -A "$FAKE/container/root/dev/shm") ]]
}

# Whether a run that begins now gets a name of its own: they carry whole seconds.
another_second() { [[ ! -e $DUMPS/backup_$(date -u +%Y%m%dT%H%M%SZ).manifest.json ]]; }
