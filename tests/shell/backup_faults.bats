# scripts/backup-pg.sh when something is wrong: for each fault its own exit code, one clear line,
# nothing half-done and nothing lost.
# shellcheck disable=SC2016,SC2030,SC2031 # each test is a subshell of its own

bats_require_minimum_version 1.5.0
load helper

setup() { set_up; }

teardown() {
  rm -f "$FAKE/hold"
  [[ -z ${RUNNING-} ]] || wait "$RUNNING" 2>/dev/null || true
}

@test "2: unknown option" {
  backup --frobnicate
  [ "$status" -eq 2 ]
  [[ $output == *Usage:* ]]
}

@test "2: --config without a file, or with one that is not there" {
  run "$SCRIPT" --config
  [ "$status" -eq 2 ]
  one_error "no such settings file"
  run "$SCRIPT" --config "$BATS_TEST_TMPDIR/none"
  [ "$status" -eq 2 ]
  one_error "$BATS_TEST_TMPDIR/none: no such settings file"
}

@test "2: settings that others could read or change are not run" {
  settings "touch '$FAKE/executed'"
  local mode
  for mode in 640 604 620 602; do
    chmod "$mode" "$CONF"
    backup
    [ "$status" -eq 2 ]
    one_error "others could read or change it"
  done
  [ ! -e "$FAKE/executed" ]
}

@test "2: settings that are not shell" {
  settings "PG_DB='unclosed"
  backup
  [ "$status" -eq 2 ]
  [[ $output == *"is not valid shell; next: "* ]]
}

@test "2: hostile values are refused by name, never executed" {
  local name bad
  for name in PG_DB PG_USER DB_SERVICE_NAME S3_BUCKET AWS_REGION S3_ENDPOINT_URL BACKUP_DIR COMPRESSION KEEP_LOCAL_DAYS \
    COUNT_ROWS SSE SSE_KMS_KEY_ID STEP_TIMEOUT DRILL_MEMORY DRILL_CPUS; do
    for bad in "\$(touch $FAKE/executed)" "\`touch $FAKE/executed\`" "; touch $FAKE/executed" \
      "a b" $'a\nb' "../x" "-x" "dbname=other host=evil"; do
      # A blank separates databases.
      [[ $name:$bad != "PG_DB:a b" ]] || continue
      settings "$name=$(printf %q "$bad")"
      backup
      [ "$status" -eq 2 ]
      one_error "setting $name"
    done
  done
  [ ! -e "$FAKE/executed" ]
  [ ! -e "$FAKE/docker.args" ]
}

@test "2: a missing setting is named" {
  settings "unset S3_BUCKET"
  backup
  [ "$status" -eq 2 ]
  one_error "setting S3_BUCKET"
}

@test "a folder with spaces, quotes and \$() in its name is only a name" {
  settings "BACKUP_DIR=$(printf %q "$BATS_TEST_TMPDIR/a 'b' \$(touch $FAKE/executed) *")"
  mkdir -p "$BATS_TEST_TMPDIR/dumps"
  old_backup 20200101T000000Z
  backup
  [ "$status" -eq 0 ]
  [ ! -e "$FAKE/executed" ]
  [ "$(find "$BATS_TEST_TMPDIR" -path '*executed*' -name 'backup_*.uploaded' | wc -l)" -eq 1 ]
}

@test "10: a second run touches nothing, and the first one succeeds" {
  backup_in_background
  local before
  before=$(local_files)
  backup
  [ "$status" -eq 10 ]
  one_error "another run is in progress"
  [ "$(local_files)" = "$before" ]
  rm "$FAKE/hold"
  its_end
  RUNNING=
  [ "$(wc -l <"$FAKE/uploads")" -eq 3 ]
}

@test "11: the service has no container on this node" {
  : >"$FAKE/ids"
  backup
  [ "$status" -eq 11 ]
  one_error "service dbstack_root_db has no running container on this node"
}

@test "11: --check on a node without the container has tried the bucket first" {
  : >"$FAKE/ids"
  backup --check
  [ "$status" -eq 11 ]
  [ "$(cat "$FAKE/uploads")" = postgres/nocodb/.write-check ]
}

@test "12: the Docker engine does not answer" {
  touch "$FAKE/docker-down"
  backup
  [ "$status" -eq 12 ]
  one_error "the Docker engine does not answer"
}

@test "12: without its parts it says so" {
  cp "$SCRIPT" "$BATS_TEST_TMPDIR/backup-pg.sh"
  [ ! -e /usr/local/lib/backup-common.sh ]
  run "$BATS_TEST_TMPDIR/backup-pg.sh" --config "$CONF"
  [ "$status" -eq 12 ]
  [[ $output == *"its parts are not there; next: "* ]]
}

