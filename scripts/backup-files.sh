#!/bin/bash
# shellcheck disable=SC2034 # used by its part
# Uploads the files in the apps' volumes (NocoDB's attachments) from an app node to S3: what the
# bucket does not have yet. Nothing is ever deleted there. Root's cron runs it, beside
# backup-pg.sh on the db node; docs/backup.md explains settings, files and exit codes.

for PART in backup-common files-encrypted; do
  for FOLDER in "${BASH_SOURCE[0]%/*}/parts" /usr/local/lib; do
    # shellcheck source=/dev/null
    [[ ! -r $FOLDER/$PART.sh ]] || { . "$FOLDER/$PART.sh" && break; }
  done
done
declare -F begin_run upload_encrypted >/dev/null ||
  { echo "ERROR its parts are not there; next: 'inv backup.install' puts them in place" >&2 && exit 12; }

usage() {
  cat <<END
Usage: backup-files.sh [--config FILE] [--volume NAME]
                       [--check | --restore [--identity] | --help | --version]

Back up the files in NocoDB's data volume, and in those of VOLUMES, to S3, as far as they are
not there yet.

  --config FILE  settings to use instead of /etc/backup-files.conf
  --volume NAME  only this volume, of those that the settings name
  --check        only see whether a backup could be made: settings, tools, bucket, volume
  --restore      the other way: fetch the files that this node lacks, leave those that it has
  --identity     what is encrypted is read with the identity on stdin (docs/encryption.md)

Exit codes:
   0  every file of the volumes is in the bucket (--restore: and the other way round; those
      that differ stay as they are here, and are named)
   1  unexpected failure
   2  wrong usage or settings
  10  another run is in progress
  11  no such volume on this node: the app has never run here
  12  a tool is missing, or the Docker engine does not answer
  14  too little free disk space for the files (--restore)
  16  a file could not be encrypted
  18  an upload (--restore: a download) failed; what arrived stays, the next run goes on
  19  a file and its object in the bucket differ
  34  files are encrypted, and no identity that was given fits (--restore)
  128+n  stopped by signal n
END
}

# Where the bucket has the files: as they are, and encrypted.
readonly CLEAR=data ENCRYPTED=encrypted

