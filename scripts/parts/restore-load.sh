#!/bin/bash
# shellcheck disable=SC2034,SC2153 # used by those that source this, set by those before it
# The part of restore-pg.sh that loads: restores a set into a database of the PostgreSQL in
# CONTAINER, with its roles, rights and settings, and compares every row. Sourced, never run.

readonly HEAD_BYTES=$((4 * 1024 * 1024))

# Makes the roles that the set has and this server lacks. One that is here is left alone: its
# password may have been changed since. Everything goes through stdin, no log shows a statement.
make_roles() {
  fetch globals
  gzip -dc <"$FILE" | missing_roles "$DIR/roles.partial" >"$DIR/make.partial"
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

# Given what pg_dumpall wrote on stdin, and a file of the roles that are known ("CREATE ROLE name;" a
# line), prints the statements that make the roles which are not known, and those that
# make one a member of another where either is made. Who granted a membership need not exist here.
# A statement is a line, but what is quoted may have line breaks in it: whoever may set a value or
# a name could else write statements of his own there.
missing_roles() { awk "$MISSING_ROLES" known=1 "$1" known=0 -; }

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

# Makes database $1 as the set's was: encoding, collation, owner; and its rights, before anything
# is in it. Those of roles that are not here are left out. Sets that were made before this was
# recorded have none.
create_database() {
  UNFINISHED=$1
  ask_manifest "$1" <<'END' && return
SELECT format('CREATE DATABASE %I TEMPLATE template0 OWNER %I ENCODING %L LC_COLLATE %L LC_CTYPE %L',
    :'name', m ->> 'owner', m ->> 'encoding', m ->> 'collate', m ->> 'ctype') ||
  CASE WHEN current_setting('server_version_num')::int < 150000 THEN ''
    WHEN m ->> 'locale_provider' = 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', m ->> 'icu_locale')
    WHEN m ->> 'locale_provider' = 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', m ->> 'icu_locale')
    ELSE ' LOCALE_PROVIDER libc' END
FROM manifest \gexec
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
  blame "$RESTORE_FAILED" "a database like the set's could not be made, with its rights" "see the line above"
}

# Gives database $1 the connection limit and the settings that the set's had, and then the name $2.
# That comes last: they are meant for its clients, a restore may not be able to work with them. A
# setting that this server refuses (later versions do without some) is named, and no reason to be
# without the data. Lists that PostgreSQL keeps quoted are taken apart, as pg_dump does it with the
# same names. The name is given in a session that waits for the disk: afterwards all that was
# loaded is there for good.
give_settings_and_name() {
  local line
  cat >"$DIR/give.partial" <<'END'
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
\set ON_ERROR_STOP on
SET synchronous_commit = on;
END
  printf 'ALTER DATABASE "%s" RENAME TO "%s";\n' "$1" "$2" >>"$DIR/give.partial"
  ask_manifest "$1" <"$DIR/give.partial" || {
    tell psql "$ERRORS"
    blame "$RESTORE_FAILED" "database $1 could not be given its settings, or renamed to $2" "see the line above"
  }
  while IFS= read -r line; do
    log WARNING "a setting of the set's database did not come back: $line"
  done < <(grep 'ERROR: ' "$ERRORS")
}

# Sets RESTORE, the words that run pg_restore into database $1. What it loads is not flushed
# statement by statement: the last change of the name is, and with it all that was before.
restore_words() {
  local most memory more
  most=$MEMORY_LIMIT
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
  local file=$2 bytes=$HEAD_BYTES head=/dev/shm/backup-pg.$RUN/head words
  phase indexing
  enter "$CONTAINER"
  restore_words "$1"
  words=${#ENTER[@]}
  while true; do
    # The decompressor is cut off here, which is no failure.
    { "${DECOMPRESS[@]}" <"$file" 2>/dev/null || true; } | head -c "$bytes" >"$DIR/head.partial"
    start "${RESTORE[@]:0:words}" sh -c "$BUILD_INSIDE" sh "$head" \
      "${RESTORE[@]:words}" --section=post-data -j "$JOBS" >/dev/null 2>"$ERRORS" <"$DIR/head.partial"
    finish "$STARTED"
    ((STATUS == TOO_SHORT)) || break
    ((bytes < 1 << 30)) || restore_failed "its table of contents has no end"
    bytes=$((bytes * 4))
  done
  ((STATUS == 0)) || restore_failed "$STATUS"
}

# What sh does in the container: keeps the table of contents from stdin in file $1 and runs the words
# after it on that, unless it is too short.
readonly TOO_SHORT=9
# shellcheck disable=SC2016 # expanded in the container
readonly BUILD_INSIDE="
head=\$1 code=0; shift; umask 077
mkdir -p \"\${head%/*}\" && cat >\"\$head\" || exit
if pg_restore --list \"\$head\" >/dev/null; then \"\$@\" \"\$head\" || code=\$?; else code=$TOO_SHORT; fi
rm -f \"\$head\"
exit \$code"

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
  detached
  ask "${ENTER[@]}" vacuumdb -qw --analyze-only -d "$1" >/dev/null 2>&1 </dev/null || true
}

# Counts the rows of every table of database $1. Sets TABLES and ROWS.
count_rows() {
  phase counting
  asked "$1" "the restored rows could not be counted" <<<"SET statement_timeout = 0; $COUNT_SQL"
  LC_ALL=C sort "$DIR/said.partial" >"$DIR/counted.partial"
  TABLES=$(wc -l <"$DIR/counted.partial")
  ROWS=$(awk '{ n += $NF } END { printf "%.0f", n }' "$DIR/counted.partial")
}

# The same, and compares them with the manifest.
compare() {
  local differing
  count_rows "$1"
  if [[ ${MANIFEST[counted]} != object ]]; then
    log WARNING "not compared: counting was off when the set was made; tables=$TABLES rows=$ROWS"
    return
  fi
  cmp -s "$DIR/expected.partial" "$DIR/counted.partial" && return
  differing=$(differing_tables "$DIR/expected.partial" "$DIR/counted.partial")
  blame "$ROWS_DIFFER" "rows differ from the manifest: $differing" \
    "do not use this set; use an earlier one: 'inv backup.list' shows them"
}

# Names the first three tables whose counts differ between file $1 (expected) and $2 (counted), and
# how many more.
differing_tables() { awk "$DIFFERING" "$1" "$2"; }

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
  look_at_server "$1"
  check_server
  [[ -z $EXISTS ]] || check_target "$1"
  fetch dump
  file=$FILE
  log INFO "restoring set=$SET database=$DATABASE into=$1 bytes=$(stat -c %s -- "$file") jobs=$JOBS"
  make_roles
  create_database "${passing,,}"
  load "$UNFINISHED" "$file"
  build "$UNFINISHED" "$file"
  compare "$UNFINISHED"
  [[ -z $ANALYZE ]] || analyze "$UNFINISHED"
  # Somebody may have begun to use it meanwhile. It cannot be dropped while somebody is connected.
  [[ -z $EMPTY ]] || check_target "$1"
  [[ -z $EMPTY ]] || asked postgres "the empty database $1 could not be removed: is it in use?" <<<"DROP DATABASE \"$1\""
  give_settings_and_name "$UNFINISHED" "$1"
  UNFINISHED=""
  [[ -n $ANALYZE || -n $DRILLING ]] || analyze_by_itself "$1"
}
