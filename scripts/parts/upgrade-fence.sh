#!/bin/bash
# The part of upgrade-pg.sh with the SQL of the session that keeps writers away from a database. Sourced,
# never run; inv adopt sends it to the host that it takes a database from.

# The tables are listed before the transaction begins: its snapshot must not be older than its locks.
fence_sql() {
  cat <<'END'
SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '60s';
SET max_parallel_workers_per_gather = 0;
DO $$ BEGIN IF current_setting('server_version_num')::int >= 170000 THEN SET transaction_timeout = 0; END IF; END $$;
END
  [[ -n $FENCE ]] || {
    printf '%s\n' "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;" "SELECT 'snapshot ' || pg_export_snapshot();"
    return
  }
  cat <<END
SELECT coalesce('LOCK TABLE ' || string_agg(format('%I.%I', n.nspname, c.relname), ', ') || ' IN SHARE MODE', 'SET LOCAL lock_timeout = 0') AS fence,
  count(*) AS tables $FENCED \\gset
SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity
  WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' \\gset
BEGIN ISOLATION LEVEL REPEATABLE READ;
:fence;
SELECT 1 / (count(*) = :tables)::int AS same $FENCED \\gset
SELECT 'snapshot ' || pg_export_snapshot();
END
}

# Not large objects: whoever only reads one, such as pg_dump, takes the lock of a writer.
readonly FENCED="FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
