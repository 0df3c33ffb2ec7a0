#!/bin/bash
# shellcheck disable=SC2034 # used by those that source this
# The part of restore-pg.sh that knows sets: finds and checks one in the bucket, and restores it
# into a database of the PostgreSQL in CONTAINER. Sourced, never run.

readonly NO_SET=20 BAD_SET=21 WRONG_NAME=22 OLD_SERVER=23 RESTORE_FAILED=24 ROWS_DIFFER=25 \
  SWAP_FAILED=26 APP_FAILED=27 DOWNLOAD_FAILED=28
readonly HEAD_BYTES=$((4 * 1024 * 1024))
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

# Sets SET to the newest set that has a manifest, without those from the future (a wrong clock).
newest_set() {
  local days key end=.manifest.json now
  now=$(date -u -d '+5 minutes' +%Y%m%dT%H%M%SZ)
  for days in 8 100 20000; do
    bucket s3api list-objects-v2 --bucket "$S3_BUCKET" --prefix "$PREFIX/backup_" \
      --start-after "$PREFIX/backup_$(date -u -d "-$days days" +%Y%m%d)" \
      --query "Contents[?ends_with(Key, '$end')].[Key]" --output text
    while read -r key; do
      key=${key#"$PREFIX/backup_"}
      [[ ! $key =~ ^[0-9]{8}T[0-9]{6}Z"$end"$ || ${key%"$end"} > $now ]] || SET=${key%"$end"}
    done <"$DIR/answer.partial"
    [[ -z $SET ]] || return 0
  done
  die "$NO_SET" "s3://$S3_BUCKET/$PREFIX/ has no backup" "'inv backup.list' shows what there is"
}

# Sets MANIFEST (what it says, by name), the file of the rows that are expected, and checks that
# the set is complete: every part there, of the right size.
choose_set() {
  local key size name
  [[ -n $SET ]] || newest_set
  declare -gA MANIFEST=()
  local -A sizes=()
  bucket s3api list-objects-v2 --bucket "$S3_BUCKET" --prefix "$PREFIX/backup_$SET." \
    --query 'Contents[].[Key,Size]' --output text
  while read -r key size; do sizes[$key]=$size; done <"$DIR/answer.partial"
  [[ -n ${sizes[$PREFIX/backup_$SET.manifest.json]-} ]] || die "$NO_SET" \
    "s3://$S3_BUCKET/$PREFIX/backup_$SET.manifest.json does not exist" "'inv backup.list' shows what there is"
  bucket s3 cp --only-show-errors "s3://$S3_BUCKET/$PREFIX/backup_$SET.manifest.json" "$DIR/manifest.partial"
  # PostgreSQL is the reader of JSON that is at hand.
  if ! ask_manifest <<<"$READ_MANIFEST"; then
    tell psql "$ERRORS"
    blame "$BAD_SET" "backup_$SET.manifest.json cannot be read" "use another set: 'inv backup.list' shows them"
  fi
  while IFS=$'\t' read -r key name; do MANIFEST[$key]=$name; done < <(sed '/^$/,$d' "$DIR/said.partial")
  sed '1,/^$/d' "$DIR/said.partial" | LC_ALL=C sort >"$DIR/expected.partial"
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
  VALUES ('format', m ->> 'format'), ('database', m ->> 'database'),
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

# ---- restoring ---------------------------------------------------------------------------------

# Makes the roles that the set has and this server lacks. One that is here is left alone: its
# password may have been changed since. Everything goes through stdin, no log shows a statement.
make_roles() {
  fetch globals
  asked postgres "PostgreSQL does not say which roles it has" \
    <<<"SELECT format('CREATE ROLE %I;', rolname) FROM pg_roles"
  mv -- "$DIR/said.partial" "$DIR/roles.partial"
  gzip -dc <"$FILE" | awk "$MISSING_ROLES" known=1 "$DIR/roles.partial" known=0 - >"$DIR/make.partial"
  [[ -s $DIR/make.partial ]] || return 0
  {
    echo "BEGIN; SET LOCAL log_statement = 'none'; SET LOCAL log_min_error_statement = 'panic';"
    cat -- "$DIR/make.partial"
    echo "COMMIT;"
  } >"$DIR/roles.partial"
  sql postgres <"$DIR/roles.partial" || {
    tell psql "$ERRORS"
    blame "$RESTORE_FAILED" "the set's roles could not be made" "see the line above; make them by hand, then run again"
  }
  log INFO "made roles that were missing: $(sed -n 's/^CREATE ROLE \(.*\);$/\1/p' "$DIR/make.partial" | paste -sd ' ')"
}

# Of what pg_dumpall wrote, the statements that make the roles which are not known, and those that
# make one a member of another where either is made. Who granted a membership need not exist here.
# A statement is a line, but what is quoted may have line breaks in it: whoever may set a value or
# a name could else write statements of his own there.
# shellcheck disable=SC2016 # awk
readonly MISSING_ROLES='
function begins(words) { rest = substr(text, length(words) + 1); return index(text, words) == 1 }
function name(  found) { # the one that the rest begins with; it is cut off there
  match(rest, /^("([^"]|"")*"|[^ ";]+)/)
  found = substr(rest, 1, RLENGTH)
  rest = substr(rest, length(found) + 1)
  return found
}
!quoting && /^--/ { next }
{
  text = quoting ? text "\n" $0 : $0
  left = text
  gsub(/\047[^\047]*\047|"[^"]*"/, "", left)
  quoting = left ~ /[\047"]/
  if (quoting) next
}
begins("CREATE ROLE ") {
  role = name()
  if (known) have[role] = 1
  else if (rest == ";" && !(role in have)) { missing[role] = 1; print text }
}
begins("ALTER ROLE ") { if (name() in missing) print text }
begins("GRANT ") {
  what = name()
  if (match(rest, /^[A-Z, ]* ON PARAMETER [^ ]+ TO /)) {
    rest = substr(rest, RLENGTH + 1)
    if (name() in missing) print text
  } else if (sub(/^ TO /, "", rest)) {
    member = name()
    sub(/ GRANTED BY .*/, ";", rest)
    if (what in missing || member in missing) print "GRANT " what " TO " member rest
  }
}'

# Makes database $1 as the set's was: encoding, collation, owner.
create_database() {
  UNFINISHED=$1
  enter "$CONTAINER"
  start "${ENTER[@]}" psql -XAtqw -v ON_ERROR_STOP=1 -v VERBOSITY=terse -v "name=$1" -v "owner=${MANIFEST[owner]}" \
    -v "encoding=${MANIFEST[encoding]}" -v "collate=${MANIFEST[collate]}" -v "ctype=${MANIFEST[ctype]}" \
    -v "provider=${MANIFEST[provider]}" -v "icu=${MANIFEST[icu]}" >/dev/null 2>"$ERRORS" <<'END'
SELECT format('CREATE DATABASE %I TEMPLATE template0 OWNER %I ENCODING %L LC_COLLATE %L LC_CTYPE %L',
    :'name', :'owner', :'encoding', :'collate', :'ctype') ||
  CASE WHEN current_setting('server_version_num')::int < 150000 THEN ''
    WHEN :'provider' = 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', :'icu')
    WHEN :'provider' = 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', :'icu')
    ELSE ' LOCALE_PROVIDER libc' END \gexec
END
  finish "$STARTED"
  ((STATUS == 0)) || {
    tell psql "$ERRORS"
    blame "$RESTORE_FAILED" "a database like the set's could not be made" "see the line above"
  }
}

# Gives database $1 the rights that the set's had, before anything is in it. Those of roles that
# are not here are left out. Sets that were made before this was recorded have none.
give_rights() {
  ask_manifest "$1" <<'END' && return
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC, %I', :'name', m ->> 'owner')
FROM manifest WHERE jsonb_typeof(m -> 'acl') = 'array' \gexec
SELECT format('GRANT %s ON DATABASE %I TO %s', privilege, :'name', coalesce(quote_ident(grantee), 'PUBLIC'))
  || CASE WHEN grantable THEN ' WITH GRANT OPTION' ELSE '' END
FROM manifest, jsonb_to_recordset(CASE jsonb_typeof(m -> 'acl') WHEN 'array' THEN m -> 'acl' END)
  AS acl (grantee text, privilege text, grantable boolean)
WHERE privilege IN ('CONNECT', 'CREATE', 'TEMPORARY')
  AND (grantee IS NULL OR grantee IN (SELECT rolname FROM pg_roles)) \gexec
END
  tell psql "$ERRORS"
  blame "$RESTORE_FAILED" "the rights on the set's database could not be set" "see the line above"
}

# Gives database $1 the connection limit and the settings that the set's had. That comes last: they
# are meant for its clients, a restore may not be able to work with them. A setting that this
# server refuses (later versions do without some) is named, and no reason to be without the data.
# Lists that PostgreSQL keeps quoted are taken apart, as pg_dump does it with the same names.
give_settings() {
  local line
  ask_manifest "$1" <<'END' || {
SELECT format('ALTER DATABASE %I CONNECTION LIMIT %s', :'name', (m ->> 'connection_limit')::int)
FROM manifest WHERE (m ->> 'connection_limit')::int >= 0 \gexec
\set ON_ERROR_STOP off
SELECT CASE WHEN role IS NULL THEN format('ALTER DATABASE %I SET ', :'name')
    ELSE format('ALTER ROLE %I IN DATABASE %I SET ', role, :'name') END || quote_ident(key) || ' TO ' ||
  CASE WHEN key NOT IN ('local_preload_libraries', 'search_path', 'session_preload_libraries',
    'shared_preload_libraries', 'temp_tablespaces', 'unix_socket_directories') THEN quote_literal(value)
  ELSE (SELECT coalesce(string_agg(quote_literal(CASE WHEN part[1] LIKE '"%'
      THEN replace(substr(part[1], 2, length(part[1]) - 2), '""', '"') ELSE part[1] END), ', ' ORDER BY nr), '''''')
    FROM regexp_matches(value, '("(?:[^"]|"")*"|[^",[:space:]]+)', 'g') WITH ORDINALITY AS parts (part, nr)) END
FROM manifest, jsonb_to_recordset(CASE jsonb_typeof(m -> 'settings') WHEN 'array' THEN m -> 'settings' END)
    AS settings (role text, setting text),
  LATERAL (VALUES (split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1))) AS pairs (key, value)
WHERE role IS NULL OR role IN (SELECT rolname FROM pg_roles) \gexec
END
    tell psql "$ERRORS"
    blame "$RESTORE_FAILED" "the settings of the set's database could not be set" "see the line above"
  }
  while IFS= read -r line; do
    log WARNING "a setting of the set's database did not come back: $line"
  done < <(grep 'ERROR: ' "$ERRORS")
}

