# scripts/restore-pg.sh: what it refuses before it has changed anything, and the order of its steps.
# What they do is shown in the lab, with a real PostgreSQL (tests/e2e/test_8_restore.py).
# shellcheck disable=SC2030,SC2031 # each test is a subshell of its own

bats_require_minimum_version 1.5.0
load helper

setup() {
  set_up
  SCRIPT=$BATS_TEST_DIRNAME/../../scripts/restore-pg.sh
  SET=20261122T021500Z
}

restore() { run "$SCRIPT" "$@" --config "$CONF"; }

# Puts a set into the bucket whose database took $1 bytes; $2: whether its rows were counted.
a_set() {
  local base=$FAKE/bucket/postgres/nocodb/backup_$SET part file
  mkdir -p "${base%/*}"
  printf '%s\n' ARCHIVE END | gzip >"$base.dump.gz"
  echo 'CREATE ROLE noco;' | gzip >"$base.globals.sql.gz"
  echo '{"format": 1}' >"$base.manifest.json"
  {
    for part in dump globals; do
      file=$(ls "$base.$part".*)
      printf '%s\t%s\n' "$part.key" "${file#"$FAKE/bucket/"}" "$part.bytes" "$(stat -c %s "$file")" \
        "$part.sha256" "$(sha256sum <"$file" | cut -d ' ' -f 1)"
    done
    printf '%s\t%s\n' format 1 database nocodb major 15 server 15.14 here 15 lacking "" encoding UTF8 collate C \
      ctype C project "" provider c icu "" owner noco size "${1-1000}" counted "${2-object}"
  } >"$FAKE/facts"
  : >"$FAKE/databases"
  echo 0 >"$FAKE/objects"
}

# Has df say of the dumps' folder that of $1 kB $2 are free, and of PostgreSQL's that of $3 $4 are.
disks() {
  mkdir -p "$FAKE/bin"
  printf '#!/bin/sh\ncase "$*" in\n  -Pk*) echo x; echo "/dev/vdb %s 0 %s 1%%%% /data" ;;\n' "$3" "$4" >"$FAKE/bin/df"
  printf '  *=avail*) echo Avail; echo %s ;;\n  *) echo x; echo "%s %s" ;;\nesac\n' "$2" "$1" "$2" >>"$FAKE/bin/df"
  chmod 755 "$FAKE/bin/df"
  settings "PATH='$FAKE/bin':\$PATH"
}

# The numbers of the lines with $1, and so on, in what PostgreSQL was asked; they must go up.
in_this_order() {
  local text last=0 line
  for text; do
    line=$(grep -nF -- "$text" "$FAKE/psql.stdin" | tail -n 1 | cut -d : -f 1)
    ((line > last)) || { echo "'$text' is in line '$line', not after $last" >&2; return 1; }
    last=$line
  done
}

# No statement and no upload has left this machine.
nothing_happened() {
  [ ! -e "$FAKE/uploads" ]
  [ -z "$(find "$BATS_TEST_TMPDIR/dumps" -name '*.partial*' 2>/dev/null)" ]
}

@test "help and version" {
  run "$SCRIPT" --help
  [ "$status" -eq 0 ]
  [[ $output == *"restore-pg.sh drill"* ]]
  run "$SCRIPT" --version
  [ "$status" -eq 0 ]
  [[ $output =~ ^restore-pg.sh\ [0-9] ]]
}

@test "no action, an unknown one, an unknown option" {
  run "$SCRIPT"
  [ "$status" -eq 2 ]
  restore erase
  [ "$status" -eq 2 ]
  restore restore --force
  [ "$status" -eq 2 ]
  nothing_happened
}

@test "names that are no names, PostgreSQL's own, and those that the next restore drops" {
  for name in "" "a b" "a;b" "1a" 'a"b' swarmkeep_restoring_x postgres template0 "$(printf 'a%.0s' {1..64})"; do
    restore restore --set "$SET" --into "$name"
    [ "$status" -eq 2 ]
    restore swap --with fine --keep-as "$name"
    [ "$status" -eq 2 ]
    restore swap --with "$name" --keep-as fine
    [ "$status" -eq 2 ]
  done
  nothing_happened
}

