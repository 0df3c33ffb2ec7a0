#!/bin/bash
# Makes a cluster in an empty $PGDATA, then becomes the server. The variables are those of
# Docker's official image: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, POSTGRES_INITDB_ARGS
# (each also as *_FILE), POSTGRES_HOST_AUTH_METHOD, PGDATA, /docker-entrypoint-initdb.d.
set -euo pipefail

readonly INIT_FOLDER=/docker-entrypoint-initdb.d

die() {
  echo "docker-entrypoint: $*" >&2
  exit 1
}

# Sets variable $1 from itself, from the file that $1_FILE names, or to $2.
from_file_or_default() {
  local name=$1 file_name=$1_FILE value=${2:-}
  [[ -z ${!name:-} || -z ${!file_name:-} ]] || die "both $name and $file_name are set"
  if [[ -n ${!file_name:-} ]]; then
    [[ -r ${!file_name} ]] || die "$file_name: cannot read ${!file_name}"
    value=$(< "${!file_name}")
  elif [[ -n ${!name:-} ]]; then
    value=${!name}
  fi
  unset "$file_name"
  export "$name=$value"
}

read_settings() {
  from_file_or_default POSTGRES_PASSWORD
  from_file_or_default POSTGRES_USER postgres
  from_file_or_default POSTGRES_DB "$POSTGRES_USER"
  from_file_or_default POSTGRES_INITDB_ARGS
  export POSTGRES_HOST_AUTH_METHOD=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
}

own_folders() {
  mkdir -p "$PGDATA" /var/run/postgresql
  chmod 0700 "$PGDATA"
  find "$PGDATA" \! -user postgres -exec chown postgres {} +
  chown postgres /var/run/postgresql
}

create_cluster() {
  [[ -n $POSTGRES_PASSWORD || $POSTGRES_HOST_AUTH_METHOD == trust ]] ||
    die "the cluster is new and has no password: set POSTGRES_PASSWORD_FILE or POSTGRES_PASSWORD"
  local arguments=(--username="$POSTGRES_USER" --encoding=UTF8 --locale=C.UTF-8 --auth-local=trust)
  local more
  read -r -a more <<< "$POSTGRES_INITDB_ARGS"
  if [[ -n $POSTGRES_PASSWORD ]]; then
    # Through a pipe: no argument, no file on disk.
    initdb "${arguments[@]}" --auth-host="$POSTGRES_HOST_AUTH_METHOD" \
      --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") "${more[@]}"
  else
    initdb "${arguments[@]}" --auth-host=trust "${more[@]}"
  fi
  printf '\nhost all all all %s\n' "$POSTGRES_HOST_AUTH_METHOD" >> "$PGDATA/pg_hba.conf"
}

query() {
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" "$@"
}

run_init_files() {
  local file
  for file in "$INIT_FOLDER"/*; do
    [[ -e $file ]] || continue
    echo "docker-entrypoint: $file"
    # shellcheck disable=SC1090 # a script that is not executable is sourced, as documented
    case $file in
      *.sh) if [[ -x $file ]]; then "$file"; else . "$file"; fi ;;
      *.sql) query --dbname "$POSTGRES_DB" --file "$file" ;;
      *.sql.gz) gzip -dc "$file" | query --dbname "$POSTGRES_DB" ;;
      *.sql.xz) xz -dc "$file" | query --dbname "$POSTGRES_DB" ;;
      *.sql.zst) zstd -dc "$file" | query --dbname "$POSTGRES_DB" ;;
      *) echo "docker-entrypoint: $file: ignored" ;;
    esac
  done
}

# The first start listens on its socket only: nobody sees a database that is half made.
fill_cluster() {
  PGUSER=$POSTGRES_USER pg_ctl --wait --options "-c listen_addresses=''" start
  if [[ $POSTGRES_DB != postgres ]]; then
    query --dbname postgres --set name="$POSTGRES_DB" <<< 'CREATE DATABASE :"name";'
  fi
  run_init_files
  PGUSER=$POSTGRES_USER pg_ctl --wait --mode fast stop
}

main() {
  [[ ${1:-} != -* ]] || set -- postgres "$@"
  [[ ${1:-} == postgres ]] || exec "$@"
  # Files first: a secret may be readable by root alone.
  read_settings
  if [[ $(id -u) == 0 ]]; then
    own_folders
    exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
  fi
  if [[ ! -s $PGDATA/PG_VERSION ]]; then
    # A cluster that was begun and not finished must not be taken for a good one: PG_VERSION
    # appears early, so a failed first start empties the folder again.
    trap 'rm -rf "${PGDATA:?}"/*; echo "docker-entrypoint: first start failed" >&2' EXIT
    create_cluster
    fill_cluster
    trap - EXIT
  fi
  unset POSTGRES_PASSWORD
  exec "$@"
}

main "$@"