remove_unfinished() {
  rm -rf -- "$DIR"/*.partial*
  [[ -z $STAGING ]] || rm -rf -- "$STAGING"
}

# Sets VOLUME_DIR, and STAGING, a folder in it where files are gathered: what a killed run has left there is
# no file of an app's.
open_volume() {
  find_volume "$VOLUME"
  STAGING=$VOLUME_DIR/.swarmkeep-files.partial
  rm -rf -- "$STAGING" "$VOLUME_DIR/.swarmkeep-restore.partial" # the name before 0.4
}

# Lists the volume's files into $1, "bytes TAB path" a line, in the order of their lines, and with
# the time of their last change behind it into $1.times. Names with control characters cannot be
# listed so: there are none that NocoDB made.
list_files() {
  (cd -- "$VOLUME_DIR" && TZ=UTC find . -type f ! -name '*[[:cntrl:]]*' \
    -printf '%s\t%P\t%TY-%Tm-%TdT%TH:%TM:%TS\n') >"$1.times"
  cut -f 1,2 "$1.times" | sort >"$1"
}

# Lists what the bucket has in folder $2 into $1 and $1.times, in the same form. Keys are cut to paths. An
# empty answer is the word None.
list_objects() {
  aws_cli s3api list-objects-v2 --bucket "$S3_BUCKET" --prefix "$PREFIX/$2/" \
    --query 'Contents[].[Size,Key,LastModified]' --output text || {
    bucket_failed "s3://$S3_BUCKET/$PREFIX/$2/ could not be listed"
    quit "$UPLOAD_FAILED"
  }
  sed -n "s,\t$PREFIX/$2/,\t,p" "$ANSWER" >"$1.times"
  [[ $2 != "$ENCRYPTED" ]] || sed -n -i 's/\.age\(\t[^\t]*\)$/\1/p' "$1.times"
  cut -f 1,2 "$1.times" | sort >"$1"
}

# Runs a command of the AWS CLI that moves many files.
move_files() {
  local code=0
  aws_cli s3 "$1" --only-show-errors "${@:2}" || code=$?
  # 2: some files could not be read, or went meanwhile. What counts is the comparison afterwards.
  ((code == 0 || code == 2))
}

# How many lines, and the sum of their first fields.
total() { awk -F '\t' '{ bytes += $1 } END { printf "%d %d\n", NR, bytes }' "$1"; }

backup() {
  local count bytes tries=0 list=$DIR/files.partial objects=$DIR/objects.partial
  open_volume
  ping_start
  log INFO "uploading what is new of $VOLUME_DIR"
  list_both
  # Also what was changed since and kept its size. (Only at first: clocks differ.)
  changed_files "$objects.times" "$list.times" >"$DIR/missing.partial"
  # Once more if files changed meanwhile.
  while [[ -s $DIR/missing.partial ]] && ((tries < 3)); do
    tries=$((tries + 1))
    upload_missing
    list_both
    comm -23 "$list" "$objects" >"$DIR/missing.partial"
  done
  [[ ! -s $DIR/missing.partial ]] || die "$BAD_OBJECT" \
    "$(wc -l <"$DIR/missing.partial") files are not in the bucket as they are here, such as $(head -n 1 "$DIR/missing.partial" | cut -f 2-)" \
    "run it again when nobody writes; else compare with 'aws s3 ls s3://$S3_BUCKET/$PREFIX/$FOLDER/'"
  read -r count bytes < <(total "$list")
  record "$list" "$count" "$bytes" || quit $?
  succeeded files="$count" size_bytes="$bytes"
  log INFO "files complete stack=$STACK files=$count bytes=$bytes seconds=$SECONDS tries=$tries"
}

# Lists what is here and what the bucket has.
list_both() {
  list_files "$list"
  list_objects "$objects" "$FOLDER"
  [[ -z $AGE ]] || {
    with_plain_sizes "$list" "$objects.times" -1 >"$DIR/sized.partial"
    mv -- "$DIR/sized.partial" "$objects.times"
    cut -f 1,2 "$objects.times" | sort >"$objects"
  }
  only_present "$list"
}

# Of the files here (list $2, with times) those that the bucket (list $1) lacks, has in another size,
# or has from before their last change.
changed_files() { awk "$CHANGED" reading=objects "$1" reading=here "$2"; }

# shellcheck disable=SC2016 # awk
readonly CHANGED='
BEGIN { FS = "\t" }
reading == "objects" { size[$2] = $1; time[$2] = substr($3, 1, 19); next }
!($2 in size) || size[$2] != $1 || time[$2] < substr($3, 1, 19) { print $1 "\t" $2 }'

# Uploads what is missing, and only that: gathered as links in a folder of its own, so that the
# bucket need not be listed and compared once more, as a sync does. Where a file cannot be linked (it
# went meanwhile, or its file system has no links) a sync does it.
upload_missing() {
  local encrypt=()
  [[ -z $AGE ]] || {
    upload_encrypted
    return
  }
  [[ -z $SSE ]] || encrypt=(--sse "$SSE")
  [[ -z $SSE_KMS_KEY_ID ]] || encrypt+=(--sse-kms-key-id "$SSE_KMS_KEY_ID")
  mkdir -- "$STAGING"
  local how=(cp --recursive) from=$STAGING
  (cd -- "$VOLUME_DIR" && only_paths missing | xargs -0r cp -l --parents -t "$STAGING" --) 2>"$ERRORS" || {
    rm -rf -- "$STAGING"
    how=(sync --no-follow-symlinks) from=$VOLUME_DIR
  }
  move_files "${how[@]}" "${encrypt[@]}" "$from" "s3://$S3_BUCKET/$PREFIX/$CLEAR/" || {
    bucket_failed "the files of $VOLUME_DIR could not be uploaded to s3://$S3_BUCKET/$PREFIX/$CLEAR/"
    quit "$UPLOAD_FAILED"
  }
  rm -rf -- "$STAGING"
}

# Takes out of list $1 what has gone since it was made.
only_present() {
  local size path
  while IFS=$'\t' read -r size path; do
    [[ ! -f $VOLUME_DIR/$path ]] || printf '%s\t%s\n' "$size" "$path"
  done <"$1" >"$DIR/present.partial"
  mv -- "$DIR/present.partial" "$1"
}

# Uploads the state, only with which it counts, and which files there are, for people to look up.
record() {
  local list=$1 state=$DIR/state.partial sum
  gzip -6 -n <"$list" >"$list.gz"
  sum=$(sum_of "$list.gz")
  cat >"$state" <<END
{"format": 1, "tool": "backup-files.sh $VERSION", "node": $(quoted "$NODE"), "stack": $(quoted "$STACK"),
"project": $(project_json),$(recipients_json)
"finished": "$(date -u +%Y-%m-%dT%H:%M:%SZ)", "seconds": $SECONDS, "files": $2, "bytes": $3,
"list": {"bytes": $(stat -c %s -- "$list.gz"), "sha256": "$sum"}}
END
  side_by_side "send_state $NODE.list.gz" "send_state $NODE.json"
}

send_state() {
  case $1 in
    *.json) send "$state" "$PREFIX/state/$1" "$(sum_of "$state")" ;;
    *) send "$list.gz" "$PREFIX/state/$1" "$sum" ;;
  esac
}

# Sorts what the bucket has by what is here: lists of the same form, absent, differing (here
# with another size) and same.
compare() {
  local list
  for list in absent differing same; do : >"$DIR/$list.partial"; done
  awk -v lists="$DIR" '
    { path = substr($0, index($0, "\t") + 1); size = $0; sub(/\t.*/, "", size) }
    reading == "here" { here[path] = size; next }
    { list = path in here ? (here[path] == size ? "same" : "differing") : "absent"
      print > (lists "/" list ".partial") }' \
    reading=here "$DIR/files.partial" reading=objects "$DIR/objects.partial"
}

