# Encryption on the client's side, with the real age: what leaves the node, what comes back, and each fault.
# shellcheck disable=SC2030,SC2031,SC2034 # each test is a subshell of its own; the helper uses the rest

bats_require_minimum_version 1.5.0
load helper

setup() {
  set_up
  SCRIPTS=$BATS_TEST_DIRNAME/../../scripts
  KEYS=$BATS_TEST_TMPDIR/keys
  mkdir "$KEYS"
  local name
  for name in mine paper stranger; do age-keygen -o "$KEYS/$name" 2>/dev/null; done
  ssh-keygen -q -t ed25519 -N '' -C 'ann@example.com' -f "$KEYS/ssh"
  MINE=$(age-keygen -y "$KEYS/mine") PAPER=$(age-keygen -y "$KEYS/paper")
  SSH=$(cut -d ' ' -f 1,2 "$KEYS/ssh.pub")
  encrypted_settings
}

encrypted_settings() { settings "RECIPIENTS='$MINE,$PAPER,$SSH'" "$@"; }

# What the first 8 hex digits of a recipient's SHA-256 are.
id_of() { printf '%s' "$1" | sha256sum | cut -c 1-8; }

# A folder without age in it, and all else that the scripts call; or with age as the script $1.
age_is() {
  mkdir -p "$FAKE/bin"
  printf '#!/bin/bash\n%s\n' "$1" >"$FAKE/bin/age"
  chmod 755 "$FAKE/bin/age"
  encrypted_settings "PATH='$FAKE/bin':\$PATH"
}

in_bucket() { (cd "$FAKE/bucket" && find . -type f ! -name '*.metadata' | cut -c 3- | sort); }

# ---- the dump -----------------------------------------------------------------------------------

@test "what leaves the node is encrypted: dump and roles; each recipient can read it, nobody else" {
  backup
  [ "$status" -eq 0 ]
  [ "$(uploaded_parts | sort)" = "$(printf '%s\n' dump.gz.age globals.sql.gz.age manifest.json)" ]
  local base key
  base=$FAKE/bucket/postgres/nocodb/backup_$(stamp)
  for key in mine paper ssh; do
    age -d -i "$KEYS/$key" "$base.dump.gz.age" | gzip -dc | cmp - <(echo ARCHIVE; cat "$FAKE/content"; echo END)
    age -d -i "$KEYS/$key" "$base.globals.sql.gz.age" | gzip -dc | grep -q 'CREATE ROLE noco;'
  done
  run ! age -d -i "$KEYS/stranger" "$base.dump.gz.age"
  nothing_half_done
}

@test "nothing that can be read stays on the node" {
  backup
  [ "$status" -eq 0 ]
  local base
  base=backup_$(stamp)
  [ "$(local_files)" = "$(printf "$base.%s\n" dump.gz.age globals.sql.gz.age manifest.json sha256 uploaded)" ]
  (cd "$DUMPS" && sha256sum -c "$base.sha256")
}

@test "the manifest names the keys, and the bytes and SHA-256 of what is in the bucket" {
  backup
  python3 - "$FAKE/bucket" "$(stamp)" "$(id_of "$MINE")" "$(id_of "$PAPER")" "$(id_of "$SSH")" <<'END'
import hashlib, json, sys
bucket, stamp, *ids = sys.argv[1:]
found = json.load(open(f"{bucket}/postgres/nocodb/backup_{stamp}.manifest.json"))
assert found["recipients"] == ids, found
for part, end in (("dump", "dump.gz.age"), ("globals", "globals.sql.gz.age")):
    key = f"postgres/nocodb/backup_{stamp}.{end}"
    content = open(f"{bucket}/{key}", "rb").read()
    assert found["parts"][part] == {
        "key": key, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
    }, found
assert found["rows"] == {"public.nc_users_v2": 1, '"My schema".t': 20000}, found
END
}

