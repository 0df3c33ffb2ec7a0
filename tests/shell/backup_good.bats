# scripts/backup-pg.sh when all is well: what it makes, what it says, what it removes.

bats_require_minimum_version 1.5.0
load helper

setup() { set_up; }

@test "a backup lands in the bucket, is marked, and reads back as what was dumped" {
  backup
  [ "$status" -eq 0 ]
  [ "$(uploaded_parts | sort)" = "$(printf '%s\n' dump.gz globals.sql.gz manifest.json)" ]
  [ "$(uploaded_parts | tail -n 1)" = manifest.json ]
  local base
  base=backup_$(stamp)
  [[ $base =~ ^backup_[0-9]{8}T[0-9]{6}Z$ ]]
  [ "$(local_files)" = "$(printf "$base.%s\n" dump.gz globals.sql.gz manifest.json sha256 uploaded)" ]
  cmp "$DUMPS/$base.dump.gz" "$FAKE/bucket/postgres/nocodb/$base.dump.gz"
  cmp <(gzip -dc "$DUMPS/$base.dump.gz") <(echo ARCHIVE; cat "$FAKE/content"; echo END)
  gzip -dc "$DUMPS/$base.globals.sql.gz" | grep -q 'CREATE ROLE noco;'
  (cd "$DUMPS" && sha256sum -c "$base.sha256")
  nothing_half_done
}

@test "the manifest is JSON and says what is in the set, with every table's rows" {
  echo "appstack_nocodb nocodb/nocodb:0.301.3@sha256:$(printf 'b%.0s' {1..64})" >"$FAKE/images"
  backup
  python3 - "$DUMPS/backup_$(stamp)" <<'END'
import hashlib, json, os, sys
base = sys.argv[1]
found = json.load(open(base + ".manifest.json"))
stamp = base[-16:]
for part, end in (("dump", "dump.gz"), ("globals", "globals.sql.gz")):
    content = open(f"{base}.{end}", "rb").read()
    assert found["parts"][part] == {
        "key": f"postgres/nocodb/backup_{stamp}.{end}",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }, found
assert found["format"] == 1 and found["database"] == "nocodb", found
assert found["started"].translate({ord(c): None for c in "-:"}) == stamp, found
assert found["server_version_num"] == 150014 and found["size"] == 8000000, found
assert found["rows"] == {"public.nc_users_v2": 1, '"My schema".t': 20000}, found
assert found["images"]["appstack_nocodb"].startswith("nocodb/nocodb:0.301.3@sha256:bbb"), found
assert found["images"]["dbstack_root_db"] == "postgres:15-bookworm@sha256:aaaa", found
END
}

@test "pg_dump shares the snapshot in which the rows are counted" {
  backup
  [[ $(cat "$FAKE/pg_dump.saw") == *" --snapshot=00000003-0000001B-1" ]]
}

@test "with COUNT_ROWS=no the rows are null, and nothing is counted" {
  settings COUNT_ROWS=no
  backup
  [ "$status" -eq 0 ]
  grep -q '^"rows": null}$' "$DUMPS/backup_$(stamp).manifest.json"
}

@test "a database without tables has no rows to count" {
  : >"$FAKE/tables"
  backup
  [ "$status" -eq 0 ]
  grep -q '^"rows": {}}$' "$DUMPS/backup_$(stamp).manifest.json"
}

@test "each object carries its sha256 and bytes" {
  backup
  local key sum
  while read -r key; do
    sum=$(sha256sum <"$FAKE/bucket/$key")
    [ "$(cat "$FAKE/bucket/$key.metadata")" = \
      "sha256=${sum%% *},bytes=$(stat -c %s "$FAKE/bucket/$key")" ]
  done <"$FAKE/uploads"
}

@test "what arrived is seen by the answer to each upload, and where the ETag is no MD5 by the object's metadata" {
  backup
  [ "$status" -eq 0 ]
  # Two look for the last set, three upload.
  [ "$(wc -l <"$FAKE/aws.args")" -eq 5 ]
  run ! grep -q head-object "$FAKE/aws.args"
  echo 0123456789abcdef0123456789abcdef >"$FAKE/etag"
  wait_for another_second
  backup
  [ "$status" -eq 0 ]
  [ "$(grep -c head-object "$FAKE/aws.args")" -eq 3 ]
}

@test "the encryption that was asked for reaches the AWS CLI, at every upload" {
  backup
  run ! grep -q -- "--sse\|encryption" "$FAKE/aws.args"
  settings SSE=AES256
  wait_for another_second
  backup
  [ "$(grep -c -- '--server-side-encryption AES256 ' "$FAKE/aws.args")" -eq 3 ]
  settings SSE=aws:kms SSE_KMS_KEY_ID=arn:aws:kms:eu-central-1:1:key/abc-1
  wait_for another_second
  backup
  [ "$(grep -c -- '--server-side-encryption aws:kms --ssekms-key-id arn:aws:kms:eu-central-1:1:key/abc-1 ' "$FAKE/aws.args")" -eq 3 ]
}

