# scripts/parts/backup-report.sh: the textfile of each run, and its pings, at a real HTTP server.
# shellcheck disable=SC2030,SC2031 # each test is a subshell of its own

bats_require_minimum_version 1.5.0
load helper

setup() {
  set_up
  METRICS=$BATS_TEST_TMPDIR/metrics
  RECEIVED=$BATS_TEST_TMPDIR/received
  RECEIVER=""
  settings "METRICS_DIR='$METRICS'" STACK=dbstack NODE=db1
}

teardown() {
  [[ -z $RECEIVER ]] || { kill "$RECEIVER" && wait "$RECEIVER" || true; }
}

# Starts the receiver, and has the pings of service $1 sent to it, with the settings that follow.
receive() {
  mkdir "$RECEIVED"
  python3 "$BATS_TEST_DIRNAME/receiver.py" "$RECEIVED" 3>&- &
  RECEIVER=$!
  wait_for test -e "$RECEIVED/port"
  (umask 077 && echo "database http://127.0.0.1:$(<"$RECEIVED/port")/s3cret-word?x=1" >"$FAKE/ping")
  settings "METRICS_DIR='$METRICS'" STACK=dbstack NODE=db1 "PING='$1'" "PING_FILE='$FAKE/ping'" "${@:2}"
}

# The value of metric $1 in the textfile of job $2 (backup).
metric() { sed -n "s/^swarmkeep_$1{.*} //p" "$METRICS/swarmkeep-${2-backup}.nocodb.prom"; }

# What was asked for, without the id of the run.
requests() { sed -E 's/(rid|series)=[0-9a-f-]{36}/\1=ID/; s/POST (.*) [0-9]+$/POST \1 N/' "$RECEIVED/requests"; }