@test "MANIFEST_MODE=encrypted: the names of tables are in clear nowhere, verify's facts are" {
  encrypted_settings MANIFEST_MODE=encrypted
  backup
  [ "$status" -eq 0 ]
  local manifest
  manifest=$FAKE/bucket/postgres/nocodb/backup_$(stamp).manifest.json
  run ! grep -rqE 'nc_users_v2|My schema' "$FAKE/bucket" "$DUMPS"
  python3 - "$manifest" >"$FAKE/details" <<'END'
import base64, json, sys
found = json.load(open(sys.argv[1]))
assert found["server_version"] == "15.14" and found["server_version_num"] == 150014, found
assert found["size"] == 8000000 and found["cluster"] == "7000", found
assert found["rows"] is None and found["images"] == {}, found
sys.stdout.buffer.write(base64.b64decode(found["details"]))
END
  age -d -i "$KEYS/mine" "$FAKE/details" | python3 -c '
import json, sys
found = json.load(sys.stdin)
assert found["rows"] == {"public.nc_users_v2": 1, "\"My schema\".t": 20000}, found
assert "dbstack_root_db" in found["images"], found'
}

@test "what could not be uploaded before the settings named recipients goes up encrypted" {
  encrypted_settings KEEP_LOCAL_DAYS=3000
  old_backup 20261101T021500Z
  printf '{"format": 1,\n"parts": {"dump": {"key": "x"},\n"globals": {"key": "y"}},\n"rows": null}\n' >"$DUMPS/backup_20261101T021500Z.manifest.json"
  (cd "$DUMPS" && sha256sum backup_20261101T021500Z.{dump.gz,globals.sql.gz,manifest.json} >backup_20261101T021500Z.sha256)
  backup
  [ "$status" -eq 0 ]
  local base=$FAKE/bucket/postgres/nocodb/backup_20261101T021500Z
  [ ! -e "$base.dump.gz" ]
  age -d -i "$KEYS/mine" "$base.dump.gz.age" | gzip -dc | grep -qx 20261101T021500Z
  python3 - "$base" "$(id_of "$MINE")" <<'END'
import hashlib, json, sys
found = json.load(open(sys.argv[1] + ".manifest.json"))
content = open(sys.argv[1] + ".dump.gz.age", "rb").read()
assert found["parts"]["dump"]["sha256"] == hashlib.sha256(content).hexdigest(), found
assert found["parts"]["globals"]["key"].endswith(".globals.sql.gz.age"), found
assert sys.argv[2] in found["recipients"], found
END
  [ -e "$DUMPS/backup_20261101T021500Z.uploaded" ]
  nothing_half_done
}

@test "with MANIFEST_MODE=encrypted a leftover in clear goes up without its names" {
  backup_in_clear() { settings KEEP_LOCAL_DAYS=3000 && backup; }
  echo AccessDenied >"$FAKE/aws-error"
  backup_in_clear
  [ "$status" -eq 18 ]
  rm "$FAKE/aws-error"
  wait_for another_second
  encrypted_settings KEEP_LOCAL_DAYS=3000 MANIFEST_MODE=encrypted
  backup
  [ "$status" -eq 0 ]
  [ "$(ls "$FAKE/bucket/postgres/nocodb/"*.manifest.json | wc -l)" -eq 2 ]
  run ! grep -rqE 'nc_users_v2|My schema' "$FAKE/bucket"
  local manifest
  for manifest in "$FAKE"/bucket/postgres/nocodb/*.manifest.json; do
    python3 -c 'import json,sys,base64; found = json.load(open(sys.argv[1])); assert found["rows"] is None and found["cluster"] == "7000"; sys.stdout.buffer.write(base64.b64decode(found["details"]))' "$manifest" |
      age -d -i "$KEYS/paper" | grep -q nc_users_v2
  done
}

@test "2: a recipient that is no key, a private key, two without a comma" {
  for recipients in age1abc "$(grep -v '^#' "$KEYS/mine")" "$MINE $PAPER" "ssh-rsa AAAA" "$MINE,"; do
    settings "RECIPIENTS='$recipients'"
    backup
    [ "$status" -eq 2 ]
    [ ! -e "$FAKE/pg_dump.saw" ]
  done
}

@test "12: age is not installed: nothing is dumped, least of all in clear" {
  age_is 'exit 1'
  rm "$FAKE/bin/age"
  mkdir "$FAKE/few"
  local tool
  for tool in /usr/bin/* /bin/*; do [[ $tool == */age ]] || ln -sf "$tool" "$FAKE/few/"; done
  encrypted_settings "PATH='$BATS_TEST_DIRNAME/fakes':'$FAKE/few'"
  backup
  [ "$status" -eq 12 ]
  one_error "age is not installed"
  [ ! -e "$FAKE/pg_dump.saw" ]
}