# Sets RESTORE, the words that run pg_restore into database $1. What it loads is not flushed
# statement by statement: the last change of the name is, and with it all that was before.
restore_words() {
  local most memory more
  most=$(ask docker inspect -f '{{.HostConfig.Memory}}' "$CONTAINER" 2>"$ERRORS") || most=0
  memory=$(($(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1024))
  ((most == 0 || most / 1048576 > memory)) || memory=$((most / 1048576))
  memory=$((memory / 8 / JOBS))
  memory=$((memory < 32 ? 32 : memory > 512 ? 512 : memory))
  more="-c synchronous_commit=off -c maintenance_work_mem=${memory}MB -c max_parallel_maintenance_workers=0"
  RESTORE=("${ENTER[@]/#PGOPTIONS=/PGOPTIONS=$more }" pg_restore -w --exit-on-error --no-tablespaces -d "$1")
}

# Tables and rows, through the pipe. Loading them is one stream, and decompressing it another:
# that keeps two cores busy, without a decompressed archive on the disk.
load() {
  local reader file=$2
  make_pipe
  restore_words "$1"
  open_pipe
  start "${RESTORE[@]}" --section=pre-data --section=data <&7 8>&- >/dev/null 2>"$ERRORS"
  reader=$STARTED
  start "${DECOMPRESS[@]}" <"$file" >&8 7<&- 2>"$DIR/gz.partial"
  phase restoring "$(stat -c %s -- "$file")" "$STARTED"
  close_pipe "$reader" "$STARTED" || restore_failed "$THERE"
}

# Indexes, constraints, triggers: several at a time. pg_restore wants a file for that, but all it
# needs of it is the table of contents, which stands at its beginning.
build() {
  local file=$2 bytes=$HEAD_BYTES head=/dev/shm/backup-pg.$RUN/head
  phase indexing
  enter "$CONTAINER"
  restore_words "$1"
  while true; do
    # The decompressor is cut off here, which is no failure.
    # shellcheck disable=SC2016 # expanded in the container
    { "${DECOMPRESS[@]}" <"$file" 2>/dev/null || true; } | head -c "$bytes" |
      ask docker exec -i "$CONTAINER" sh -c 'umask 077; mkdir -p "${1%/*}" && cat >"$1"' sh "$head" || true
    ! ask docker exec "$CONTAINER" pg_restore --list "$head" >/dev/null 2>"$ERRORS" || break
    ((bytes < 1 << 30)) || restore_failed "its table of contents has no end"
    bytes=$((bytes * 4))
  done
  start "${RESTORE[@]}" --section=post-data -j "$JOBS" "$head" >/dev/null 2>"$ERRORS" </dev/null
  finish "$STARTED"
  ((STATUS == 0)) || restore_failed "$STATUS"
  ask docker exec "$CONTAINER" rm -f "$head" || true
}

restore_failed() {
  tell "${DECOMPRESS[0]}" "$DIR/gz.partial"
  tell pg_restore "$ERRORS"
  blame "$RESTORE_FAILED" "pg_restore failed ($1); what was restored is removed" \
    "see the lines above and 'docker logs $CONTAINER'; 124 means longer than STEP_TIMEOUT"
}

# Gathers the planner's statistics of database $1, before it may go live.
analyze() {
  phase analyzing
  enter "$CONTAINER"
  start "${ENTER[@]}" vacuumdb -qw --analyze-only -j "$JOBS" -d "$1" >/dev/null 2>"$ERRORS" </dev/null
  finish "$STARTED"
  ((STATUS == 0)) || {
    tell vacuumdb "$ERRORS"
    blame "$RESTORE_FAILED" "what was restored could not be analyzed" "see the line above"
  }
}

# The same for whoever need not wait for it. If it is cut off, autovacuum does what is left.
analyze_by_itself() {
  enter "$CONTAINER"
  ask "${ENTER[@]:0:2}" -d "${ENTER[@]:2}" vacuumdb -qw --analyze-only -d "$1" >/dev/null 2>&1 </dev/null || true
}

# Counts the rows of every table of database $1 and compares them with the manifest. Sets TABLES
# and ROWS.
compare() {
  local differing
  phase counting
  asked "$1" "the restored rows could not be counted" <<<"SET statement_timeout = 0; $COUNT_SQL"
  LC_ALL=C sort "$DIR/said.partial" >"$DIR/counted.partial"
  TABLES=$(wc -l <"$DIR/counted.partial")
  ROWS=$(awk '{ n += $NF } END { printf "%.0f", n }' "$DIR/counted.partial")
  if [[ ${MANIFEST[counted]} != object ]]; then
    log WARNING "not compared: counting was off when the set was made; tables=$TABLES rows=$ROWS"
    return
  fi
  cmp -s "$DIR/expected.partial" "$DIR/counted.partial" && return
  differing=$(awk "$DIFFERING" "$DIR/expected.partial" "$DIR/counted.partial")
  blame "$ROWS_DIFFER" "rows differ from the manifest: $differing" \
    "do not use this set; use an earlier one: 'inv backup.list' shows them"
}

# The first three tables whose counts differ, and how many more.
# shellcheck disable=SC2016 # awk
readonly DIFFERING='
{ n = $NF; sub(/: [0-9]+$/, "") }
FNR == NR { want[$0] = n; next }
{ got[$0] = n; if (!($0 in want)) want[$0] = "no table" }
END {
  for (name in want) {
    if (!(name in got)) got[name] = "no table"
    if (want[name] == got[name]) continue
    if (++all <= 3) printf "%s%s expected %s, got %s", (all > 1 ? "; " : ""), name, want[name], got[name]
  }
  if (all > 3) printf "; and %d more", all - 3
}'

# Restores the set into database $1.
restore_into() {
  local passing=$PASSING${RUN//-/_} file
  check_server
  check_target "$1"
  fetch dump
  file=$FILE
  log INFO "restoring set=$SET database=$DATABASE into=$1 bytes=$(stat -c %s -- "$file") jobs=$JOBS"
  make_roles
  create_database "${passing,,}"
  give_rights "$UNFINISHED"
  load "$UNFINISHED" "$file"
  build "$UNFINISHED" "$file"
  compare "$UNFINISHED"
  [[ -z $ANALYZE ]] || analyze "$UNFINISHED"
  give_settings "$UNFINISHED"
  # Somebody may have begun to use it meanwhile. It cannot be dropped while somebody is connected.
  [[ -z $EMPTY ]] || check_target "$1"
  # In a session that waits for the disk: afterwards all that was loaded is there for good.
  [[ -z $EMPTY ]] || asked postgres "the empty database $1 could not be removed: is it in use?" <<<"DROP DATABASE \"$1\""
  asked postgres "database $UNFINISHED could not be renamed" \
    <<<"SET synchronous_commit = on; ALTER DATABASE \"$UNFINISHED\" RENAME TO \"$1\""
  UNFINISHED=""
  [[ -n $ANALYZE || -n $DRILLING ]] || analyze_by_itself "$1"
}