@test "a large dump goes up in parts, with its encryption, and its object is looked at" {
  head -c 9000000 /dev/urandom >"$FAKE/content"
  settings SSE=AES256
  backup
  [ "$status" -eq 0 ]
  [ "$(grep -c -- 's3 cp .*--sse AES256 .*dump.gz$' "$FAKE/aws.args")" -eq 1 ]
  [ "$(grep -c -- 'head-object .*dump.gz ' "$FAKE/aws.args")" -eq 1 ]
  [ "$(grep -c -- put-object "$FAKE/aws.args")" -eq 2 ]
}

@test "several databases: a set of each; one that fails does not hold the others up" {
  settings "PG_DB='nocodb broken other'"
  echo broken >"$FAKE/deaf-databases"
  backup
  [ "$status" -eq 13 ]
  [ "$(sed -E 's,/backup_.*,,' "$FAKE/uploads" | uniq -c | tr -s ' ')" = \
    "$(printf ' 3 %s\n' postgres/nocodb postgres/other)" ]
  [[ $output == *"backup complete database=nocodb "*"for database broken"*"backup complete database=other "* ]]
  nothing_half_done
  backup --database other --check
  [ "$status" -eq 0 ]
  backup --database nobody
  [ "$status" -eq 2 ]
  one_error "database nobody: is not among those of PG_DB (nocodb broken other)"
}

@test "a user that may not read passwords of roles gets the roles without them, and is told" {
  touch "$FAKE/no-passwords"
  backup
  [ "$status" -eq 0 ]
  [[ $output == *WARNING*"passwords of roles"* ]]
}

@test "every log line has UTC time, level and run; the last one has the facts" {
  backup
  local line
  while IFS= read -r line; do
    [[ $line =~ ^20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\ (INFO|WARNING|ERROR)\ run=[0-9TZ]+-[0-9]+\ .+ ]]
  done <<<"$output"
  [[ ${lines[-1]} =~ backup\ complete\ database=nocodb\ bytes=[0-9]+\ seconds=[0-9]+\ key=postgres/nocodb/backup_ ]]
}

@test "times are UTC on a node of another time zone" {
  local before after
  before=$(date -u +%Y%m%dT%H%M%SZ)
  TZ=Pacific/Kiritimati backup
  after=$(date -u +%Y%m%dT%H%M%SZ)
  [ "$status" -eq 0 ]
  local stamp
  stamp=$(stamp)
  [[ ! $stamp < $before && ! $stamp > $after ]]
  [[ ${lines[0]} == "${stamp:0:4}-${stamp:4:2}-${stamp:6:2}T"* ]]
}

@test "dumps are for root's eyes only, whatever the umask" {
  umask 000
  backup
  [ "$(find "$BATS_TEST_TMPDIR/dumps" -perm /077)" = "" ]
}

@test "user and database reach pg_dump; without a secret file there is no password" {
  backup
  [ "$(cat "$FAKE/pg_dump.saw")" = "noco nocodb none -Fc -Z0 -w --lock-wait-timeout=10min --snapshot=00000003-0000001B-1" ]
}

@test "a password the server wants is read inside the container and seen nowhere else" {
  echo "s3cret-word" >"$FAKE/secret"
  backup
  [ "$status" -eq 0 ]
  [[ $(cat "$FAKE/pg_dump.saw") == "noco nocodb s3cret-word "* ]]
  [[ $output != *s3cret-word* ]]
  run ! grep -q s3cret-word "$FAKE/docker.args" "$FAKE/aws.args"
}