@test "12: a missing tool is named" {
  settings "command() { [[ \$2 != aws ]] && builtin command \"\$@\"; }"
  backup
  [ "$status" -eq 12 ]
  one_error "aws is not installed"
}

@test "13: PostgreSQL refuses" {
  cp "$FAKE/ids" "$FAKE/deaf"
  backup
  [ "$status" -eq 13 ]
  one_error "does not answer user noco for database nocodb"
  [[ $output == *'psql: FATAL:  database "nocodb" does not exist'* ]]
  nothing_half_done
}

@test "14: too little space to begin, by the size of the database" {
  echo 99000000000000000 >"$FAKE/database-size"
  backup
  [ "$status" -eq 14 ]
  one_error "bytes free"
  [ ! -e "$FAKE/dumping" ]
}

@test "14: too little space to begin, by the size of the newest dump; then that counts alone" {
  old_backup 20200101T000000Z uploaded
  truncate -s 8E "$DUMPS/backup_20200101T000000Z.dump.gz" 2>/dev/null ||
    truncate -s 15T "$DUMPS/backup_20200101T000000Z.dump.gz"
  backup
  [ "$status" -eq 14 ]
  old_backup 20200101T000000Z uploaded
  echo 99000000000000000 >"$FAKE/database-size"
  backup
  [ "$status" -eq 0 ]
}

@test "15: the disk fills up during the dump" {
  mkdir "$FAKE/bin"
  printf '#!/bin/sh\nhead -c 10000\necho "gzip: stdout: No space left on device" >&2\ntouch "$FAKE/full"\nexit 1\n' >"$FAKE/bin/gzip"
  printf '#!/bin/sh\n[ ! -e "$FAKE/full" ] || { echo Avail; echo 12; exit; }\nexec /bin/df "$@"\n' >"$FAKE/bin/df"
  chmod 755 "$FAKE"/bin/*
  settings "PATH='$FAKE/bin':\$PATH"
  seq 2000000 >"$FAKE/content"
  backup
  [ "$status" -eq 15 ]
  one_error "filled up"
  [ "$(local_files)" = "" ]
  nothing_half_done
}

@test "16: pg_dump is killed half-way" {
  touch "$FAKE/crash"
  backup
  [ "$status" -eq 16 ]
  one_error "pg_dump 137"
  [[ $output == *"pg_dump: pg_dump: error: terminating connection"* ]]
  [ "$(local_files)" = "" ]
  [ ! -e "$FAKE/uploads" ]
  nothing_half_done
}

@test "16: the compressor dies, and pg_dump does not run on" {
  mkdir "$FAKE/bin"
  printf '#!/bin/sh\nhead -c 100000 >/dev/null\nkill -KILL $$\n' >"$FAKE/bin/gzip"
  chmod 755 "$FAKE/bin/gzip"
  settings "PATH='$FAKE/bin':\$PATH"
  seq 2000000 >"$FAKE/content"
  backup
  [ "$status" -eq 16 ]
  one_error "gzip-6 137"
  [ ! -e "$FAKE/uploads" ]
  nothing_half_done
}

@test "16: a compressor that fails on one piece of many" {
  libdeflate_stands_in '[ ! -e "$FAKE/second" ] || exit 7; touch "$FAKE/second"'
  seq 3000000 >"$FAKE/content"
  backup
  [ "$status" -eq 16 ]
  one_error "libdeflate-6 7"
  [ ! -e "$FAKE/uploads" ]
  nothing_half_done
}

@test "16: a dump that takes longer than STEP_TIMEOUT is ended" {
  settings STEP_TIMEOUT=1
  touch "$FAKE/hold"
  backup
  [ "$status" -eq 16 ]
  one_error "pg_dump 124"
  nothing_half_done
}

@test "16: rows that cannot be counted make no backup" {
  touch "$FAKE/no-session"
  backup
  [ "$status" -eq 16 ]
  one_error "could not be asked about database nocodb and its rows"
  [[ $output == *"psql: ERROR:  permission denied for table secret"* ]]
  [ "$(local_files)" = "" ]
  [ ! -e "$FAKE/uploads" ]
  nothing_half_done
}

@test "16: a session that ends before the last table makes no backup" {
  touch "$FAKE/short-session"
  backup
  [ "$status" -eq 16 ]
  one_error "could not be asked about database nocodb and its rows"
  [ ! -e "$FAKE/uploads" ]
  nothing_half_done
}

@test "16: a manifest that PostgreSQL cannot read makes no backup" {
  touch "$FAKE/bad-manifest"
  backup
  [ "$status" -eq 16 ]
  one_error "the manifest is no JSON"
  [ "$(local_files)" = "" ]
  [ ! -e "$FAKE/uploads" ]
}

@test "a table's name cannot end the text that PostgreSQL reads the manifest from" {
  local tag tags="" name='"public.\"$manifest$::json);ALTER ROLE bob SUPERUSER;--\""'
  printf '%s: 1\n' "$name" >"$FAKE/tables"
  for _ in 1 2; do
    : >"$FAKE/psql.stdin"
    wait_for another_second
    backup
    [ "$status" -eq 0 ]
    # From the first quote to the same one, which is nowhere else, there is the manifest: all of it.
    tag=$(sed -n 's/^SELECT json_typeof(\(\$text_[0-9a-f]\{32\}\$\).*/\1/p' "$FAKE/psql.stdin")
    [ "$(grep -oF "$tag" "$FAKE/psql.stdin" | wc -l)" -eq 2 ]
    [[ $(<"$FAKE/psql.stdin") == *"($tag"*"$name: 1"*"$tag::json);" ]]
    tags+="$tag "
  done
  # It cannot be known before.
  [ "${tags%% *}" != "$(cut -d ' ' -f 2 <<<"$tags")" ]
  # And an error is one, whatever came before it.
  [ "$(grep -c 'ON_ERROR_STOP=1' "$FAKE/psql.args")" -eq 4 ]
}

