# scripts/backup-files.sh: what it uploads, what it records, the way back, and each fault.
# shellcheck disable=SC2030,SC2031 # each test is a subshell of its own

bats_require_minimum_version 1.5.0
load helper

setup() {
  set_up
  SCRIPT=$BATS_TEST_DIRNAME/../../scripts/backup-files.sh
  VOLUME=$FAKE/volumes/appstack_data
  STATE=$BATS_TEST_TMPDIR/state
  BUCKET=$FAKE/bucket/files/appstack
  mkdir -p "$VOLUME/nc/uploads"
  echo one >"$VOLUME/nc/uploads/one.txt"
  echo "two words" >"$VOLUME/nc/uploads/two 'words' \$(x).txt"
  files_settings
}

files_settings() {
  (
    umask 077
    cat >"$CONF" <<SETTINGS
PATH='$BATS_TEST_DIRNAME/fakes':/usr/bin:/bin
S3_BUCKET='example-backups'
AWS_REGION='eu-central-1'
APP_STACK='appstack'
NODE='app1'
STATE_DIR='$STATE'
SETTINGS
    printf '%s\n' "$@" >>"$CONF"
  )
}

# What a field of the recorded state is.
state() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$BUCKET/state/app1.json" "$1"; }

@test "every file of the volume lands in the bucket, and the state says which" {
  backup
  [ "$status" -eq 0 ]
  diff -r "$VOLUME" "$BUCKET/data"
  [ "$(state files)" -eq 2 ]
  [ "$(state bytes)" -eq 14 ]
  [ "$(state node)" = app1 ]
  [ "$(gzip -dc "$BUCKET/state/app1.list.gz")" = "$(printf '10\t%s\n4\t%s\n' "nc/uploads/two 'words' \$(x).txt" nc/uploads/one.txt)" ]
  [ -z "$(find "$STATE" -name '*.partial*')" ]
}

@test "volumes of other apps: each has a folder of its own, a state, and figures" {
  files_settings "VOLUMES='kintostack_data other_x'" "METRICS_DIR='$BATS_TEST_TMPDIR/metrics'"
  mkdir -p "$FAKE/volumes/kintostack_data"
  echo three >"$FAKE/volumes/kintostack_data/three.txt"
  backup
  [ "$status" -eq 0 ]
  diff -r "$VOLUME" "$BUCKET/data"
  diff -r "$FAKE/volumes/kintostack_data" "$FAKE/bucket/files/kintostack_data/data"
  grep -q '"stack": "kintostack_data"' "$FAKE/bucket/files/kintostack_data/state/app1.json"
  # That one has never been on this node.
  [ ! -e "$FAKE/bucket/files/other_x" ]
  [[ $output == *"files complete stack=appstack files=2 "*"files complete stack=kintostack_data files=1 "* ]]
  grep -q 'stack="kintostack_data"' "$BATS_TEST_TMPDIR"/metrics/swarmkeep-files.kintostack_data.prom
  grep -q 'stack="appstack"' "$BATS_TEST_TMPDIR"/metrics/swarmkeep-files.appstack.prom
}

@test "volumes of other apps: backed up and restored where NocoDB has never run" {
  files_settings "VOLUMES='kintostack_data'"
  mkdir -p "$FAKE/volumes/kintostack_data"
  echo three >"$FAKE/volumes/kintostack_data/three.txt"
  rm -r "$VOLUME"
  backup
  [ "$status" -eq 0 ]
  [ ! -e "$BUCKET" ]
  rm "$FAKE/volumes/kintostack_data/three.txt"
  backup --restore --volume kintostack_data
  [ "$status" -eq 0 ]
  [ "$(cat "$FAKE/volumes/kintostack_data/three.txt")" = three ]
  rm -r "$FAKE/volumes/kintostack_data"
  backup
  [ "$status" -eq 11 ]
  backup --volume appstack_other
  [ "$status" -eq 2 ]
}

@test "volumes of other apps: one's failure does not keep the next from being backed up" {
  files_settings "VOLUMES='kintostack_data'"
  mkdir -p "$FAKE/volumes/kintostack_data"
  echo three >"$FAKE/volumes/kintostack_data/three.txt"
  touch "$FAKE/lossy" # one file of NocoDB's does not arrive
  backup
  [ "$status" -eq 19 ]
  [ ! -e "$BUCKET/state/app1.json" ]
  [[ $output == *"uploading what is new of $FAKE/volumes/kintostack_data"* ]]
}

