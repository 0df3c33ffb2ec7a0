#!/bin/bash
# shellcheck disable=SC2034 # used by its parts
# Collations that have changed under a database: an image of another distribution suite brings another
# glibc or ICU, which may sort text in another order, and then indexes on text do not find what is there.
# Lists what is affected, and builds it anew. docs/upgrade.md explains it.

for FOLDER in "${BASH_SOURCE[0]%/*}/parts" /usr/local/lib; do
  # shellcheck source=/dev/null
  [[ ! -r $FOLDER/backup-common.sh ]] || { . "$FOLDER/backup-common.sh" && break; }
done
declare -F begin_run >/dev/null ||
  { echo "ERROR its parts are not there; next: 'inv backup.install' puts them in place" >&2 && exit 12; }

usage() {
  cat <<END
Usage: reindex-pg.sh check | reindex [--config FILE]

check    print each collation whose version is not the one that is recorded, and the indexes that use
         it; changes nothing
reindex  build these indexes anew while clients go on, check them (amcheck), then record the versions

Exit codes:
   0  done; with check: whatever was found
   1  unexpected failure
   2  wrong usage or settings
  10  another run is in progress
  11  no running container of the service on this node
  12  a tool is missing, or the Docker engine does not answer
  13  PostgreSQL does not answer, or refuses the user
  45  an index could not be built or is damaged: its version is not recorded
  128+n  stopped by signal n
END
}

readonly NOT_BUILT=45

remove_unfinished() { rm -f -- "$DIR"/*.partial; }

# Runs the SQL on stdin in database $1 and prints what it answers.
sql_in() {
  enter "$CONTAINER"
  "${ENTER[@]/#PGDATABASE=*/PGDATABASE=$1}" psql -XAtqw -v ON_ERROR_STOP=1 -v VERBOSITY=terse 2>"$ERRORS"
}

# As sql_in; the run ends if it fails.
must_in() {
  sql_in "$1" || {
    tell psql "$ERRORS"
    die "$NO_DATABASE" "PostgreSQL does not do what is asked in database $1" "see the line above"
  }
}

# Lines "database NAME RECORDED ACTUAL" and "collation NAME RECORDED ACTUAL" of database $1. Before
# PostgreSQL 15 the version of a database's own collation is not recorded.
readonly COLLATIONS_SQL="
SELECT current_setting('server_version_num')::int >= 150000 AS known \\gset
\\if :known
SELECT format('database %I %s %s', datname, datcollversion, pg_database_collation_actual_version(oid)) FROM pg_database
WHERE datname = current_database() AND datcollversion <> pg_database_collation_actual_version(oid);
\\endif
SELECT format('collation %I.%I %s %s', n.nspname, collname, collversion, pg_collation_actual_version(c.oid))
FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
WHERE collversion <> pg_collation_actual_version(c.oid) AND collname <> 'default'
  AND EXISTS (SELECT FROM pg_index i WHERE c.oid = ANY (i.indcollation::oid[]));
"

# The indexes of database $1 that use one of these: 'SCHEMA.INDEX' as PostgreSQL writes it. 100 is
# the database's own collation.
readonly INDEXES_SQL="
SELECT current_setting('server_version_num')::int >= 150000 AS known \\gset
\\if :known
SELECT 100 AS own FROM pg_database WHERE datname = current_database() AND datcollversion <> pg_database_collation_actual_version(oid)
UNION ALL SELECT 0 ORDER BY 1 DESC LIMIT 1 \\gset
\\else
\\set own 0
\\endif
SELECT format('%I.%I', n.nspname, x.relname) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_namespace n ON n.oid = x.relnamespace
WHERE x.relkind = 'i' AND x.relpersistence <> 't' AND EXISTS (SELECT FROM unnest(i.indcollation::oid[]) used
  LEFT JOIN pg_collation c ON c.oid = used
  WHERE used <> 0 AND (used = :own OR used <> 100 AND c.collversion <> pg_collation_actual_version(c.oid)))
ORDER BY 1;
"

list_databases() { must_in postgres <<<"SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname"; }

check() {
  local name names found index
  names=$(list_databases)
  while IFS= read -r name; do
    found=$(must_in "$name" <<<"$COLLATIONS_SQL")
    [[ -n $found ]] || continue
    printf '%s\n' "$found"
    found=$(must_in "$name" <<<"$INDEXES_SQL")
    while IFS= read -r index; do [[ -z $index ]] || printf 'index %s %s\n' "$name" "$index"; done <<<"$found"
  done <<<"$names"
}