@test "a good run tells when, how long, how large, how many rows" {
  backup
  [ "$status" -eq 0 ]
  [ "$(metric backup_last_run_exit_code)" -eq 0 ]
  [ "$(metric backup_last_success_rows)" -eq 20001 ]
  [ "$(metric backup_last_success_size_bytes)" -eq "$(stat -c %s "$DUMPS"/*.dump.gz)" ]
  [ "$(metric backup_pending_uploads)" -eq 0 ]
  (($(date +%s) - $(metric backup_last_success_timestamp_seconds) < 60))
  [ "$(metric backup_last_run_timestamp_seconds)" -ge "$(metric backup_last_success_timestamp_seconds)" ]
  grep -q '{project="",stack="dbstack",node="db1",database="nocodb"}' "$METRICS"/*.prom
  [ "$(stat -c %a "$METRICS" "$METRICS"/* | paste -sd ' ')" = "755 644" ]
  [ "$(tail -c 1 "$METRICS"/*.prom | od -An -c | tr -d ' ')" = '\n' ]
}

@test "each name has one HELP and one TYPE before its value" {
  backup
  local name
  for name in $(sed -nE 's/^([a-z_]+)\{.*/\1/p' "$METRICS"/*.prom); do
    [ "$(grep -c "^# HELP $name [A-Z].*\.$\|^# HELP $name .*always 1.$" "$METRICS"/*.prom)" -eq 1 ]
    [ "$(grep -c "^# TYPE $name gauge$" "$METRICS"/*.prom)" -eq 1 ]
  done
}

@test "a bad run keeps what the last good one was like" {
  backup
  sed -i 's/^\(swarmkeep_backup_last_success_timestamp_seconds{.*}\) .*/\1 1700000000/' "$METRICS"/*.prom
  echo "An error occurred (AccessDenied)" >"$FAKE/aws-error"
  wait_for another_second
  backup
  [ "$status" -eq 18 ]
  [ "$(metric backup_last_run_exit_code)" -eq 18 ]
  [ "$(metric backup_last_success_timestamp_seconds)" -eq 1700000000 ]
  [ "$(metric backup_last_success_rows)" -eq 20001 ]
  [ "$(metric backup_pending_uploads)" -eq 1 ]
}

@test "a run that cannot begin is told, too" {
  : >"$FAKE/ids"
  backup
  [ "$status" -eq 11 ]
  [ "$(metric backup_last_run_exit_code)" -eq 11 ]
  [ -z "$(metric backup_last_success_timestamp_seconds)" ]
}

@test "a stopped run is told" {
  backup_in_background
  kill -TERM "$RUNNING"
  its_end || [ $? -eq 143 ]
  [ "$(metric backup_last_run_exit_code)" -eq 143 ]
}

@test "a name of somebody else's becomes no file" {
  backup --database '../../x"'
  [ "$status" -eq 2 ]
  [ ! -e "$METRICS" ]
}

@test "nothing is written where nobody looks, and --check writes nothing" {
  backup --check
  [ ! -e "$METRICS" ]
  settings
  backup
  [ "$status" -eq 0 ]
  [ ! -e "$METRICS" ]
}

@test "a folder that cannot be written is a warning" {
  settings "METRICS_DIR='$FAKE/ids/x'"
  backup
  [ "$status" -eq 0 ]
  [[ $output == *" WARNING "*"the metrics could not be written into $FAKE/ids/x; next: "* ]]
}

@test "a project has files of its own" {
  settings "METRICS_DIR='$METRICS'" PROJECT=staging
  backup
  grep -q '{project="staging",' "$METRICS/swarmkeep-backup-staging.nocodb.prom"
}

@test "healthchecks: start, then the exit code with the log" {
  receive healthchecks
  backup
  [ "$status" -eq 0 ]
  [ "$(requests)" = "$(printf '%s\n' 'GET /s3cret-word/start?rid=ID 0' 'POST /s3cret-word/0?rid=ID N')" ]
  [ "$(sed -nE 's/.*rid=(.*) .*/\1/p' "$RECEIVED/requests" | sort -u | wc -l)" -eq 1 ]
  grep -q "backup complete database=nocodb" "$RECEIVED/body"
  run ! grep -q s3cret-word <<<"$output"
}

@test "healthchecks: a failure has its code and says why, within the limit" {
  receive healthchecks
  { head -c 20000 /dev/zero | tr '\0' x; echo " AccessDenied"; } >"$FAKE/aws-error"
  backup
  [ "$status" -eq 18 ]
  [[ $(requests | tail -n 1) == 'POST /s3cret-word/18?rid=ID N' ]]
  grep -q " ERROR " "$RECEIVED/body"
  [ "$(stat -c %s "$RECEIVED/body")" -le 10000 ]
}

@test "cronitor and uptime-kuma have words of their own" {
  receive cronitor
  backup
  [ "$(requests)" = "$(printf '%s\n' 'GET /s3cret-word?state=run&series=ID 0' 'GET /s3cret-word?state=complete&series=ID&status_code=0 0')" ]
  rm "$RECEIVED/requests"
  settings PING=uptime-kuma "PING_FILE='$FAKE/ping'"
  : >"$FAKE/ids"
  wait_for another_second
  backup
  [ ! -e "$RECEIVED/requests" ] # the database may be on another node
  echo 0123456789ab >"$FAKE/ids"
  backup
  [[ $(requests) == 'GET /s3cret-word?status=up&msg=exit%20code%200&ping='*' 0' ]]
}

@test "a receiver that answers 500 is tried three times, and the backup is good" {
  receive healthchecks
  echo 500 >"$RECEIVED/answer"
  backup
  [ "$status" -eq 0 ]
  [ "$(grep -c /start "$RECEIVED/requests")" -eq 3 ]
  [ "$(grep -c /0 "$RECEIVED/requests")" -eq 3 ]
  [[ $output == *" WARNING "*"the ping of job backup was not taken (500); next: "* ]]
  run ! grep -q s3cret-word <<<"$output"
}

@test "a redirect is no answer, and is not followed" {
  receive healthchecks
  echo redirect >"$RECEIVED/answer"
  backup
  [ "$status" -eq 0 ]
  [[ $output == *"was not taken (302)"* ]]
  run ! grep -q elsewhere "$RECEIVED/requests"
}

@test "a receiver that stalls, or is not there, holds nothing up for long" {
  receive healthchecks
  echo stall >"$RECEIVED/answer"
  libdeflate_stands_in "true" 2>/dev/null || true
  mkdir -p "$FAKE/bin"
  printf '#!/bin/bash\nexec /usr/bin/curl --max-time 0.2 "${@/10/0.2}"\n' >"$FAKE/bin/curl"
  chmod 755 "$FAKE/bin/curl"
  settings "PATH='$FAKE/bin':\$PATH" PING=healthchecks "PING_FILE='$FAKE/ping'"
  backup
  [ "$status" -eq 0 ]
  [[ $output == *"was not taken (no answer)"* ]]
  (umask 077 && echo "database http://127.0.0.1:9/s3cret-word" >"$FAKE/ping")
  wait_for another_second
  backup
  [ "$status" -eq 0 ]
  [[ $output == *"was not taken (no answer)"* ]]
}

@test "the address is in no argument of a process" {
  receive healthchecks
  mkdir -p "$FAKE/bin"
  printf '#!/bin/bash\nprintf "%%s\\n" "$@" >>"$FAKE/curl.args"\nexec /usr/bin/curl "$@"\n' >"$FAKE/bin/curl"
  chmod 755 "$FAKE/bin/curl"
  settings "PATH='$FAKE/bin':\$PATH" PING=healthchecks "PING_FILE='$FAKE/ping'"
  backup
  [ "$(wc -l <"$RECEIVED/requests")" -eq 2 ]
  [ -s "$FAKE/curl.args" ]
  run ! grep -q s3cret-word "$FAKE/curl.args"
}

@test "addresses that others could read, or that are none, are not used" {
  receive healthchecks
  chmod 644 "$FAKE/ping"
  backup
  [ "$status" -eq 0 ]
  [[ $output == *" WARNING "*"others could read it: no ping was sent"* ]]
  chmod 600 "$FAKE/ping"
  echo 'database file:///etc/passwd' >"$FAKE/ping"
  wait_for another_second
  backup
  [ "$status" -eq 0 ]
  [[ $output == *"the address of database is no http(s) address"* ]]
  [ ! -e "$RECEIVED/requests" ]
}
