#!/bin/sh
# Stands for `docker config ...` with the Swarm's promises: a name is taken once, ids never
# come again, the server stamps the time. State lies in the folder beside this script.
state=$(dirname "$0")/configs
mkdir -p "$state"

find_config() { # id or name -> folder
  for folder in "$state"/*; do
    [ "$folder" = "$state/$1" ] || [ "$(cat "$folder/id" 2>/dev/null)" = "$1" ] || continue
    [ -e "$folder/id" ] && echo "$folder" && return
  done
  return 1
}

show() { # folder -> JSON
  created=$(cat "$1/created" 2>/dev/null) && [ -n "$created" ] || return 1
  labels=$(sed 's/\([^=]*\)=\(.*\)/"\1": "\2"/' "$1/labels" | paste -sd, -)
  printf '{"ID": "%s", "CreatedAt": "%s", "Spec": {"Name": "%s", "Labels": {%s}, "Data": "%s"}}' \
    "$(cat "$1/id")" "$created" "$(basename "$1")" "$labels" "$(cat "$1/data")"
}

[ "$1" = config ] || exit 1
verb=$2
shift 2
case $verb in
  create)
    labels=
    while [ "$1" = --label ]; do
      labels="$labels$2
"
      shift 2
    done
    data=$(base64 -w0)
    new="$state/$1"
    mkdir "$new" 2>/dev/null || { echo "Error: AlreadyExists: config $1 already exists" >&2; exit 1; }
    printf %s "$labels" >"$new/labels"
    printf %s "$data" >"$new/data"
    date -u +%Y-%m-%dT%H:%M:%S.%NZ >"$new/created"
    echo "id$(date +%s%N)$$" >"$new/id.new"
    mv "$new/id.new" "$new/id"
    cat "$new/id"
    ;;
  inspect)
    if [ "$1" = --format ]; then
      found=$(find_config "$3") || exit 1
      printf '"%s"\n' "$(cat "$found/created")"
      exit 0
    fi
    text=
    code=0
    for name in "$@"; do
      if found=$(find_config "$name") && one=$(show "$found"); then
        text="$text${text:+,}$one"
      else
        code=1
      fi
    done
    echo "[$text]"
    exit $code
    ;;
  ls)
    filter=${3#*=}
    for folder in "$state"/*; do
      [ -e "$folder/id" ] || continue
      case $3 in
        id=*) [ "$(cat "$folder/id")" = "$filter" ] || continue ;;
        label=*) grep -q "^$filter\(=\|$\)" "$folder/labels" || continue ;;
      esac
      cat "$folder/id"
    done 2>/dev/null
    ;;
  rm)
    code=0
    for name in "$@"; do
      gone="$state/../gone.$$"
      if found=$(find_config "$name") && mv "$found" "$gone"; then rm -r "$gone"; else code=1; fi
    done
    exit $code
    ;;
esac
