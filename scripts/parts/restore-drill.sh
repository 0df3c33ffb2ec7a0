#!/bin/bash
# shellcheck disable=SC2034 # used by those that source this
# The part of restore-pg.sh that drills: a throwaway PostgreSQL, perhaps a NocoDB on it, and the
# outcome in the bucket. Sourced, never run.

readonly APP_SECONDS=180

readonly THROWAWAY_OPTIONS=(-c fsync=off -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0
  -c max_wal_size=2GB -c autovacuum=off)

# Starts a throwaway PostgreSQL, and sets THROWAWAY, and SERVER, its version: it is the live one's.
start_server() {
  local preload
  asked postgres "PostgreSQL does not say what it preloads" \
    <<<"SELECT current_setting('server_version'), current_setting('shared_preload_libraries')"
  IFS='|' read -r SERVER preload <<<"$SAID"
  start_throwaway "$preload"
}

# Waits for it to answer, and works with it from then on: sets CONTAINER.
use_server() {
  CONTAINER=$THROWAWAY
  await_throwaway 120 || {
    last_words "$CONTAINER"
    tell postgres "$ERRORS"
    die "$NO_DATABASE" "the throwaway PostgreSQL does not begin to answer" "see the lines above"
  }
}

# Starts NocoDB in the throwaway server's network and asks what it needs its database for
# (fabfile/swarm/app_health.py says why that). wget comes with the official image.
# shellcheck disable=SC2016 # expanded in the container
ask_app() {
  local app json="{\"client\":\"pg\",\"connection\":{\"host\":\"127.0.0.1\",\"port\":5432,\"user\":\"$PG_USER\",\"password\":\"\",\"database\":\"$DATABASE\"}}"
  phase app
  app=$(ask docker run -d --label "$DRILL_LABEL=$RUN" --network "container:$CONTAINER" --memory "$MEMORY" \
    --cpus "$CPUS" --cpu-shares 128 -e "NC_DB_JSON=$json" -e NC_DISABLE_TELE=true "$APP" 2>"$ERRORS") || {
    tell docker "$ERRORS"
    die "$APP_FAILED" "NocoDB could not be started from $APP" "see the line above"
  }
  await "$app" "$APP_SECONDS" sh -c 'u=http://127.0.0.1:8080/api/v1/db/meta/nocodb/info
    if command -v wget >/dev/null; then exec wget -q -O /dev/null "$u"; fi
    exec node -e "fetch(process.argv[1]).then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))" "$u"' || {
    ask docker logs --tail 5 "$app" >"$ERRORS" 2>&1 || true
    tell NocoDB "$ERRORS"
    ! out_of_memory "$app" 0 || die "$APP_FAILED" "NocoDB ran out of memory" "$MORE_MEMORY, then run it again"
    blame "$APP_FAILED" "NocoDB does not answer from what was restored" "see the lines above"
  }
  log INFO "NocoDB answers from what was restored"
}

# Makes sure, before anything else, that NocoDB's image is on this node.
need_image() {
  ! ask docker image inspect "$APP" >/dev/null 2>&1 || return 0
  phase pulling
  start docker pull -q "$APP" >/dev/null 2>"$ERRORS"
  finish "$STARTED"
  ((STATUS == 0)) || {
    tell docker "$ERRORS"
    die "$APP_FAILED" "image $APP is not on this node and cannot be pulled" \
      "log this node in to its registry, or drill without the app (backup.drill_with_app: false)"
  }
}

# Writes what came of the drill beside the set, and if it was good to where verify looks.
write_outcome() {
  local file=$DIR/outcome.json.partial answered=false sum reason=${2//\\/\\\\}
  [[ -z $POINT ]] || { write_replay_outcome "$@"; return; }
  [[ $1 != ok || -z $APP ]] || answered=true
  reason=${reason//[[:cntrl:]]/ }
  cat >"$file" <<END
{"format": 1, "set": "$SET", "outcome": "$1", "reason": "${reason//\"/\\\"}", "finished": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
"project": $(project_json),
"seconds": $SECONDS, "tables": ${TABLES:-0}, "rows": ${ROWS:-0}, "app": $answered,
"server_version": "${SERVER//[\"\\]/}", "node": "$(uname -n)"}
END
  sum=$(sum_of "$file")
  REASON=""
  if [[ $1 == ok ]]; then
    side_by_side "send_outcome backup_$SET.drill.json" "send_outcome drill.json" # the same text
  else
    send_outcome "backup_$SET.drill.json"
  fi
}

send_outcome() { send "$file" "$PREFIX/$1" "$sum"; }

drill() {
  renice -n 19 $$ >/dev/null && ionice -c 3 -p $$ 2>/dev/null || true
  remove_containers
  find_container
  ping_start
  [[ -z $APP ]] || need_image
  DRILLING=yes
  if [[ -n $POINT ]]; then
    drill_point
    return
  fi
  start_server
  choose_set # while it begins
  phase starting
  use_server
  restore_into "$DATABASE"
  [[ -z $APP ]] || ask_app
  write_outcome ok "" || quit $?
  succeeded rows="$ROWS" size_bytes="${MANIFEST[size]}"
  log INFO "drill complete set=$SET database=$DATABASE tables=$TABLES rows=$ROWS app=${APP:-none} seconds=$SECONDS"
}