@test "functions and operators of the database's clients are out of sight" {
  backup
  [ "$status" -eq 0 ]
  run ! grep -v '^-c search_path=pg_catalog ' "$FAKE/psql.args"
}

@test "16: without its roles a backup does not count" {
  touch "$FAKE/no-globals"
  backup
  [ "$status" -eq 16 ]
  one_error "the roles could not be dumped"
  [ "$(local_files)" = "" ]
  [ ! -e "$FAKE/uploads" ]
  nothing_half_done
}

@test "18: a manifest that cannot be uploaded leaves a set that does not count, and the next run mends it" {
  echo manifest >"$FAKE/refuse"
  backup
  [ "$status" -eq 18 ]
  [ "$(uploaded_parts | sort)" = "$(printf '%s\n' dump.gz globals.sql.gz)" ]
  rm "$FAKE/refuse"
  wait_for another_second
  backup
  [ "$status" -eq 0 ]
  [ "$(grep -c manifest "$FAKE/uploads")" -eq 2 ]
}

@test "17: a dump that lacks its end never counts" {
  touch "$FAKE/cut"
  backup
  [ "$status" -eq 17 ]
  one_error "cannot be read back"
  [ "$(local_files)" = "" ]
  [ ! -e "$FAKE/uploads" ]
  nothing_half_done
}

@test "17: a gzip stream that is damaged on disk never counts" {
  mkdir "$FAKE/bin"
  printf '#!/bin/sh\n[ "$1" = -dc ] && exec /bin/gzip "$@"\n/bin/gzip "$@" | head -c -3\n' >"$FAKE/bin/gzip"
  printf '#!/bin/sh\nexec /bin/gzip "$@"\n' >"$FAKE/bin/pigz"
  chmod 755 "$FAKE"/bin/*
  settings "PATH='$FAKE/bin':\$PATH"
  backup
  [ "$status" -eq 17 ]
  one_error "cannot be read back"
  [ ! -e "$FAKE/uploads" ]
}

@test "18: each way an upload fails says what to do; the dump is kept unmarked" {
  local answer advice
  while IFS='|' read -r answer advice; do
    echo "$answer" >"$FAKE/aws-error"
    rm -rf "$DUMPS"
    backup
    [ "$status" -eq 18 ]
    one_error "$advice"
    [ "$(find "$DUMPS" -name '*.dump.gz' | wc -l)" -eq 1 ]
    [ "$(find "$DUMPS" -name '*.uploaded' | wc -l)" -eq 0 ]
    nothing_half_done
  done <<'CASES'
Could not connect to the endpoint URL: "http://10.0.0.5:9000/"|reaches S3 in eu-central-1
An error occurred (NoSuchBucket) when calling the PutObject operation|create bucket example-backups
Unable to locate credentials|give this node AWS credentials
An error occurred (SignatureDoesNotMatch) when calling the PutObject operation|check this node's AWS key
An error occurred (AccessDenied) when calling the PutObject operation|check this node's AWS key
Connection was closed before we received a valid response|reaches S3 in eu-central-1
CASES
}

@test "18: the next run uploads what was left" {
  echo "Could not connect to the endpoint URL" >"$FAKE/aws-error"
  backup
  [ "$status" -eq 18 ]
  local first
  first=backup_$(local_files | sed -nE '1s/^backup_([0-9TZ]+)\..*/\1/p')
  rm "$FAKE/aws-error"
  wait_for another_second
  backup
  [ "$status" -eq 0 ]
  [ "$(wc -l <"$FAKE/uploads")" -eq 6 ]
  cmp "$DUMPS/$first.dump.gz" "$FAKE/bucket/postgres/nocodb/$first.dump.gz"
  cmp "$DUMPS/$first.manifest.json" "$FAKE/bucket/postgres/nocodb/$first.manifest.json"
  [ -e "$DUMPS/$first.uploaded" ]
}