# First all indexes, then the versions: once they are recorded, nothing says any more that an index is in
# the wrong order. REINDEX CONCURRENTLY builds beside the old one; one that fails leaves an invalid one.
reindex() {
  local name names found index failed="" built=0
  names=$(list_databases)
  while IFS= read -r name; do
    found=$(must_in "$name" <<<"$COLLATIONS_SQL")
    [[ -n $found ]] || continue
    indexes=$(must_in "$name" <<<"$INDEXES_SQL")
    had=$(must_in "$name" <<<"SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'")
    sql_in "$name" <<<"CREATE EXTENSION IF NOT EXISTS amcheck" >/dev/null ||
      log WARNING "database $name: amcheck is not there, so indexes are built and not checked"
    bad=""
    while IFS= read -r index; do
      [[ -n $index ]] || continue
      build_index "$name" "$index" && built=$((built + 1)) || bad+=" $index"
    done <<<"$indexes"
    [[ $had != 0 ]] || sql_in "$name" <<<"DROP EXTENSION IF EXISTS amcheck" >/dev/null || true
    if [[ -n $bad ]]; then
      failed+=" $name:$bad"
    else
      must_in "$name" <<<"$RECORD_SQL" >/dev/null
      log INFO "database $name: versions recorded: ${found//$'\n'/; }"
    fi
  done <<<"$names"
  [[ -z $failed ]] || die "$NOT_BUILT" "not built:$failed; the versions of their databases are not recorded" \
    "see the lines above: where rows are there twice, remove them, then run it again"
  log INFO "reindexed: $built indexes"
}

readonly RECORD_SQL="
SELECT current_setting('server_version_num')::int >= 150000 AS known \\gset
\\if :known
SELECT format('ALTER DATABASE %I REFRESH COLLATION VERSION', datname) FROM pg_database
WHERE datname = current_database() AND datcollversion <> pg_database_collation_actual_version(oid) \\gexec
\\endif
SELECT format('ALTER COLLATION %I.%I REFRESH VERSION', n.nspname, collname)
FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
WHERE collversion <> pg_collation_actual_version(c.oid) AND collname <> 'default' \\gexec
"

# Builds index $2 of database $1 anew; says whether it was damaged, and sees that it is good now.
build_index() {
  local was="was good"
  check_index "$1" "$2" || was="was damaged"
  if ! sql_in "$1" <<<"REINDEX INDEX CONCURRENTLY $2" >/dev/null; then
    tell psql "$ERRORS"
    # What it has begun beside the old one is of no use.
    sql_in "$1" <<<"SELECT format('DROP INDEX CONCURRENTLY %s', indexrelid::regclass) FROM pg_index
      WHERE NOT indisvalid AND indexrelid::regclass::text ~ '_ccnew[0-9]*\"?\$' \\gexec" >/dev/null || true
    return 1
  fi
  check_index "$1" "$2" || {
    tell amcheck "$ERRORS"
    return 1
  }
  log INFO "database $1: $2 $was, built anew"
}

# Whether amcheck finds nothing wrong with index $2 of database $1: every row of the table is in it, and
# it is in order. Only B-trees can be checked.
check_index() {
  local schema
  schema=$(sql_in "$1" <<SQL
SELECT quote_ident(n.nspname) FROM pg_class c JOIN pg_am a ON a.oid = c.relam AND a.amname = 'btree',
  pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'amcheck' AND c.oid = '$(quote_text "$2")'::regclass
SQL
  ) || return
  [[ -z $schema ]] || sql_in "$1" <<<"SELECT $schema.bt_index_check('$(quote_text "$2")'::regclass, true)" >/dev/null
}

quote_text() { printf '%s' "${1//\'/\'\'}"; }

main() {
  local config=/etc/backup-pg.conf action=${1-} indexes had bad
  begin_run
  shift || true
  while (($# > 0)); do
    case $1 in
      --config) shift && config=${1-} ;;
      *) usage >&2 && quit "$USAGE" ;;
    esac
    shift || true
  done
  case $action in
    --help) usage && exit ;;
    --version) echo "reindex-pg.sh $VERSION" && exit ;;
    check | reindex) ;;
    *) usage >&2 && quit "$USAGE" ;;
  esac
  load_config "$config"
  need docker timeout
  PG_DB=${PG_DB%% *} DIR=$BACKUP_DIR/.reindex
  # Whoever only looks leaves nothing behind.
  if [[ $action == reindex ]]; then
    take_lock "$DIR"
    ERRORS=$DIR/errors.partial
  fi
  find_container
  "$action"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  main "$@"
fi
