#!/bin/bash
# shellcheck disable=SC2034 # used by those that source this
# The part of restore-pg.sh that drills: a throwaway PostgreSQL, perhaps its app on it, and the
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
    ! out_of_memory "$CONTAINER" "$KILLED" ||
      die "$NO_DATABASE" "PostgreSQL ran out of memory (it does not begin to answer)" "$MORE_MEMORY, then run it again"
    die "$NO_DATABASE" "the throwaway PostgreSQL does not begin to answer" "see the lines above"
  }
}

# Reads from $1 how to start the app of database $2; sets APP, its image, and what the file says.
read_app() {
  local DATABASE=$2
  need base64 nsenter
  APP_NAME="" APP_OPTIONS=() APP_WORDS=() APP_CONTENTS=()
  if [[ -e $1 ]]; then
    need_private "$1"
    # shellcheck source=/dev/null
    . "$1" || die "$USAGE" "$1: is not valid shell" "'inv backup.install' makes it anew"
  fi
  [[ -n $APP_NAME ]] || die "$USAGE" "$1 does not say how to start an app on database $2" \
    "set backup.drill_with_app: true, then run 'inv backup.install'"
}

# Starts the app in the throwaway server's network, with these further words for 'docker run'. Sets STARTED_APP.
start_app() {
  phase app
  STARTED_APP=$(ask docker run -d --label "$DRILL_LABEL=$RUN" --network "container:$CONTAINER" --memory "$MEMORY" \
    --cpus "$CPUS" --cpu-shares 128 "$@" 2>"$ERRORS") || {
    tell docker "$ERRORS"
    die "$APP_FAILED" "$APP_NAME could not be started from $APP" "see the line above"
  }
}

app_failed() {
  ask docker logs --tail 5 "$STARTED_APP" >"$ERRORS" 2>&1 || true
  tell "$APP_NAME" "$ERRORS"
  ! out_of_memory "$STARTED_APP" 0 || die "$APP_FAILED" "$APP_NAME ran out of memory" "$MORE_MEMORY, then run it again"
  blame "$APP_FAILED" "$APP_NAME does not answer from what was restored${1:+: $1}" "see the lines above"
}

# Starts the app that read_app has read, and waits until it answers its health request as it should.
ask_other_app() {
  local n path process answer="" end=$((SECONDS + APP_SECONDS)) mounts=()
  for ((n = 0; n < ${#APP_CONTENTS[@]}; n += 4)); do
    path=$DIR/app.$n.partial
    base64 -d <<<"${APP_CONTENTS[n + 3]}" >"$path"
    # The folder that it lies in is closed to others.
    chown "${APP_CONTENTS[n + 2]}" -- "$path"
    chmod "${APP_CONTENTS[n + 1]}" -- "$path"
    case ${APP_CONTENTS[n]} in
      /environment) mounts+=(--env-file "$path") ;;
      *) mounts+=(--mount "type=bind,source=$path,target=${APP_CONTENTS[n]},readonly") ;;
    esac
  done
  start_app "${mounts[@]}" "${APP_OPTIONS[@]}" "$APP" "${APP_WORDS[@]}"
  process=$(ask docker inspect -f '{{.State.Pid}}' "$CONTAINER" 2>"$ERRORS") || process=none
  until [[ $answer == "$APP_STATUS" ]]; do
    if ((SECONDS >= end)) || ! runs "$STARTED_APP"; then
      app_failed "$APP_PATH: ${answer:-no answer} instead of HTTP $APP_STATUS"
    fi
    sleep 0.2
    answer=$(app_status "$process") || answer=""
  done
}

# Prints the HTTP status that the app answers $APP_PATH with, asked in the network of process $1.
# shellcheck disable=SC2016 # expanded in there
app_status() {
  timeout 10 nsenter --net="/proc/$1/ns/net" bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" &&
    printf "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" "$2" >&3 &&
    read -r _ code _ <&3 && echo "$code"' bash "$APP_PORT" "$APP_PATH" 2>/dev/null </dev/null
}

# Starts NocoDB and asks what it needs its database for (fabfile/swarm/app_health.py says why that). wget
# comes with the official image.
# shellcheck disable=SC2016 # expanded in the container
ask_nocodb() {
  local json="{\"client\":\"pg\",\"connection\":{\"host\":\"127.0.0.1\",\"port\":5432,\"user\":\"$PG_USER\",\"password\":\"\",\"database\":\"$DATABASE\"}}"
  start_app -e "NC_DB_JSON=$json" -e NC_DISABLE_TELE=true "$APP"
  await "$STARTED_APP" "$APP_SECONDS" sh -c 'u=http://127.0.0.1:8080/api/v1/db/meta/nocodb/info
    if command -v wget >/dev/null; then exec wget -q -O /dev/null "$u"; fi
    exec node -e "fetch(process.argv[1]).then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))" "$u"' ||
    app_failed
}

ask_app() {
  if [[ -n $WITH_APP ]]; then ask_other_app; else ask_nocodb; fi
  log INFO "$APP_NAME answers from what was restored"
}

# Makes sure, before anything else, that the app's image is on this node.
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