@test "sets, jobs, sizes that are none" {
  restore restore --into fine
  [ "$status" -eq 2 ]
  restore restore --into fine --set yesterday
  [ "$status" -eq 2 ]
  restore restore --into fine --set "$SET" --jobs 0
  [ "$status" -eq 2 ]
  restore drill --set "$SET" --memory lots
  [ "$status" -eq 2 ]
  restore drill --set "$SET" --app 'x y'
  [ "$status" -eq 2 ]
  nothing_happened
}

@test "with the app of a database: what starts it must be there, and be private" {
  local apps=${CONF%.conf}.apps
  restore drill --set "$SET" --with-app --app img
  [ "$status" -eq 2 ]
  restore drill --set "$SET" --with-app
  [ "$status" -eq 2 ]
  [[ $output == *"$apps does not say how to start an app on database nocodb; next: set backup.drill_with_app"* ]]
  printf 'case $DATABASE in other) APP_NAME=other ;; esac\n' >"$apps"
  chmod 600 "$apps"
  restore drill --set "$SET" --with-app
  [ "$status" -eq 2 ]
  [[ $output == *"does not say how to start an app on database nocodb"* ]]
  printf 'touch "$FAKE/sourced"\n' >"$apps"
  chmod 644 "$apps"
  restore drill --set "$SET" --with-app
  [ "$status" -eq 2 ]
  [[ $output == *"$apps: others could read or change it"* ]]
  [ ! -e "$FAKE/sourced" ]
  nothing_happened
}

@test "settings that others may read" {
  chmod 644 "$CONF"
  restore drill --set "$SET"
  [ "$status" -eq 2 ]
  nothing_happened
}

@test "a backup is in progress: nothing is touched" {
  backup_script=$BATS_TEST_DIRNAME/../../scripts/backup-pg.sh
  SCRIPT=$backup_script backup_in_background
  restore restore --set "$SET" --into fine
  [ "$status" -eq 10 ]
  kill "$RUNNING"
  its_end || true
}

@test "no running container on this node" {
  : >"$FAKE/ids"
  restore restore --set "$SET" --into fine
  [ "$status" -eq 11 ]
  [[ $output == *"next: "* ]]
  nothing_happened
}

@test "no such set" {
  restore restore --set "$SET" --into fine
  [ "$status" -eq 20 ]
  [[ $output == *"backup_$SET.manifest.json does not exist; next: 'inv backup.list'"* ]]
  nothing_happened
}

@test "no set at all" {
  restore restore --latest --into fine
  [ "$status" -eq 20 ]
  [[ $output == *"has no backup; next: "* ]]
}

@test "a restore: rights before the data, settings after it, the name last" {
  a_set
  restore restore --set "$SET" --into fine
  [ "$status" -eq 0 ]
  [[ $output == *"restore complete set=$SET database=nocodb into=fine tables=2 rows=20001 "* ]]
  in_this_order "CREATE DATABASE %I" "GRANT %s ON DATABASE %I" pg_restore "count(*) FROM ONLY" \
    "CONNECTION LIMIT %s" "ALTER ROLE %I IN DATABASE %I SET" 'RENAME TO "fine"'
  run ! grep 'DROP DATABASE "fine"' "$FAKE/psql.stdin"
}

@test "the manifest is read as a text that it cannot end" {
  a_set
  echo '{"rows": {"$manifest_20261122$::jsonb; DROP ROLE noco": 1}}' >"$FAKE/bucket/postgres/nocodb/backup_$SET.manifest.json"
  restore restore --set "$SET" --into fine
  [ "$status" -eq 0 ]
  # Three sessions read it, each with quotes of its own.
  [ "$(grep -o '^CREATE TEMP TABLE manifest AS SELECT \$text_[0-9a-f]\{32\}\$' "$FAKE/psql.stdin" | sort -u | wc -l)" -eq 3 ]
  [ "$(grep -c '^\$text_[0-9a-f]\{32\}\$::jsonb AS m;$' "$FAKE/psql.stdin")" -eq 3 ]
}