@test "--check writes into the bucket before it asks for the volume" {
  files_settings "VOLUMES='kintostack_data'"
  rm -r "$VOLUME"
  backup --check
  [ "$status" -eq 11 ]
  [ -e "$BUCKET/state/.write-check" ]
  [ -e "$FAKE/bucket/files/kintostack_data/state/.write-check" ]
}

@test "2: a volume's name that could be anything else" {
  files_settings "VOLUMES='a ../b'"
  backup
  [ "$status" -eq 2 ]
  one_error "setting VOLUMES"
}

@test "the state is uploaded only if all files are there" {
  touch "$FAKE/lossy" # sync says all is well
  backup
  [ "$status" -eq 19 ]
  one_error "1 files are not in the bucket as they are here, such as nc/uploads/one.txt"
  [ ! -e "$BUCKET/state/app1.json" ]
}

@test "nothing is ever deleted in the bucket" {
  backup
  rm "$VOLUME/nc/uploads/one.txt"
  backup
  [ "$status" -eq 0 ]
  [ -e "$BUCKET/data/nc/uploads/one.txt" ]
  [ "$(state files)" -eq 1 ]
  run ! grep -q -- "--delete\|s3 rm\|delete-object" "$FAKE/aws.args"
}

@test "where nothing is new, one listing and two small uploads are all" {
  backup
  rm "$FAKE/aws.args"
  backup
  [ "$status" -eq 0 ]
  [ "$(grep -c "list-objects-v2" "$FAKE/aws.args")" -eq 1 ]
  [ "$(grep -c "put-object" "$FAKE/aws.args")" -eq 2 ]
  [ "$(wc -l <"$FAKE/aws.args")" -eq 3 ]
}

@test "only what is new is uploaded, also what kept its size" {
  backup
  touch -d "-1 hour" "$VOLUME/nc/uploads/one.txt"
  backup
  [[ $output == *" tries=0"* ]]
  echo 1ne >"$VOLUME/nc/uploads/one.txt"
  touch -d "+1 minute" "$VOLUME/nc/uploads/one.txt"
  ln -s /etc/passwd "$VOLUME/nc/uploads/link"
  rm "$BUCKET/data/nc/uploads/two"*
  backup
  [ "$status" -eq 0 ]
  [ "$(cat "$BUCKET/data/nc/uploads/one.txt")" = 1ne ]
  [ "$(state files)" -eq 2 ]
  [[ $output == *" tries=1"* ]]
  [ ! -e "$BUCKET/data/nc/uploads/link" ]
  [ -z "$(find "$VOLUME" -name '.swarmkeep*')" ]
}

@test "the run tells how many files there are, and of which stack and node" {
  files_settings "METRICS_DIR='$BATS_TEST_TMPDIR/metrics'"
  backup
  local file=$BATS_TEST_TMPDIR/metrics/swarmkeep-files.appstack.prom
  grep -qx 'swarmkeep_files_last_success_files{project="",stack="appstack",node="app1"} 2' "$file"
  grep -qx 'swarmkeep_files_last_success_size_bytes{project="",stack="appstack",node="app1"} 14' "$file"
  touch "$FAKE/lossy"
  rm -r "$BUCKET"
  backup
  grep -qx 'swarmkeep_files_last_run_exit_code{project="",stack="appstack",node="app1"} 19' "$file"
  grep -q '^swarmkeep_files_last_success_files{.*} 2$' "$file"
}

@test "where files cannot be linked a sync uploads them" {
  mkdir "$FAKE/bin"
  printf '#!/bin/bash\n[[ $1 != -l ]] || exit 1\nexec /usr/bin/cp "$@"\n' >"$FAKE/bin/cp"
  chmod 755 "$FAKE/bin/cp"
  files_settings "PATH='$FAKE/bin':\$PATH"
  backup
  [ "$status" -eq 0 ]
  diff -r "$VOLUME" "$BUCKET/data"
  grep -q "s3 sync" "$FAKE/aws.args"
}

