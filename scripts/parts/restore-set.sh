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
  [[ $SAID == 1 ]]
}

# ---- the set -----------------------------------------------------------------------------------

# As aws_cli, for reading: a failure ends the run.
bucket() { aws_cli "$@" || could_not_be_read; }

could_not_be_read() {
  bucket_failed "s3://$S3_BUCKET/$PREFIX/ could not be read"
  quit "$DOWNLOAD_FAILED"
}

# Sets SET to the newest set that is not another project's, with its manifest.
newest_set() {
  local days one passed=" "
  list_and_guess || quit $?
  for days in 8 100 20000; do
    ((days == 8)) || list_sets "$days" || could_not_be_read
    read_sets
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
# expected. The set is one of those in SIZES.
read_set() {
  get_set "$PREFIX/backup_$1" || quit $?
  load_manifest "$DIR/backup_$1.manifest.json.partial" "$1"
}

# The same of the manifest in file $1, of set $2.
load_manifest() {
  local key name
  declare -gA MANIFEST=()
  mv -- "$1" "$DIR/manifest.partial"
  open_details "$1"
  # PostgreSQL is the reader of JSON that is at hand.
  if ! ask_manifest <<<"$READ_MANIFEST"; then
    tell psql "$ERRORS"
    SET=${2-$SET} name=${1##*/}
    blame "$BAD_SET" "${name%.partial} cannot be read" "use another set: 'inv backup.list' shows them"
  fi
  while IFS=$'\t' read -r key name; do MANIFEST[$key]=$name; done < <(sed '/^$/,$d' "$DIR/said.partial")
  # What is no number is never calculated with: bash would run commands that are in it.
  for key in size major here; do
    [[ ${MANIFEST[$key]-} =~ ^[0-9]+$ ]] || blame "$BAD_SET" "${1##*/}: its $key is no number" "use another set: 'inv backup.list' shows them"
  done
  sed '1,/^$/d' "$DIR/said.partial" | LC_ALL=C sort >"$DIR/expected.partial"
}

# Decrypts the part of the manifest that only those with an identity may read, where there is one.
open_details() {
  local name=${1##*/}
  rm -f -- "$DIR/details.partial"
  sed -n 's/^"details": "\(.*\)",$/\1/p' "$DIR/manifest.partial" | base64 -d >"$DIR/details.age.partial" 2>"$ERRORS" || true
  [[ -s $DIR/details.age.partial ]] || return 0
  decrypt "$DIR/details.age.partial" "$DIR/details.partial" || cannot_be_decrypted "$?" "${name%.partial}"
}

# Ends the run: $2 could not be decrypted, as decrypt has returned $1.
cannot_be_decrypted() {
  (($1 != NO_IDENTITY)) || die "$NO_IDENTITY" "$2 cannot be decrypted: $FLAW" \
    "give one of the identities that 'inv backup.list' shows for it: in the vault, or --identity FILE"
  (($1 == BAD_OBJECT)) || die "$1" "$2 cannot be decrypted: $FLAW" "see this node's free space, then run it again"
  blame "$BAD_SET" "$2 cannot be decrypted: $FLAW" "use an earlier set: 'inv backup.list' shows them"
}

# Downloads the manifest of the set whose keys begin with $1, and at the same time, if they are
# small, its other parts: each start of the AWS CLI takes longer than they do.
get_set() {
  local end parts=("get $1.manifest.json")
  for end in {globals.sql,dump}.gz{,.age}; do
    ((${SIZES[$1.$end]-SMALL} >= SMALL)) || is_here "${1##*/}.$end" || parts+=("get $1.$end")
  done
  side_by_side "${parts[@]}"
}

# Downloads key $1 into the folder, as .partial, unless that has been done.
get() { [[ -f $DIR/${1##*/}.partial ]] || bucket s3 cp --only-show-errors "s3://$S3_BUCKET/$1" "$DIR/${1##*/}.partial"; }

# Whether this node has file $1 from its own backup, and may use it. A drill is about the bucket's.
is_here() { [[ -z $DRILLING && -f $DIR/$1 ]]; }

# Lists the newest sets, and at the same time downloads the one that is most likely the newest: the
# newest of this node.
list_and_guess() {
  local end last="" calls=("list_or_quit 8")
  for last in "$DIR"/backup_*Z.manifest.json; do :; done
  last=${last%.manifest.json}
  for end in manifest.json {globals.sql,dump}.gz{,.age}; do
    [[ -f $last.$end && ($end == manifest.json || -n $DRILLING) ]] || continue
    (($(stat -c %s -- "$last.$end") >= SMALL)) || calls+=("guess $PREFIX/${last##*/}.$end")
  done
  side_by_side "${calls[@]}"
}

list_or_quit() { list_sets "$1" || could_not_be_read; }

# As get, for what need not be there.
guess() { aws_cli s3 cp --only-show-errors "s3://$S3_BUCKET/$1" "$DIR/${1##*/}.partial" || true; }

# Sets MANIFEST of the set that is meant, and checks that it is complete: every part there, of the
# right size. A set that was named may be another project's.
choose_set() {
  local key name
  if [[ -z $SET ]]; then
    newest_set
  else
    list_sizes "$PREFIX/backup_$SET." || could_not_be_read
    read_sizes
    [[ -n ${SIZES[$PREFIX/backup_$SET.manifest.json]-} ]] || die "$NO_SET" \
      "s3://$S3_BUCKET/$PREFIX/backup_$SET.manifest.json does not exist" "'inv backup.list' shows what there is"
    read_set "$SET"
  fi
  ! of_another "${MANIFEST[project]}" || log WARNING "set $SET is of another project (${MANIFEST[project]})"
  [[ ${MANIFEST[format]} == 1 && ${MANIFEST[database]} == "$DATABASE" ]] || blame "$BAD_SET" \
    "backup_$SET.manifest.json is of format ${MANIFEST[format]}, database ${MANIFEST[database]}" "use another set"
  for name in dump globals; do
    key=${MANIFEST[$name.key]}
    [[ $key == "$PREFIX/backup_$SET."* && ${SIZES[$key]-none} == "${MANIFEST[$name.bytes]}" ]] ||
      blame "$BAD_SET" "$key has ${SIZES[$key]-no} bytes in the bucket, the manifest says ${MANIFEST[$name.bytes]}" \
        "use an earlier set: 'inv backup.list' shows them"
  done
}

# As sql, in a session with the table manifest, whose only column m is the manifest; :name is $1.
ask_manifest() {
  {
    printf "\\set name '%s'\nCREATE TEMP TABLE manifest AS SELECT " "${1-}"
    sql_text "$DIR/manifest.partial"
    printf '::jsonb'
    [[ ! -f $DIR/details.partial ]] || {
      printf ' || '
      sql_text "$DIR/details.partial"
      printf '::jsonb'
    }
    printf ' AS m;\n'
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

# Sets FILE to part $1 of the set, compared with the manifest, and decrypted where it is encrypted.
fetch() {
  local encrypted
  find_part "$1"
  [[ $FILE == *.age || $FILE == *.age.partial ]] || return 0
  (($(free_bytes) > $(stat -c %s -- "$FILE") + RESERVED)) || die "$NO_SPACE" "$DIR has no room to decrypt ${FILE##*/}" "make room there"
  encrypted=$FILE FILE=${FILE%.partial}
  FILE=${FILE%.age}.partial
  phase decrypting
  decrypt "$encrypted" "$FILE" || cannot_be_decrypted "$?" "${MANIFEST[$1.key]}"
  [[ $encrypted != *.partial ]] || rm -f -- "$encrypted"
}

# Sets FILE to part $1 of the set as it was uploaded: the local one if it is good and may be used, or
# downloaded.
find_part() {
  local key=${MANIFEST[$1.key]} sum=${MANIFEST[$1.sha256]} bytes=${MANIFEST[$1.bytes]} found free
  FILE=$DIR/${key##*/}
  [[ -z $POINT ]] || { FILE=$DIR/${key##*/}.partial && return; }
  if is_here "${key##*/}" && [[ $(stat -c %s -- "$FILE") == "$bytes" ]]; then
    [[ $(sum_of "$FILE") != "$sum" ]] || return 0
    log WARNING "$FILE is damaged: its SHA-256 is not the manifest's; the bucket's is used"
  fi
  FILE+=.partial
  free=$(free_bytes)
  # Decrypted, it is there a second time.
  [[ $key != *.age ]] || bytes=$((bytes * 2))
  ((free > bytes + RESERVED + 1048576)) || die "$NO_SPACE" \
    "$DIR has $free bytes free, the download needs $bytes, and the restore $RESERVED on the same disk" "make room there"
  phase downloading "${MANIFEST[$1.bytes]}" "$FILE"
  get "$key"
  phase comparing
  found=$(sum_of "$FILE")
  [[ $found == "$sum" ]] || blame "$BAD_SET" "$key is damaged: its SHA-256 is $found, the manifest says $sum" \
    "use an earlier set: 'inv backup.list' shows them; 'inv backup.verify --deep' reads the newest"
}

# ---- may it begin ------------------------------------------------------------------------------

# Sets what has to be known of the server to restore into its database $1: WAL_SIZE (bytes that its log
# may take), DATA_FOLDER, EXISTS ("" if the database is not there); in $DIR/roles.partial its roles, as
# `missing_roles` wants them. Of its container: KILLED, MEMORY_LIMIT (bytes; 0 for none) and INSIDE_ROOT,
# where its files are. What earlier restores have left unfinished is dropped. Each session takes a
# tenth of a second to begin, so it is one.
look_at_server() {
  look_at_container
  KILLED=$(killed_in "$CONTAINER" "$INSIDE_ROOT")
  asked postgres "PostgreSQL does not say what there is" <<END
SELECT pg_size_bytes(current_setting('max_wal_size')), (SELECT count(*) FROM pg_database WHERE datname = '$1'),
  current_setting('data_directory');
SELECT format('CREATE ROLE %I;', rolname) FROM pg_roles;
$DROP_PASSING
END
  IFS='|' read -r WAL_SIZE EXISTS DATA_FOLDER <"$DIR/said.partial"
  [[ $WAL_SIZE =~ ^[0-9]+$ ]] || die "$NO_DATABASE" "PostgreSQL says that max_wal_size is '$WAL_SIZE'" "report it"
  [[ $EXISTS != 0 ]] || EXISTS=""
  sed 1d "$DIR/said.partial" >"$DIR/roles.partial"
}

# Drops the databases that restores have left unfinished.
readonly DROP_PASSING="SELECT format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database
WHERE starts_with(datname, '$PASSING') \\gexec"

# Refuses what cannot work, before anything is changed. Sets RESERVED: how much the restore takes
# of the disk that the download comes to; 0 where PostgreSQL's data is on another one.
check_server() {
  local size free size_here free_here need=$((MANIFEST[size] * 12 / 10))
  ((MANIFEST[here] >= MANIFEST[major])) || die "$OLD_SERVER" \
    "the set is of PostgreSQL ${MANIFEST[server]}, this server is ${MANIFEST[here]}: no older one can read it" \
    "deploy PostgreSQL ${MANIFEST[major]} or newer (images.postgres)"
  [[ -z ${MANIFEST[lacking]} ]] || die "$OLD_SERVER" \
    "the set needs extensions that this server lacks: ${MANIFEST[lacking]}" "deploy an image that has them (images.postgres)"
  # What is loaded is in the log, too, until the next checkpoint.
  need=$((need + (WAL_SIZE < need ? WAL_SIZE : need)))
  read -r size free < <(server_disk "$DATA_FOLDER")
  [[ $size$free =~ ^[0-9]+$ ]] || die "$NO_DATABASE" "df in the container says '$size $free'" "find out who changes files in the container"
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
  [[ $SAID == 0 ]] || die "$WRONG_NAME" "database $1 exists already and is not empty; nothing was changed" \
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