# What is encrypted comes first: what was uploaded in clear before is older.
restore() {
  FETCHED=0 FETCHED_BYTES=0
  open_volume
  list_objects "$DIR/encrypted.partial" "$ENCRYPTED"
  list_objects "$DIR/clear.partial" "$CLEAR"
  without "$DIR/encrypted.partial" "$DIR/clear.partial" >"$DIR/only-clear.partial"
  local code=0
  bring "$ENCRYPTED" "$DIR/encrypted.partial" || code=$?
  bring "$CLEAR" "$DIR/only-clear.partial" || code=$?
  ((code == 0)) || quit "$code"
  log INFO "files restored stack=$STACK fetched=$FETCHED bytes=$FETCHED_BYTES seconds=$SECONDS"
}

# The lines of list $2 whose paths are not in list $1.
without() { awk -F '\t' 'known { paths[$2]; next } !($2 in paths)' known=1 "$1" known=0 "$2"; }

# Fetches the files that this node lacks of list $2, which are in folder $1 of the bucket. Returns 0, or the
# exit code to take once the others are fetched.
bring() {
  local count bytes free
  sort_out "$@"
  read -r count bytes < <(total "$DIR/absent.partial")
  if ((count > 0)); then
    free=$(($(df --output=avail -k -- "$VOLUME_DIR" | tail -n 1) * 1024))
    [[ $1 != "$ENCRYPTED" ]] || bytes=$((bytes * 2)) # until they are decrypted
    ((free > bytes)) || die "$NO_SPACE" "$VOLUME_DIR has $free bytes free, the files need $bytes" "make room"
    log INFO "fetching files=$count bytes=$bytes into $VOLUME_DIR"
    if [[ $1 == "$ENCRYPTED" && -z $IDENTITY ]]; then
      log ERROR "the files are encrypted, and no identity was given; next: give one: in the vault (vault_backup_identity), or --identity FILE"
      return "$NO_IDENTITY"
    fi
    if [[ $1 == "$ENCRYPTED" ]]; then stage_encrypted "$2"; else stage; fi
    place
    FETCHED=$((FETCHED + count)) FETCHED_BYTES=$((FETCHED_BYTES + bytes))
  fi
  sort_out "$@"
  [[ ! -s $DIR/differing.partial ]] || log WARNING \
    "$(wc -l <"$DIR/differing.partial") files are not as they are in the bucket and were left alone, such as $(head -n 3 "$DIR/differing.partial" | cut -f 2- | paste -sd ,)"
  [[ -s $DIR/absent.partial ]] || return 0
  log ERROR "$(wc -l <"$DIR/absent.partial") files did not arrive as they are in the bucket, such as $(head -n 1 "$DIR/absent.partial" | cut -f 2-); next: run it again; the app's log tells who else writes there"
  return "$BAD_OBJECT"
}