@test "where the container's files are out of reach, docker exec carries the dump" {
  touch "$FAKE/no-files"
  backup
  [ "$status" -eq 0 ]
  [[ $output == *WARNING*"docker exec"* ]]
  cmp <(gzip -dc "$DUMPS"/*.dump.gz) <(echo ARCHIVE; cat "$FAKE/content"; echo END)
  nothing_half_done
}

@test "an empty table's worth of data passes through the pipe as well as megabytes" {
  : >"$FAKE/content"
  backup
  [ "$status" -eq 0 ]
  seq 2000000 >"$FAKE/content"
  wait_for another_second
  backup
  [ "$status" -eq 0 ]
  [ "$(wc -l <"$FAKE/uploads")" -eq 6 ]
}

@test "of several containers the newest that answers is taken" {
  printf '%s\n' new0 mid1 old2 >"$FAKE/ids"
  echo new0 >"$FAKE/deaf"
  backup
  [ "$status" -eq 0 ]
  [[ $output == *"container=mid1 "* ]]
}

@test "auto takes libdeflate before pigz before gzip; the result is plain gzip" {
  mkdir "$FAKE/bin"
  printf '#!/bin/sh\nexec /bin/gzip "$@"\n' | tee "$FAKE/bin/pigz" >"$FAKE/bin/libdeflate-gzip"
  chmod 755 "$FAKE"/bin/*
  settings "PATH='$FAKE/bin':\$PATH" COMPRESSION=auto
  seq 3000000 >"$FAKE/content" # more than two of the pieces that libdeflate gets
  backup
  [ "$status" -eq 0 ]
  [[ $output == *"compression=libdeflate-6"* ]]
  cmp <(/bin/gzip -dc "$DUMPS"/*.dump.gz) <(echo ARCHIVE; cat "$FAKE/content"; echo END)
  rm -r "$DUMPS" "$FAKE/bin/libdeflate-gzip"
  # Only the fakes' own folder is asked for pigz: the machine may have one.
  settings "PATH='$FAKE/bin':\$PATH" COMPRESSION=auto "command() { [[ \$2 != libdeflate-gzip ]] && builtin command \"\$@\"; }"
  backup
  [[ $output == *"compression=pigz-6"* ]]
  rm -r "$DUMPS"
  settings COMPRESSION=auto "command() { [[ \$2 != libdeflate-gzip && \$2 != pigz ]] && builtin command \"\$@\"; }"
  backup
  [[ $output == *"compression=gzip-6"* ]]
  [ "$status" -eq 0 ]
}

@test "old dumps in the bucket go; the newest stays, and so does what is not in the bucket" {
  old_backup 20200101T000000Z uploaded
  old_backup 20200102T000000Z
  old_backup "$(date -u -d '-6 days' +%Y%m%dT%H%M%SZ)" uploaded
  echo backup_20200102 >"$FAKE/refuse" # it cannot be uploaded now either
  backup
  [ "$status" -eq 18 ]
  [ -z "$(find "$DUMPS" -name 'backup_20200101T000000Z.*')" ]
  [ -e "$DUMPS/backup_20200102T000000Z.dump.gz" ]
  [ "$(find "$DUMPS" -name '*.dump.gz' | wc -l)" -eq 3 ]
}

@test "with KEEP_LOCAL_DAYS=0 only the newest dump stays" {
  settings KEEP_LOCAL_DAYS=0
  old_backup "$(date -u -d '-1 hour' +%Y%m%dT%H%M%SZ)" uploaded
  backup
  [ "$status" -eq 0 ]
  [ "$(find "$DUMPS" -name '*.dump.gz')" = "$DUMPS/backup_$(stamp).dump.gz" ]
}

@test "a newest dump from the future (a clock that was wrong) is not removed for that" {
  settings KEEP_LOCAL_DAYS=0
  old_backup 20990101T000000Z uploaded
  backup
  [ "$status" -eq 0 ]
  [ -e "$DUMPS/backup_20990101T000000Z.dump.gz" ]
}

@test "what earlier runs could not upload goes after the new dump, oldest first" {
  old_backup 20200102T000000Z
  old_backup 20200101T000000Z
  settings KEEP_LOCAL_DAYS=9999
  backup
  [ "$status" -eq 0 ]
  [[ $(sed -n 1p "$FAKE/uploads") != *_2020* ]]
  [[ $(sed -n 4p "$FAKE/uploads") == *backup_20200101T000000Z.*.gz ]]
  [[ $(sed -n 6p "$FAKE/uploads") == *backup_20200101T000000Z.manifest.json ]]
  [[ $(sed -n 7p "$FAKE/uploads") == *backup_20200102T000000Z.*.gz ]]
  [ "$(find "$DUMPS" -name '*.uploaded' | wc -l)" -eq 3 ]
}

@test "--check writes one known key, finds the database, and dumps nothing" {
  backup --check
  [ "$status" -eq 0 ]
  [ "$(cat "$FAKE/uploads")" = postgres/nocodb/.write-check ]
  [[ $output == *"ready: bucket s3://example-backups, container 0123456789ab, database nocodb"* ]]
  [ "$(local_files)" = "" ]
}

@test "the endpoint of an S3-compatible store reaches the AWS CLI" {
  settings "S3_ENDPOINT_URL='http://10.0.0.5:9000'"
  backup
  [ "$status" -eq 0 ]
  [ "$(grep -c -- '--endpoint-url http://10.0.0.5:9000' "$FAKE/aws.args")" -eq 5 ]
}

@test "--help names every exit code that the script has, --version the version" {
  run "$SCRIPT" --help
  [ "$status" -eq 0 ]
  local code
  while IFS= read -r code; do
    grep -Eq "^ +$code  " <<<"$output"
  done < <(sed -n '/^readonly UNEXPECTED/,/[^\\]$/p' "${SCRIPT%/*}/parts/backup-common.sh" | grep -o '=[0-9]*' | cut -c 2-)
  run "$SCRIPT" --version
  [[ $output =~ ^backup-pg\.sh\ [0-9]+\.[0-9]+\.[0-9]+$ ]]
}

@test "sourced, it only defines its functions" {
  run bash -c '. "$1" && declare -F backup check main' sh "$SCRIPT"
  [ "$status" -eq 0 ]
  [ "$output" = "$(printf '%s\n' backup check main)" ]
}

@test "the cron template holds one job with a place for the schedule" {
  local template=$BATS_TEST_DIRNAME/../../scripts/backup.cron
  [ "$(grep -c '^@SCHEDULE@ root @SCRIPT@ >>@LOG@ 2>&1$' "$template")" -eq 1 ]
  [ "$(grep -vc -e '^#' -e '^MAILTO=""$' -e '^@SCHEDULE@' "$template")" -eq 0 ]
}

# ---- whose it is, and of which cluster ----------------------------------------------------------

# What the newest manifest says as $1.
said() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$(ls "$DUMPS"/*.manifest.json | tail -n 1)" "$1"; }

@test "without a project everything lies where it always did" {
  backup
  [ "$status" -eq 0 ]
  [[ $(head -n 1 "$FAKE/uploads") == postgres/nocodb/backup_* ]]
  [ "$(said project)" = "{'name': '', 'id': ''}" ]
}

@test "a project has a folder of its own, and is in the manifest" {
  settings PROJECT=staging PROJECT_ID=00112233445566aa
  backup
  [ "$status" -eq 0 ]
  [[ $(head -n 1 "$FAKE/uploads") == staging/postgres/nocodb/backup_* ]]
  [ "$(said project)" = "{'name': 'staging', 'id': '00112233445566aa'}" ]
}

@test "a bad project is refused" {
  for bad in PROJECT=../x PROJECT=Staging PROJECT_ID=zz; do
    settings "$bad"
    backup
    [ "$status" -eq 2 ]
    one_error "setting PROJECT"
  done
}

@test "the manifest says which cluster it is of, and which was expected" {
  backup
  [ "$(said cluster)" = 7000 ]
  [ "$(said expected_cluster)" = 7000 ]
  wait_for another_second
  backup
  [ "$status" -eq 0 ]
  [[ $output != *WARNING* ]]
  [ "$(said expected_cluster)" = 7000 ]
}

@test "another cluster than the last set's is backed up, and said so until it is accepted" {
  backup
  echo 9000 >"$FAKE/cluster"
  for _ in 1 2; do
    wait_for another_second
    backup
    [ "$status" -eq 0 ]
    [[ $output == *"WARNING "*"this is cluster 9000, the last set was of cluster 7000"*"; next: "* ]]
    [ "$(said cluster)" = 9000 ]
    [ "$(said expected_cluster)" = 7000 ]
  done
  echo '{"format": 1, "cluster": "9000"}' >"$FAKE/bucket/postgres/nocodb/cluster.json"
  for _ in 1 2; do
    wait_for another_second
    backup
    [[ $output != *WARNING* ]]
    [ "$(said expected_cluster)" = 9000 ]
  done
}

@test "on a new node the last set in the bucket tells which cluster is expected" {
  backup
  rm -r "$DUMPS"
  echo 9000 >"$FAKE/cluster"
  wait_for another_second
  backup
  [[ $output == *"the last set was of cluster 7000"* ]]
}

@test "another project's set in the folder says nothing of our cluster" {
  settings PROJECT_ID=00112233445566aa
  backup
  rm -r "$DUMPS"
  echo 9000 >"$FAKE/cluster"
  settings PROJECT_ID=ffeeddccbbaa9988
  wait_for another_second
  backup
  [ "$status" -eq 0 ]
  [[ $output != *"last set was"* ]]
  [ "$(said expected_cluster)" = 9000 ]
}

@test "a set of an earlier version, without a cluster, is followed by any" {
  old_backup 20200101T000000Z uploaded
  backup
  [[ $output != *WARNING* ]]
  [ "$(said expected_cluster)" = 7000 ]
}

@test "--check refuses a folder of another project's" {
  settings PROJECT_ID=00112233445566aa
  backup
  backup --check
  [ "$status" -eq 0 ]
  settings PROJECT_ID=ffeeddccbbaa9988
  : >"$FAKE/uploads"
  backup --check
  [ "$status" -eq 2 ]
  one_error "where another project (00112233445566aa) has its backups"
  [ ! -s "$FAKE/uploads" ]
}