@test "an empty database gives way to what is restored under its name; one with anything in it does not" {
  a_set
  echo fine >"$FAKE/databases"
  restore restore --set "$SET" --into fine
  [ "$status" -eq 0 ]
  in_this_order pg_restore "count(*) FROM pg_largeobject_metadata" 'DROP DATABASE "fine"' 'RENAME TO "fine"'
  rm "$FAKE/psql.stdin"
  echo 1 >"$FAKE/objects"
  restore restore --set "$SET" --into fine
  [ "$status" -eq 22 ]
  one_error "database fine exists already and is not empty"
  run ! grep -e pg_restore -e 'DROP DATABASE "' "$FAKE/psql.stdin"
}

@test "a database that was empty and is so no more when its name is wanted stays" {
  a_set
  echo fine >"$FAKE/databases"
  echo 1 >"$FAKE/filled"
  restore restore --set "$SET" --into fine
  [ "$status" -eq 22 ]
  one_error "database fine exists already and is not empty"
  run ! grep -e 'DROP DATABASE "' -e 'RENAME TO' "$FAKE/psql.stdin"
}

@test "a set whose rows were not counted: not compared, and it says so" {
  a_set 1000 null
  restore restore --set "$SET" --into fine
  [ "$status" -eq 0 ]
  [[ $output == *" WARNING "*"not compared: counting was off when the set was made; tables=2 rows=20001"* ]]
}

# Has pg_restore fail, after what $1 does.
broken_restore() {
  mkdir "$FAKE/bin"
  printf '#!/bin/sh\n%s\nexit 1\n' "$1" >"$FAKE/bin/pg_restore"
  chmod 755 "$FAKE/bin/pg_restore"
  settings "PATH='$FAKE/bin':\$PATH"
}

@test "24: pg_restore fails" {
  a_set
  broken_restore 'echo "pg_restore: error: no luck" >&2'
  restore restore --set "$SET" --into fine
  [ "$status" -eq 24 ]
  [[ $output == *"pg_restore: pg_restore: error: no luck"* ]]
}

@test "13: a PostgreSQL that ended meanwhile is not the set's fault" {
  a_set
  broken_restore ': >"$FAKE/ended"'
  restore restore --set "$SET" --into fine
  [ "$status" -eq 13 ]
  [[ $output == *"PostgreSQL ended meanwhile (pg_restore failed (1); "*"next: see 'docker logs "* ]]
}

# What the kernel says of the container's memory: $1 processes killed, until now.
killed() {
  KERNEL=$FAKE/container/root/sys/fs/cgroup/memory.events
  mkdir -p "${KERNEL%/*}"
  printf 'oom 3\noom_kill %s\n' "$1" >"$KERNEL"
}

@test "13: a PostgreSQL that lost a process for want of memory is not the set's fault" {
  a_set
  killed 1 # long ago
  broken_restore "sed -i 's/oom_kill 1/oom_kill 2/' '$KERNEL'"
  restore restore --set "$SET" --into fine
  [ "$status" -eq 13 ]
  [[ $output == *"PostgreSQL ran out of memory (pg_restore failed (1); "*"next: give it more (a drill: backup.drill_memory"* ]]
}

@test "13: one whose first process was killed, and with it what the kernel says" {
  a_set
  killed 0
  broken_restore "rm '$KERNEL'; : >'$FAKE/ended'; : >'$FAKE/starved'"
  restore restore --set "$SET" --into fine
  [ "$status" -eq 13 ]
  [[ $output == *"PostgreSQL ran out of memory (pg_restore failed (1); "* ]]
}