@test "16: age fails, or writes what not every recipient can read: nothing is uploaded, nothing left" {
  age_is 'echo "age: error: no luck" >&2; exit 1'
  backup
  [ "$status" -eq 16 ]
  one_error "could not be encrypted"
  [ ! -e "$FAKE/uploads" ]
  nothing_half_done
  # It leaves out the last recipient.
  age_is 'while [[ $1 == -r ]]; do last=(-r "$2"); shift 2; words+=("${last[@]}"); done; exec /usr/bin/age "${words[@]:0:4}" "$@"'
  backup
  [ "$status" -eq 16 ]
  one_error "is not encrypted for every recipient"
  # It does not encrypt at all.
  age_is 'cp "${@: -1}" "${@: -3:1}"'
  backup
  [ "$status" -eq 16 ]
  one_error "is not encrypted for every recipient"
  [ ! -e "$FAKE/uploads" ]
  nothing_half_done
}

@test "where the node has an identity for drills, all of what was encrypted is read" {
  cp "$KEYS/mine" "$FAKE/identity"
  chmod 600 "$FAKE/identity"
  # What it decrypts is not what it has encrypted.
  age_is '[[ $1 == -d ]] || exec /usr/bin/age "$@"; /usr/bin/age "$@" | head -c 10'
  encrypted_settings "PATH='$FAKE/bin':\$PATH" "IDENTITY_FILE='$FAKE/identity'"
  backup
  [ "$status" -eq 16 ]
  one_error "cannot be decrypted to what it was made of"
  chmod 644 "$FAKE/identity"
  backup
  [ "$status" -eq 2 ]
  one_error "others could read it"
}

# ---- restoring ----------------------------------------------------------------------------------

SET=20261122T021500Z

# Puts an encrypted set into the bucket.
a_set() {
  local base=$FAKE/bucket/postgres/nocodb/backup_$SET part file
  mkdir -p "${base%/*}"
  printf '%s\n' ARCHIVE END | gzip | age -r "$MINE" -r "$SSH" >"$base.dump.gz.age"
  echo 'CREATE ROLE noco;' | gzip | age -r "$MINE" -r "$SSH" >"$base.globals.sql.gz.age"
  echo '{"format": 1}' >"$base.manifest.json"
  ! declare -F spoil >/dev/null || spoil "$base.dump.gz.age"
  {
    for part in dump globals; do
      file=$(ls "$base.$part".*)
      printf '%s\t%s\n' "$part.key" "${file#"$FAKE/bucket/"}" "$part.bytes" "$(stat -c %s "$file")" \
        "$part.sha256" "$(sha256sum <"$file" | cut -d ' ' -f 1)"
    done
    printf '%s\t%s\n' format 1 database nocodb major 15 server 15.14 here 15 lacking "" encoding UTF8 collate C \
      ctype C project "" provider c icu "" owner noco size 1000 counted object
  } >"$FAKE/facts"
  : >"$FAKE/databases"
  echo 0 >"$FAKE/objects"
}

# Restores with identity $1, or none.
restore() {
  local words=(restore --set "$SET" --into fine --config "$CONF")
  [[ -z ${1-} ]] || words+=(--identity)
  run "$SCRIPTS/restore-pg.sh" "${words[@]}" <"${1:-/dev/null}"
}

nothing_restored() {
  run ! grep -q '^pg_restore$' "$FAKE/psql.stdin"
  [ -z "$(find "$BATS_TEST_TMPDIR/dumps" -name '*.partial*')" ]
}

@test "a set comes back with any of its identities, through stdin, and nothing of it stays on the node" {
  a_set
  for key in mine ssh; do
    restore "$KEYS/$key"
    [ "$status" -eq 0 ]
    [[ $output == *"restore complete set=$SET"* ]]
    [ -z "$(find "$BATS_TEST_TMPDIR/dumps" -type f ! -name .lock)" ]
  done
}