# Compares list $2, what folder $1 of the bucket has, with what is here.
sort_out() {
  list_files "$DIR/files.partial"
  if [[ $1 == "$ENCRYPTED" ]]; then
    with_plain_sizes "$DIR/files.partial" "$2" stored | sort >"$DIR/objects.partial"
  else
    cp -- "$2" "$DIR/objects.partial"
  fi
  compare
}

# Fetches what is absent into a folder of its own in the volume, so that nothing there can be
# overwritten, whoever writes meanwhile. One sync fetches them all; it takes patterns, not lists,
# and names may look like patterns. So it finds what it need not fetch in that folder: links to
# what is the same here, and hollow files of the size in the bucket for what differs.
stage() {
  local size path
  mkdir -- "$STAGING"
  (cd -- "$VOLUME_DIR" && only_paths same | xargs -0r cp -l --parents -t "$STAGING" --) 2>"$ERRORS" || {
    tell cp "$ERRORS"
    die "$UNEXPECTED" "the files that $VOLUME_DIR has could not be noted; nothing was changed" "see the line above, then run it again"
  }
  while IFS=$'\t' read -r size path; do
    mkdir -p -- "$STAGING/./$(dirname -- "$path")"
    truncate -s "$size" -- "$STAGING/$path"
  done <"$DIR/differing.partial"
  move_files sync --size-only "s3://$S3_BUCKET/$PREFIX/$CLEAR/" "$STAGING" || {
    bucket_failed "the files could not be fetched from s3://$S3_BUCKET/$PREFIX/$CLEAR/"
    quit "$UPLOAD_FAILED"
  }
}

# Gives what was fetched its names in the volume: a link, which never takes another's place.
# Files and the folders above them belong to whom the volume belongs to, as what NocoDB writes.
place() {
  (cd -- "$STAGING" && find . -type f ! -name '*[[:cntrl:]]*' -printf '%s\t%P\n') | sort >"$DIR/fetched.partial"
  comm -12 "$DIR/absent.partial" "$DIR/fetched.partial" >"$DIR/arrived.partial"
  (cd -- "$VOLUME_DIR" && folders | xargs -0r mkdir -p --)
  (cd -- "$VOLUME_DIR" && folders | xargs -0r chown --no-dereference --reference=. --)
  (cd -- "$STAGING" && only_paths arrived | xargs -0r chown --no-dereference --reference="$VOLUME_DIR" --)
  # A name that has been taken meanwhile makes it fail; what counts is the comparison afterwards.
  (cd -- "$STAGING" && only_paths arrived | xargs -0r cp -l --no-clobber --parents -t "$VOLUME_DIR" --) 2>"$ERRORS" || true
  rm -rf -- "$STAGING"
}

# The paths of list $1, and every folder above those that have arrived, each with a NUL behind it
# and ./ before it: none is taken for an option.
only_paths() { sed 's,^[0-9]*\t,./,' "$DIR/$1.partial" | tr '\n' '\0'; }
folders() {
  only_paths arrived | tr '\0' '\n' |
    awk '{ while (sub("/[^/]*$", "") && $0 != ".") print }' | sort -u | tr '\n' '\0'
}