@test "24: what the kernel has killed before is no excuse" {
  a_set
  killed 1
  touch "$FAKE/starved"
  broken_restore ''
  restore restore --set "$SET" --into fine
  [ "$status" -eq 24 ]
}

@test "rows that are not those of the manifest" {
  a_set
  # Expected is what the first reading says, counted what the second does.
  printf '#!/bin/sh\n[ ! -e "$FAKE/restored" ] || sed -i s/20000/19999/ "$FAKE/tables"\nexec "%s" "$@"\n' \
    "$BATS_TEST_DIRNAME/fakes/psql" >"$FAKE/psql"
  mkdir "$FAKE/bin"
  mv "$FAKE/psql" "$FAKE/bin/psql"
  chmod 755 "$FAKE/bin/psql"
  settings "PATH='$FAKE/bin':\$PATH"
  restore restore --set "$SET" --into fine
  [ "$status" -eq 25 ]
  one_error '"\"My schema\".t" expected 20000, got 19999'
  run ! grep 'RENAME TO' "$FAKE/psql.stdin"
}

@test "14: PostgreSQL's disk is too small: for the database, and as much again in its log" {
  a_set 10000000 # the fake says max_wal_size is 16 MB
  disks 90000000 90000000 80000000 23000
  restore restore --set "$SET" --into fine
  [ "$status" -eq 14 ]
  one_error "PostgreSQL's disk has 23552000 bytes free, the restore needs about 24000000"
  nothing_happened
  disks 90000000 90000000 80000000 24000
  restore restore --set "$SET" --into fine
  [ "$status" -eq 0 ]
  # Of a large one the log holds no more than it may.
  a_set 1000000000
  disks 90000000 90000000 80000000 1000000
  restore restore --set "$SET" --into fine
  one_error "the restore needs about 1216777216"
}

@test "14: download and database share a disk, which must hold both" {
  a_set 10000000
  disks 80000000 24400 80000000 24400
  restore restore --set "$SET" --into fine
  [ "$status" -eq 14 ]
  one_error "bytes free, the download needs 32, and the restore 24000000 on the same disk"
  run ! grep -e 'CREATE DATABASE' -e 'SET LOCAL log_statement' "$FAKE/psql.stdin"
  nothing_happened
  disks 80000000 26000 80000000 26000
  restore restore --set "$SET" --into fine
  [ "$status" -eq 0 ]
  # Another disk needs to hold the download alone.
  disks 50000000 2000 80000000 24400
  restore restore --set "$SET" --into fine
  [ "$status" -eq 0 ]
}

# What is made of the roles of file $1, where the roles after it exist.
made() {
  local dumped=$1
  shift
  printf 'CREATE ROLE %s;\n' "$@" >"$FAKE/known"
  bash -c '. "$1" && missing_roles "$2" <"$3"' sh "${SCRIPT%/*}/parts/restore-load.sh" "$FAKE/known" "$dumped"
}