@test "34: no identity, another one, none at all: one error, and no database is made" {
  a_set
  restore
  [ "$status" -eq 34 ]
  one_error "dump.gz.age cannot be decrypted: it is encrypted, and no identity was given"
  nothing_restored
  restore "$KEYS/stranger"
  [ "$status" -eq 34 ]
  one_error "the identity that was given is none of those that it is encrypted for"
  nothing_restored
  echo "no key" >"$FAKE/none"
  restore "$FAKE/none"
  [ "$status" -eq 34 ]
  one_error "what was given is no age identity"
  nothing_restored
}

@test "21: ciphertext that was damaged or cut off before its SHA-256 was taken is not used, not even in part" {
  local way
  for way in flip shorten grow header; do
    eval "spoil() { $way \"\$1\"; }"
    a_set
    restore "$KEYS/mine"
    [ "$status" -eq 21 ] || [[ $way == header && $status -eq 34 ]]
    one_error "dump.gz.age cannot be decrypted"
    nothing_restored
  done
}

flip() { printf '\377\376' | dd of="$1" bs=1 seek=$(($(stat -c %s "$1") - 5)) conv=notrunc status=none; }
shorten() { truncate -s -3 "$1"; }
grow() { echo more >>"$1"; }
header() { sed -i '1s/v1/v9/' "$1"; }

@test "34: the identity that is on the node for drills is used by no restore" {
  a_set
  cp "$KEYS/mine" "$FAKE/identity"
  chmod 600 "$FAKE/identity"
  encrypted_settings "IDENTITY_FILE='$FAKE/identity'"
  restore
  [ "$status" -eq 34 ]
}

# ---- attachments --------------------------------------------------------------------------------

files_settings() {
  VOLUME=$FAKE/volumes/appstack_data STATE=$BATS_TEST_TMPDIR/state BUCKET=$FAKE/bucket/files/appstack
  (
    umask 077
    printf '%s\n' "PATH='$BATS_TEST_DIRNAME/fakes':/usr/bin:/bin" "S3_BUCKET='example-backups'" \
      "AWS_REGION='eu-central-1'" "APP_STACK='appstack'" "NODE='app1'" "STATE_DIR='$STATE'" "$@" >"$CONF"
  )
}

files() { run "$SCRIPTS/backup-files.sh" --config "$CONF" "$@"; }

# Files whose sizes lie on both sides of what age calls a chunk.
some_files() {
  mkdir -p "$VOLUME/nc/uploads"
  echo one >"$VOLUME/nc/uploads/one.txt"
  : >"$VOLUME/nc/uploads/empty"
  head -c 65536 /dev/urandom >"$VOLUME/nc/uploads/two 'words' \$(x).txt"
  head -c 65537 /dev/urandom >"$VOLUME/nc/uploads/-r"
}

@test "attachments: each is an encrypted object, the next run uploads none, and they come back" {
  files_settings "RECIPIENTS='$MINE,$SSH'"
  some_files
  files
  [ "$status" -eq 0 ]
  [ ! -e "$BUCKET/data" ]
  [ "$(find "$BUCKET/encrypted" -type f | wc -l)" -eq 4 ]
  age -d -i "$KEYS/ssh" "$BUCKET/encrypted/nc/uploads/one.txt.age" | grep -qx one
  python3 -c 'import json,sys; assert json.load(open(sys.argv[1]))["recipients"] == sys.argv[2:]' \
    "$BUCKET/state/app1.json" "$(id_of "$MINE")" "$(id_of "$SSH")"
  : >"$FAKE/aws.args"
  files
  [ "$status" -eq 0 ]
  run ! grep -q 's3 cp' "$FAKE/aws.args"
  cp -a "$VOLUME" "$FAKE/before"
  rm "$VOLUME"/nc/uploads/{one.txt,-r,empty}
  files --restore --identity <"$KEYS/mine"
  [ "$status" -eq 0 ]
  [[ $output == *"files restored stack=appstack fetched=3 "* ]]
  diff -r "$FAKE/before" "$VOLUME"
  [ -z "$(find "$STATE" "$VOLUME" -name '*.partial*')" ]
}