@test "18: an old dump that cannot be uploaded does not hold the new one up" {
  old_backup 20200101T000000Z
  echo backup_20200101 >"$FAKE/refuse"
  backup
  [ "$status" -eq 18 ]
  [[ $output == *"INFO"*"backup complete"* ]]
  [ "$(find "$DUMPS" -name '*.uploaded' | wc -l)" -eq 1 ]
}

@test "19: the bucket holds something else than what was sent" {
  echo other >"$FAKE/spoil"
  backup
  [ "$status" -eq 19 ]
  one_error "instead of"
  [ "$(find "$DUMPS" -name '*.dump.gz' | wc -l)" -eq 1 ]
  [ "$(find "$DUMPS" -name '*.uploaded' | wc -l)" -eq 0 ]
}

@test "19: somebody else's object of the same size is told from ours" {
  touch "$FAKE/foreign"
  backup
  [ "$status" -eq 19 ]
  one_error "' instead of '"
  [ "$(find "$DUMPS" -name '*.uploaded' | wc -l)" -eq 0 ]
}

@test "19: a large dump that somebody else has replaced" {
  head -c 9000000 /dev/urandom >"$FAKE/content"
  touch "$FAKE/foreign"
  backup
  [ "$status" -eq 19 ]
  one_error "f00d' instead of '"
}

@test "19: and so it is where the ETag is no MD5" {
  touch "$FAKE/foreign"
  echo d41d8cd9-2 >"$FAKE/etag"
  backup
  [ "$status" -eq 19 ]
  one_error "f00d' instead of '"
}

@test "19: a kept dump that was damaged since is not uploaded as if it were good" {
  old_backup 20200101T000000Z
  echo x >>"$DUMPS/backup_20200101T000000Z.dump.gz"
  backup
  [ "$status" -eq 19 ]
  one_error "backup_20200101T000000Z.* is damaged"
  [ "$(wc -l <"$FAKE/uploads")" -eq 3 ]
  [ -e "$DUMPS/backup_20200101T000000Z.dump.gz" ]
}

@test "a stopping signal ends everything that was started, leaves nothing, and is 128+n" {
  local signal
  for signal in HUP INT TERM; do
    rm -f "$FAKE/dumping"
    backup_in_background
    kill -s "$signal" "$RUNNING"
    local code=0
    its_end || code=$?
    RUNNING=
    [ "$code" -eq $((128 + $(kill -l "$signal"))) ]
    grep -q "ERROR .*stopped by SIG$signal" "$FAKE/log"
    [ "$(local_files)" = "" ]
    nothing_half_done
    wait_for none_runs
  done
}

@test "stopped while it compresses pieces it leaves nothing in memory; killed, the next run tidies up" {
  libdeflate_stands_in 'touch "$FAKE/compressing"; while [ -e "$FAKE/hold" ]; do sleep 0.02; done'
  seq 3000000 >"$FAKE/content"
  local signal
  for signal in TERM KILL; do
    rm -f "$FAKE/compressing"
    backup_in_background compressing
    [ -n "$(ls "$(pieces)")" ]
    kill -s "$signal" "$RUNNING"
    its_end || true
    RUNNING=
    wait_for none_runs
    [ "$signal" = KILL ] || nothing_half_done
  done
  rm "$FAKE/hold"
  backup
  [ "$status" -eq 0 ]
  nothing_half_done
}

@test "killed hard half-way: nothing runs on, and the next run tidies up and succeeds" {
  backup_in_background
  kill -KILL "$RUNNING"
  its_end || true
  RUNNING=
  [ "$(find "$DUMPS" -name '*.dump.gz.partial' | wc -l)" -eq 1 ]
  rm "$FAKE/hold"
  wait_for none_runs
  backup
  [ "$status" -eq 0 ]
  [ "$(find "$DUMPS" -name '*.dump.gz' | wc -l)" -eq 1 ]
  nothing_half_done
}

@test "an unexpected failure is said too, with its line" {
  settings 'sha256sum() { return 3; }'
  backup
  [ "$status" -eq 1 ]
  [[ $output =~ ERROR\ .*unexpected\ failure\ in\ line\ [0-9]+ ]]
  [ "$(find "$DUMPS" -name '*.dump.gz' | wc -l)" -eq 0 ]
  nothing_half_done
}


# Whether none of this test's fake programs is at work any more.
none_runs() {
  local environment
  for environment in /proc/[0-9]*/environ; do
    [[ ! ${environment//[!0-9]/} == "$$" ]] || continue
    ! grep -qsz "^PGDATABASE=nocodb" "$environment" || ! grep -qsz "^FAKE=$FAKE\$" "$environment" || return 1
  done
}
