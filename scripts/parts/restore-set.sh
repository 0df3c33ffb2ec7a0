#!/bin/bash
# shellcheck disable=SC2034 # used by those that source this
# The part of restore-pg.sh that knows sets: finds and checks one in the bucket, and sees whether
# the PostgreSQL in CONTAINER can take it. Sourced, never run.

readonly NO_SET=20 BAD_SET=21 WRONG_NAME=22 OLD_SERVER=23 RESTORE_FAILED=24 ROWS_DIFFER=25 \
  SWAP_FAILED=26 APP_FAILED=27 DOWNLOAD_FAILED=28
readonly PASSING=swarmkeep_restoring_ # what names of unfinished databases start with

# ---- asking PostgreSQL -------------------------------------------------------------------------

# Runs the SQL on stdin in database $1; what it answers is in $DIR/said.partial.
sql() {
  enter "$CONTAINER"
  start "${ENTER[@]}" psql -XAtqw -v ON_ERROR_STOP=1 -v VERBOSITY=terse -d "$1" \
    >"$DIR/said.partial" 2>"$ERRORS"
  finish "$STARTED"
  return "$STATUS"
}

# As sql, and sets SAID; the run ends if it fails: $2 says what could not be done.
asked() {
  sql "$1" || {
    tell psql "$ERRORS"
    die "$NO_DATABASE" "$2" "see the line above and 'docker logs $CONTAINER'"
  }
  SAID=$(<"$DIR/said.partial")
}

# Whether database $1 is there.
exists() {
  asked postgres "PostgreSQL does not say which databases it has" \
    <<<"SELECT count(*) FROM pg_database WHERE datname = '$1'"
  ((SAID == 1))
}

# ---- the set -----------------------------------------------------------------------------------

# As aws_cli, for reading: a failure ends the run.
bucket() {
  aws_cli "$@" || {
    bucket_failed "s3://$S3_BUCKET/$PREFIX/ could not be read"
    quit "$DOWNLOAD_FAILED"
  }
}