@test "attachments: other recipients make no upload of what is there; a file that changed is uploaded" {
  files_settings "RECIPIENTS='$MINE,$SSH'"
  some_files
  files
  files_settings "RECIPIENTS='$PAPER'"
  echo none >"$VOLUME/nc/uploads/one.txt"
  : >"$FAKE/aws.args"
  files
  [ "$status" -eq 0 ]
  [ "$(grep -c 's3 cp --only-show-errors --recursive' "$FAKE/aws.args")" -eq 1 ]
  age -d -i "$KEYS/paper" "$BUCKET/encrypted/nc/uploads/one.txt.age" | grep -qx none
  run ! age -d -i "$KEYS/paper" "$BUCKET/encrypted/nc/uploads/empty.age"
}

@test "attachments: what was uploaded in clear before is uploaded encrypted, and comes back from either" {
  files_settings
  some_files
  files
  [ "$status" -eq 0 ]
  files_settings "RECIPIENTS='$MINE'"
  files
  [ "$status" -eq 0 ]
  [ "$(find "$BUCKET/encrypted" -type f | wc -l)" -eq 4 ]
  rm "$BUCKET/encrypted/nc/uploads/one.txt.age" # as if it had never been encrypted
  cp -a "$VOLUME" "$FAKE/before"
  rm -r "$VOLUME/nc"
  files --restore --identity <"$KEYS/mine"
  [ "$status" -eq 0 ]
  diff -r "$FAKE/before" "$VOLUME"
}

@test "attachments: without an identity that fits nothing comes back, and what is damaged is named" {
  files_settings "RECIPIENTS='$MINE'"
  some_files
  files
  rm "$VOLUME/nc/uploads/one.txt"
  files --restore
  [ "$status" -eq 34 ]
  one_error "the files are encrypted, and no identity was given"
  files --restore --identity <"$KEYS/stranger"
  [ "$status" -eq 34 ]
  one_error "one.txt cannot be decrypted: the identity that was given is none of those"
  flip "$BUCKET/encrypted/nc/uploads/one.txt.age"
  files --restore --identity <"$KEYS/mine"
  [ "$status" -eq 19 ]
  [[ $output == *"encrypted/nc/uploads/one.txt.age cannot be decrypted: it is damaged"* ]]
  [ ! -e "$VOLUME/nc/uploads/one.txt" ]
  [ -z "$(find "$STATE" "$VOLUME" -name '*.partial*')" ]
}

# ---- WAL ----------------------------------------------------------------------------------------