@test "roles: what is missing is made, with its memberships in both directions" {
  cat >"$FAKE/15.sql" <<'END'
-- Roles
CREATE ROLE staff;
ALTER ROLE staff WITH NOSUPERUSER INHERIT NOLOGIN;
CREATE ROLE "odd TO name";
ALTER ROLE "odd TO name" WITH LOGIN PASSWORD 'SCRAM-SHA-256$4096:a=$b=:c=';
CREATE ROLE noco;
ALTER ROLE noco WITH SUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:x=$y=:z=';
CREATE ROLE anna;
ALTER ROLE anna WITH LOGIN;

-- User Config "o'neill"
ALTER ROLE "odd TO name" SET search_path TO 'a', 'b';
ALTER ROLE anna SET work_mem TO '5MB';
GRANT anna TO noco GRANTED BY noco;
GRANT staff TO anna WITH ADMIN OPTION GRANTED BY noco;
GRANT staff TO "odd TO name" GRANTED BY "who GRANTED BY whom";
GRANT "odd TO name" TO noco GRANTED BY noco;
GRANT pg_monitor TO "odd TO name" GRANTED BY noco;
GRANT SET ON PARAMETER log_statement TO "odd TO name";
GRANT ALTER SYSTEM ON PARAMETER log_statement TO anna;
GRANT CREATE ON TABLESPACE fast TO "odd TO name";
END
  run made "$FAKE/15.sql" noco anna pg_monitor
  [ "$status" -eq 0 ]
  diff - <(echo "$output") <<'END'
CREATE ROLE staff;
ALTER ROLE staff WITH NOSUPERUSER INHERIT NOLOGIN;
CREATE ROLE "odd TO name";
ALTER ROLE "odd TO name" WITH LOGIN PASSWORD 'SCRAM-SHA-256$4096:a=$b=:c=';
ALTER ROLE "odd TO name" SET search_path TO 'a', 'b';
GRANT staff TO anna WITH ADMIN OPTION;
GRANT staff TO "odd TO name";
GRANT "odd TO name" TO noco;
GRANT pg_monitor TO "odd TO name";
GRANT SET ON PARAMETER log_statement TO "odd TO name";
END
  run made "$FAKE/15.sql" noco anna pg_monitor staff '"odd TO name"'
  [ "$output" = "" ]
}

@test "roles: the memberships of PostgreSQL 16" {
  cat >"$FAKE/16.sql" <<'END'
CREATE ROLE a;
CREATE ROLE b;
GRANT a TO b WITH ADMIN OPTION, INHERIT FALSE, SET FALSE GRANTED BY c;
GRANT a TO d WITH INHERIT TRUE GRANTED BY c;
GRANT e TO d WITH ADMIN OPTION, INHERIT TRUE GRANTED BY c;
END
  run made "$FAKE/16.sql" b c d e
  diff - <(echo "$output") <<'END'
CREATE ROLE a;
GRANT a TO b WITH ADMIN OPTION, INHERIT FALSE, SET FALSE;
GRANT a TO d WITH INHERIT TRUE;
END
}

@test "roles: a value or a name with line breaks holds no statements" {
  cat >"$FAKE/broken.sql" <<'END'
CREATE ROLE bob;
CREATE ROLE "two
CREATE ROLE evil;";
ALTER ROLE bob SET "a.b" TO 'it''s
CREATE ROLE evil;
ALTER ROLE evil WITH SUPERUSER;
GRANT evil TO bob;
';
CREATE ROLE new;
ALTER ROLE new SET "a.b" TO 'first "
ALTER ROLE new WITH SUPERUSER;
last';
END
  run made "$FAKE/broken.sql" bob '"two
CREATE ROLE evil;"'
  diff - <(echo "$output") <<'END'
CREATE ROLE new;
ALTER ROLE new SET "a.b" TO 'first "
ALTER ROLE new WITH SUPERUSER;
last';
END
}

# ---- sets of other projects ---------------------------------------------------------------------

@test "--latest passes over sets of another project, --set takes the one that is named" {
  settings PROJECT_ID=00112233445566aa
  a_set
  printf 'project\tffeeddccbbaa9988\n' >>"$FAKE/facts"
  restore restore --latest --into fine
  [ "$status" -eq 20 ]
  [[ $output == *"WARNING "*"set $SET is of another project (ffeeddccbbaa9988) and skipped"* ]]
  [[ $output == *"has no backup of this project; next: "* ]]
  nothing_happened
  restore restore --set "$SET" --into fine
  [ "$status" -eq 0 ]
  [[ $output == *"WARNING "*"set $SET is of another project (ffeeddccbbaa9988)"* ]]
}

@test "--latest takes what is ours, or of nobody" {
  settings PROJECT_ID=00112233445566aa
  a_set
  restore restore --latest --into fine
  [ "$status" -eq 0 ]
  printf 'project\t00112233445566aa\n' >>"$FAKE/facts"
  restore restore --latest --into other
  [ "$status" -eq 0 ]
}