# Sets SET to the newest set that is not another project's, with its manifest.
newest_set() {
  local days one passed=" "
  for days in 8 100 20000; do
    list_sets "$days" || {
      bucket_failed "s3://$S3_BUCKET/$PREFIX/ could not be read"
      quit "$DOWNLOAD_FAILED"
    }
    for one in "${SETS[@]}"; do
      [[ $passed != *" $one "* ]] || continue
      read_set "$one"
      of_another "${MANIFEST[project]}" || { SET=$one && return; }
      log WARNING "set $one is of another project (${MANIFEST[project]}) and skipped"
      passed+="$one "
      ((${#passed} <= 20 * 17)) || break 2
    done
  done
  [[ $passed == " " ]] || passed=" of this project"
  die "$NO_SET" "s3://$S3_BUCKET/$PREFIX/ has no backup${passed% }" "'inv backup.list' shows what there is"
}

# Sets MANIFEST, what the manifest of set $1 says by name, and makes the file of the rows that are
# expected.
read_set() {
  local key name
  declare -gA MANIFEST=()
  bucket s3 cp --only-show-errors "s3://$S3_BUCKET/$PREFIX/backup_$1.manifest.json" "$DIR/manifest.partial"
  # PostgreSQL is the reader of JSON that is at hand.
  if ! ask_manifest <<<"$READ_MANIFEST"; then
    tell psql "$ERRORS"
    SET=$1
    blame "$BAD_SET" "backup_$SET.manifest.json cannot be read" "use another set: 'inv backup.list' shows them"
  fi
  while IFS=$'\t' read -r key name; do MANIFEST[$key]=$name; done < <(sed '/^$/,$d' "$DIR/said.partial")
  sed '1,/^$/d' "$DIR/said.partial" | LC_ALL=C sort >"$DIR/expected.partial"
}

# Sets MANIFEST of the set that is meant, and checks that it is complete: every part there, of the
# right size. A set that was named may be another project's.
choose_set() {
  local key size name
  local -A sizes=()
  [[ -n $SET ]] || newest_set
  bucket s3api list-objects-v2 --bucket "$S3_BUCKET" --prefix "$PREFIX/backup_$SET." \
    --query 'Contents[].[Key,Size]' --output text
  while read -r key size; do sizes[$key]=$size; done <"$DIR/answer.partial"
  [[ -n ${sizes[$PREFIX/backup_$SET.manifest.json]-} ]] || die "$NO_SET" \
    "s3://$S3_BUCKET/$PREFIX/backup_$SET.manifest.json does not exist" "'inv backup.list' shows what there is"
  [[ -n ${MANIFEST[format]-} ]] || read_set "$SET"
  ! of_another "${MANIFEST[project]}" || log WARNING "set $SET is of another project (${MANIFEST[project]})"
  [[ ${MANIFEST[format]} == 1 && ${MANIFEST[database]} == "$DATABASE" ]] || blame "$BAD_SET" \
    "backup_$SET.manifest.json is of format ${MANIFEST[format]}, database ${MANIFEST[database]}" "use another set"
  for name in dump globals; do
    key=${MANIFEST[$name.key]}
    [[ $key == "$PREFIX/backup_$SET."* && ${sizes[$key]-none} == "${MANIFEST[$name.bytes]}" ]] ||
      blame "$BAD_SET" "$key has ${sizes[$key]-no} bytes in the bucket, the manifest says ${MANIFEST[$name.bytes]}" \
        "use an earlier set: 'inv backup.list' shows them"
  done
}

# As sql, in a session with the table manifest, whose only column m is the manifest; :name is $1.
ask_manifest() {
  {
    printf "\\set name '%s'\nCREATE TEMP TABLE manifest AS SELECT " "${1-}"
    sql_text "$DIR/manifest.partial"
    printf '::jsonb AS m;\n'
    cat
  } >"$DIR/read.partial"
  sql postgres <"$DIR/read.partial"
}

# Lines "name, tab, value"; an empty line; the rows of every table as COUNT_SQL counts them.
readonly READ_MANIFEST="
SELECT name || E'\\t' || translate(coalesce(value, ''), E'\\n\\t', '  ') FROM manifest, LATERAL (
  VALUES ('format', m ->> 'format'), ('project', m #>> '{project,id}'), ('database', m ->> 'database'),
    ('dump.key', m #>> '{parts,dump,key}'), ('dump.bytes', m #>> '{parts,dump,bytes}'),
    ('dump.sha256', m #>> '{parts,dump,sha256}'), ('globals.key', m #>> '{parts,globals,key}'),
    ('globals.bytes', m #>> '{parts,globals,bytes}'), ('globals.sha256', m #>> '{parts,globals,sha256}'),
    ('major', ((m ->> 'server_version_num')::int / 10000)::text), ('server', m ->> 'server_version'),
    ('here', (current_setting('server_version_num')::int / 10000)::text),
    ('encoding', m ->> 'encoding'), ('collate', m ->> 'collate'), ('ctype', m ->> 'ctype'),
    ('provider', m ->> 'locale_provider'), ('icu', m ->> 'icu_locale'), ('owner', m ->> 'owner'),
    ('size', (m ->> 'size')::bigint::text), ('counted', jsonb_typeof(m -> 'rows')),
    ('lacking', (SELECT string_agg(e, ', ') FROM jsonb_object_keys(
      CASE jsonb_typeof(m -> 'extensions') WHEN 'object' THEN m -> 'extensions' END) e
      WHERE e NOT IN (SELECT name FROM pg_available_extensions)))) AS facts (name, value);
SELECT '';
SELECT to_json(key) || ': ' || value FROM manifest,
  jsonb_each_text(CASE jsonb_typeof(m -> 'rows') WHEN 'object' THEN m -> 'rows' END);
"

# Sets FILE to part $1 of the set, compared with the manifest: the local one if it is good and
# may be used, or downloaded.
fetch() {
  local key=${MANIFEST[$1.key]} sum=${MANIFEST[$1.sha256]} bytes=${MANIFEST[$1.bytes]} found free
  FILE=$DIR/${key##*/}
  if [[ -z $DRILLING && -f $FILE && $(stat -c %s -- "$FILE") == "$bytes" ]]; then
    [[ $(sum_of "$FILE") != "$sum" ]] || return 0
    log WARNING "$FILE is damaged: its SHA-256 is not the manifest's; the bucket's is used"
  fi
  FILE=$DIR/restore.$1.partial
  free=$(free_bytes)
  ((free > bytes + RESERVED + 1048576)) || die "$NO_SPACE" \
    "$DIR has $free bytes free, the download needs $bytes, and the restore $RESERVED on the same disk" "make room there"
  phase downloading "$bytes" "$FILE"
  bucket s3 cp --only-show-errors "s3://$S3_BUCKET/$key" "$FILE"
  phase comparing
  found=$(sum_of "$FILE")
  [[ $found == "$sum" ]] || blame "$BAD_SET" "$key is damaged: its SHA-256 is $found, the manifest says $sum" \
    "use an earlier set: 'inv backup.list' shows them; 'inv backup.verify --deep' reads the newest"
}

# ---- may it begin ------------------------------------------------------------------------------

# Refuses what cannot work, before anything is changed. Sets RESERVED: how much the restore takes
# of the disk that the download comes to; 0 where PostgreSQL's data is on another one.
check_server() {
  local folder wal size free size_here free_here need=$((MANIFEST[size] * 12 / 10))
  ((MANIFEST[here] >= MANIFEST[major])) || die "$OLD_SERVER" \
    "the set is of PostgreSQL ${MANIFEST[server]}, this server is ${MANIFEST[here]}: no older one can read it" \
    "deploy PostgreSQL ${MANIFEST[major]} or newer (images.postgres)"
  [[ -z ${MANIFEST[lacking]} ]] || die "$OLD_SERVER" \
    "the set needs extensions that this server lacks: ${MANIFEST[lacking]}" "deploy an image that has them (images.postgres)"
  asked postgres "PostgreSQL does not say where its data is" \
    <<<"SELECT pg_size_bytes(current_setting('max_wal_size')), current_setting('data_directory')"
  IFS='|' read -r wal folder <<<"$SAID"
  # What is loaded is in the log, too, until the next checkpoint.
  need=$((need + (wal < need ? wal : need)))
  read -r size free < <(ask docker exec "$CONTAINER" df -Pk "$folder" 2>"$ERRORS" | awk 'END { print $2, $4 }')
  ((free * 1024 >= need)) || die "$NO_SPACE" "PostgreSQL's disk has $((free * 1024)) bytes free, the restore needs about $need" \
    "make room on it; databases kept by an earlier restore may go (docs/recovery.md)"
  # One disk has other names in there, and in some file systems other numbers. It is the same if
  # it is as large, and about as much of it is free.
  read -r size_here free_here < <(df --output=size,avail -k -- "$DIR" | tail -n 1)
  RESERVED=0
  ((size_here != size || free_here < free - size / 100 || free_here > free + size / 100)) || RESERVED=$need
}

# Refuses a target that is there, unless there is nothing in it. Sets EMPTY then.
check_target() {
  EMPTY=""
  exists "$1" || return 0
  asked "$1" "database $1 cannot be looked into" <<<"$COUNT_OBJECTS"
  ((SAID == 0)) || die "$WRONG_NAME" "database $1 exists already and is not empty; nothing was changed" \
    "choose another name, or replace the live one: inv backup.restore --replace"
  EMPTY=yes
}

# How much somebody has made in a database. Ids from 16384 on are not PostgreSQL's own; functions
# and types of extensions come with them, and the types of arrays and rows with what they are of.
readonly COUNT_OBJECTS="
SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
  + (SELECT count(*) FROM pg_largeobject_metadata)
  + (SELECT count(*) FROM (SELECT 'pg_proc'::regclass, oid FROM pg_proc
      UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type
        WHERE typtype IN ('d', 'e', 'r') OR typtype = 'b' AND typcategory <> 'A') AS made (catalog, id)
    WHERE id >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d
      WHERE d.classid = catalog AND d.objid = id AND d.deptype = 'e'))
"