@test "a segment is encrypted, and its name has the MD5 of what is in the bucket" {
  mkdir -p "$FAKE/spool" "$FAKE/work"
  head -c 1048576 /dev/urandom >"$FAKE/spool/000000010000000000000001"
  cd "$FAKE/spool"
  name=$(bash -c '. "$1/wal-pg.sh"; set -Eeuo pipefail; shopt -s inherit_errexit
    SEGMENT_BYTES=1048576 RECIPIENTS=$3 DIR=$2 ERRORS=$2/errors RUN=1 LOG_TAIL="" STEP_TIMEOUT=60 COMPRESS=(gzip -c) COMPRESSOR=gzip
    CHILDREN=(); OUTGOING=$2/outgoing; use_recipients; compressed 000000010000000000000001 20261129T120000Z' sh "$SCRIPTS" "$FAKE/work" "$MINE")
  [[ $name =~ ^0000000100000000/000000010000000000000001_20261129T120000Z_([0-9a-f]{32})\.gz\.age$ ]]
  [ "$(md5sum <"$FAKE/work/outgoing/$name" | head -c 32)" = "${BASH_REMATCH[1]}" ]
  age -d -i "$KEYS/mine" "$FAKE/work/outgoing/$name" | gzip -dc | cmp - 000000010000000000000001
}

@test "an upload of WAL that failed sends the same object again, for other recipients another one" {
  mkdir -p "$FAKE/spool" "$FAKE/work"
  head -c 1048576 /dev/urandom >"$FAKE/spool/000000010000000000000001"
  cd "$FAKE/spool"
  again() {
    bash -c '. "$1/wal-pg.sh"; set -Eeuo pipefail; shopt -s inherit_errexit
    SEGMENT_BYTES=1048576 RECIPIENTS=$3 WAL_DIR=$2 DIR=$2 ERRORS=$2/errors RUN=1 LOG_TAIL="" STEP_TIMEOUT=60 COMPRESS=(gzip -c) COMPRESSOR=gzip
    CHILDREN=(); use_recipients; open_outgoing; compressed 000000010000000000000001 "$4"' sh "$SCRIPTS" "$FAKE/work" "$1" "$2"
  }
  local first
  first=$(again "$MINE" 20261129T120000Z)
  [ "$(again "$MINE" 20261129T120100Z)" = "$first" ]
  echo torn >>"$FAKE/work/outgoing/$first"
  [ "$(again "$MINE" 20261129T120100Z)" != "$first" ]
  [ ! -e "$FAKE/work/outgoing/$first" ]
  first=$(again "$PAPER" 20261129T120200Z)
  age -d -i "$KEYS/paper" "$FAKE/work/outgoing/$first" | gzip -dc | cmp - 000000010000000000000001
  [ "$(find "$FAKE/work/outgoing" -name '*.age' | wc -l)" -eq 1 ]
}

@test "the way through the WAL takes what was encrypted anew, and the former one beside it is no second server" {
  local a b c
  a=$(printf 'a%.0s' {1..32}) b=$(printf 'b%.0s' {1..32}) c=$(printf 'c%.0s' {1..32})
  way() {
    printf 'wal/7/0000000100000000/00000001000000000000000%s\t10\t"%s"\n' "$@" >"$FAKE/listing"
    bash -c '. "$1/restore-pg.sh"; SSE=""; way_through 000000010000000000000001 "" 16777216 <"$2"' sh "$SCRIPTS" "$FAKE/listing"
  }
  # The new one sorts after the former one, and before it; two that were made of the same one.
  for pair in "1_20261129T120000Z_$a.gz.age $a 1_20261129T120000Z_$b.gz.aaaaaaaa.age $b" \
    "1_20261129T120000Z_$a.gz.bbbbbbbb.age $a 1_20261129T120000Z_$b.gz.age $b" \
    "1_20261129T120000Z_$a.gz.cccccccc.age $a 1_20261129T120000Z_$b.gz.cccccccc.age $b"; do
    # shellcheck disable=SC2086 # words
    found=$(way $pair "2_20261129T120100Z_$c.gz" "$c")
    [[ $found == "20261129T120100Z 20 complete"* ]]
    [ "$(wc -l <<<"$found")" -eq 3 ]
    [[ $(sed -n 2p <<<"$found") == *.gz.????????.age ]]
  done
  # Another content under the same name still ends the way.
  found=$(way "1_20261129T120000Z_$a.gz.age" "$a" "1_20261129T120000Z_$b.gz.dddddddd.age" "$b" "2_20261129T120100Z_$c.gz" "$c")
  [[ $found == *"is there twice"* ]]
}

@test "the way through the WAL goes over encrypted segments and clear ones" {
  printf '%s\t%s\t"%s"\n' wal/7/0000000100000000/000000010000000000000001_20261129T120000Z_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.gz 10 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \
    wal/7/0000000100000000/000000010000000000000002_20261129T120100Z_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.gz.age 10 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb \
    wal/7/0000000100000000/000000010000000000000003_20261129T120200Z_cccccccccccccccccccccccccccccccc.gz.age 10 dddddddddddddddddddddddddddddddd >"$FAKE/listing"
  found=$(bash -c '. "$1/restore-pg.sh"; SSE=""; way_through 000000010000000000000001 "" 16777216 <"$2"' sh "$SCRIPTS" "$FAKE/listing")
  [[ $found == "20261129T120100Z 20 wal/7/"*"003_"*"is not what was uploaded: its MD5 is another"* ]]
  [ "$(wc -l <<<"$found")" -eq 3 ]
}