check() {
  local probe=$DIR/write-check.partial other
  if aws_cli s3 cp --only-show-errors "s3://$S3_BUCKET/$PREFIX/state/$NODE.json" "$DIR/state.partial" &&
    other=$(project_in "$DIR/state.partial") && of_another "$other"; then
    die "$USAGE" "s3://$S3_BUCKET/$PREFIX/ is where another project ($other) has its files" \
      "give this one a name of its own: 'project:' in hosts.yaml; then inv backup.install"
  fi
  echo "backup-files.sh --check may write here" >"$probe"
  send "$probe" "$PREFIX/state/.write-check" "$(sum_of "$probe")" || quit $?
  open_volume
  log INFO "ready: bucket s3://$S3_BUCKET, files in $VOLUME_DIR"
}

# Runs itself for every volume: one's failure does not keep the others from being backed up. Those that are not
# on this node are none of its business, unless none is. Whoever waits for pings gets one for all of them.
each_volume() {
  local volume code=$NO_CONTAINER
  [[ $action != backup ]] || ping_start
  for volume in "${APP_STACK}_data" "${MORE_VOLUMES[@]}"; do
    setpriv --pdeathsig TERM "$0" "$@" --volume "$volume" < <([[ -z $IDENTITY ]] || printf '%s\n' "$IDENTITY") &
    CHILDREN=("$!")
    finish "$!"
    case $STATUS in
      0) ((code != NO_CONTAINER)) || code=0 ;;
      "$NO_CONTAINER") ;;
      *) ((code != 0 && code != NO_CONTAINER)) || code=$STATUS ;;
    esac
  done
  CHILDREN=()
  [[ $action != backup ]] || ((code == NO_CONTAINER || code == LOCKED)) || ping_end "$code"
  quit "$code"
}

# Makes $1, one of the volumes that the settings name, the one that this run is about. What the bucket has of it
# is under the name of NocoDB's stack, or of the other app's volume.
use_volume() {
  [[ " ${APP_STACK}_data ${MORE_VOLUMES[*]} " == *" $1 "* ]] ||
    die "$USAGE" "volume $1: is not among those of VOLUMES (${MORE_VOLUMES[*]})" "apps in hosts.yaml name them"
  VOLUME=$1 STACK=$1
  [[ $1 != "${APP_STACK}_data" ]] || STACK=$APP_STACK
  PREFIX=${PROJECT:+$PROJECT/}files/$STACK
}

main() {
  local config=/etc/backup-files.conf action=backup volume="" given=("$@")
  begin_run
  while (($# > 0)); do
    case $1 in
      --config) shift && config=${1-} ;;
      --volume) shift && volume=${1-} ;;
      --check) action=check ;;
      --restore) action=restore ;;
      --identity) read_identity ;;
      --help) usage && exit ;;
      --version) echo "backup-files.sh $VERSION" && exit ;;
      *) usage >&2 && quit "$USAGE" ;;
    esac
    shift || true
  done
  read_config "$config"
  setting APP_STACK '[A-Za-z0-9][A-Za-z0-9_.-]*'
  setting STATE_DIR '/[^[:cntrl:]]+'
  [[ -z ${VOLUMES-} ]] || setting VOLUMES '[A-Za-z0-9][A-Za-z0-9_.-]*( [A-Za-z0-9][A-Za-z0-9_.-]*)*'
  read -ra MORE_VOLUMES <<<"${VOLUMES-}"
  [[ -n $volume || ${#MORE_VOLUMES[@]} -eq 0 ]] || each_volume "${given[@]}"
  ((${#MORE_VOLUMES[@]} == 0)) || PING_FILE=""
  use_volume "${volume:-${APP_STACK}_data}"
  DIR=$STATE_DIR STAGING=""
  [[ $action != backup ]] || report_as files "$STACK"
  need "$(access_tools)" aws awk comm flock gzip md5sum setpriv sha256sum timeout xargs
  take_lock "$DIR"
  ERRORS=$DIR/errors.partial
  use_recipients
  FOLDER=$CLEAR LANES=$(nproc)
  [[ -z $AGE ]] || FOLDER=$ENCRYPTED
  "$action"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  main "$@"
fi