@test "what a killed run has gathered is not taken for files" {
  mkdir "$VOLUME/.swarmkeep-files.partial" "$VOLUME/.swarmkeep-restore.partial"
  echo x >"$VOLUME/.swarmkeep-files.partial/x"
  echo x >"$VOLUME/.swarmkeep-restore.partial/x"
  backup
  [ "$status" -eq 0 ]
  [ "$(state files)" -eq 2 ]
}

@test "an empty volume is a backup of no files" {
  rm -r "${VOLUME:?}"/*
  backup
  [ "$status" -eq 0 ]
  [ "$(state files)" -eq 0 ]
}

@test "a file that goes while it runs is no fault" {
  touch "$FAKE/vanish" # sync removes one.txt from the volume and exits with 2
  backup
  [ "$status" -eq 0 ]
  [ "$(state files)" -eq 1 ]
}

@test "--restore fetches what is missing and leaves the rest alone" {
  backup
  rm "$VOLUME/nc/uploads/one.txt"
  echo new >"$VOLUME/nc/uploads/three.txt"
  backup --restore
  [ "$status" -eq 0 ]
  [ "$(cat "$VOLUME/nc/uploads/one.txt")" = one ]
  [ "$(cat "$VOLUME/nc/uploads/three.txt")" = new ]
  [[ $output == *"files restored stack=appstack fetched=1 bytes=4 "* ]]
  backup --restore
  [[ $output == *"fetched=0 "* ]]
}

@test "--restore leaves a file that has changed since the backup, and names it" {
  echo three >"$VOLUME/nc/uploads/[a-z]*.txt" # what a pattern would be
  backup
  rm "$VOLUME/nc/uploads/one.txt"
  echo "two other words" >"$VOLUME/nc/uploads/two 'words' \$(x).txt"
  echo "longer than three" >"$VOLUME/nc/uploads/[a-z]*.txt"
  local here
  here=$(cd "$VOLUME" && find . -type f -printf '%p %i %s %T@\n' | sort)
  backup --restore
  [ "$status" -eq 0 ]
  [[ $output == *"fetched=1 bytes=4 "* ]]
  [[ $output == *" WARNING "*" 2 files are not as they are in the bucket and were left alone, such as nc/uploads/two 'words' "*",nc/uploads/[a-z]*.txt"* ]]
  [ "$(cat "$VOLUME/nc/uploads/one.txt")" = one ]
  [ "$(cd "$VOLUME" && find . -type f ! -name one.txt -printf '%p %i %s %T@\n' | sort)" = "$here" ]
}

@test "--restore does not overwrite what is written while it runs" {
  backup
  rm "$VOLUME/nc/uploads/one.txt"
  echo "not that one" >"$FAKE/appears"
  backup --restore
  [ "$status" -eq 0 ]
  [ "$(cat "$VOLUME/nc/uploads/one.txt")" = "not that one" ]
  [[ $output == *WARNING*"1 files are not as they are in the bucket and were left alone, such as nc/uploads/one.txt"* ]]
}

@test "--restore into an empty volume: all files, for the volume's owner and nobody else" {
  mkdir -p "$VOLUME/nc/deep/er"
  echo four >"$VOLUME/nc/deep/er/-rf"
  echo top >"$VOLUME/top"
  backup
  rm -r "${VOLUME:?}"/*
  [ "$(id -u)" -ne 0 ] || chown 1234:1235 "$VOLUME"
  umask 022
  backup --restore
  [ "$status" -eq 0 ]
  diff -r "$VOLUME" "$BUCKET/data"
  [[ $output == *"fetched=4 "* && $output != *WARNING* ]]
  [ "$(find "$VOLUME" -printf '%U:%G\n' | sort -u)" = "$(stat -c %u:%g "$VOLUME")" ]
  [ -z "$(find "$VOLUME" -type d -perm /077 ! -path "$VOLUME")" ]
}

@test "what a killed --restore has gathered is no file of NocoDB's" {
  backup
  rm "$VOLUME/nc/uploads/one.txt"
  mkdir "$VOLUME/.swarmkeep-restore.partial"
  echo half >"$VOLUME/.swarmkeep-restore.partial/one.txt.1234"
  backup
  [ "$status" -eq 0 ]
  [ ! -e "$VOLUME/.swarmkeep-restore.partial" ]
  [ "$(state files)" -eq 1 ]
  mkdir "$VOLUME/.swarmkeep-restore.partial"
  backup --restore
  [ "$status" -eq 0 ]
  [ "$(ls -A "$VOLUME")" = nc ]
}

@test "--restore that the bucket refuses leaves nothing behind" {
  backup
  rm "$VOLUME/nc/uploads/one.txt"
  printf '#!/bin/sh\ncase "$*" in *"s3 sync"*) echo half >"$(eval echo \\${$#})/one"; exit 1 ;; esac\nexec "%s" "$@"\n' \
    "$BATS_TEST_DIRNAME/fakes/aws" >"$FAKE/aws"
  mkdir "$FAKE/bin"
  mv "$FAKE/aws" "$FAKE/bin/aws"
  chmod 755 "$FAKE/bin/aws"
  files_settings "PATH='$FAKE/bin':\$PATH"
  backup --restore
  [ "$status" -eq 18 ]
  [ "$(ls -A "$VOLUME")" = nc ]
  [ ! -e "$VOLUME/nc/uploads/one.txt" ]
}

@test "--restore that leaves files out says so" {
  backup
  rm "$VOLUME/nc/uploads/one.txt"
  touch "$FAKE/lossy"
  backup --restore
  [ "$status" -eq 19 ]
  one_error "1 files did not arrive as they are in the bucket, such as nc/uploads/one.txt"
}

@test "--restore without room for the files changes nothing" {
  backup
  rm "$VOLUME/nc/uploads/one.txt"
  mkdir "$FAKE/bin"
  printf '#!/bin/sh\necho Avail; echo 0\n' >"$FAKE/bin/df"
  chmod 755 "$FAKE/bin/df"
  files_settings "PATH='$FAKE/bin':\$PATH"
  backup --restore
  [ "$status" -eq 14 ]
  one_error "bytes free, the files need 4"
  [ ! -e "$VOLUME/nc/uploads/one.txt" ]
}

@test "--check writes one known key and uploads no file" {
  backup --check
  [ "$status" -eq 0 ]
  [ "$(cat "$FAKE/uploads")" = files/appstack/state/.write-check ]
  [ ! -e "$BUCKET/data" ]
}

@test "2: unknown option, missing settings, hostile values" {
  backup --frobnicate
  [ "$status" -eq 2 ]
  local name
  for name in APP_STACK NODE STATE_DIR; do
    files_settings "$name='; touch $FAKE/executed'"
    backup
    [ "$status" -eq 2 ]
    one_error "setting $name"
  done
  [ ! -e "$FAKE/executed" ]
}

@test "10: another run is in progress" {
  mkdir -p "$STATE"
  exec 8>"$STATE/.lock"
  flock -n 8
  backup
  [ "$status" -eq 10 ]
  one_error "another run is in progress"
}

@test "11: no such volume on this node" {
  rm -r "$VOLUME"
  backup
  [ "$status" -eq 11 ]
  one_error "this node has no volume appstack_data"
}

@test "12: the Docker engine does not answer" {
  touch "$FAKE/docker-down"
  backup
  [ "$status" -eq 12 ]
  one_error "the Docker engine does not answer"
}

@test "18: the bucket refuses" {
  echo "An error occurred (AccessDenied) when calling the PutObject operation" >"$FAKE/aws-error"
  backup
  [ "$status" -eq 18 ]
  one_error "check this node's AWS key"
}

@test "--help names the exit codes that it has" {
  run "$SCRIPT" --help
  [ "$status" -eq 0 ]
  local code
  for code in 0 1 2 10 11 12 14 18 19; do grep -Eq "^ +$code  " <<<"$output"; done
  run "$SCRIPT" --version
  [[ $output =~ ^backup-files\.sh\ [0-9]+\.[0-9]+\.[0-9]+$ ]]
}

@test "a project has a folder of its own, and --check refuses another project's" {
  files_settings PROJECT_ID=00112233445566aa
  backup
  [ "$(state project)" = "{'name': '', 'id': '00112233445566aa'}" ]
  backup --check
  [ "$status" -eq 0 ]
  files_settings PROJECT_ID=ffeeddccbbaa9988
  backup --check
  [ "$status" -eq 2 ]
  one_error "where another project (00112233445566aa) has its files"
  files_settings PROJECT=staging PROJECT_ID=ffeeddccbbaa9988
  backup
  [ "$status" -eq 0 ]
  [ -e "$FAKE/bucket/staging/files/appstack/state/app1.json" ]
}
