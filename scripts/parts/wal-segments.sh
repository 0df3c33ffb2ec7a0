#!/bin/bash
# shellcheck disable=SC2034,SC2153 # used by those that source this, set by those before it
# The part of wal-pg.sh that knows the spool: where it is, which segments are finished, and their way
# into the bucket. Sourced, never run.
#
# An object is named SEGMENT_TIME_MD5.gz (with .age where it is encrypted; where it was encrypted anew for others,
# with the first 8 digits of the MD5 that it had before, .gz.DIGITS.age), in a folder for each 256 segments. TIME is until when every
# commit is in this segment or before it, MD5 is of the object itself: so a listing alone shows whether
# the chain has a gap, how far it reaches, and whether an object is not what was uploaded.

readonly BATCH=64 # segments that are uploaded in one call
readonly UNKNOWN=19700101T000000Z # until when the first segments of a chain reach, if no heartbeat tells

# Sets SPOOL and INSIDE_SPOOL, makes it where it is not there, and goes into it.
find_spool() {
  place_spool
  enter_spool || die "$BAD_SPOOL" "$SPOOL is no folder, or a link to another place" "find out who changes files in the volume"
}

# Goes into the spool. The container is not trusted with the path: were the folder a link to somewhere
# else, files would be uploaded and removed there. From then on every name is relative to what it is now.
enter_spool() {
  local parent
  parent=$(cd -P -- "${SPOOL%/*}" 2>/dev/null && pwd -P) || return 1
  cd -P -- "$SPOOL" 2>/dev/null && [[ $(pwd -P) == "$parent/$SPOOL_NAME" ]]
}

# The finished segments in the spool after segment $1, in their order. What pg_receivewal still writes
# ends in .partial.
finished_segments() {
  local name
  for name in [0-9A-F]*; do
    [[ ! $name =~ ^[0-9A-F]{24}$ || ! $name > $1 || ! -f $name || -L $name ]] || printf '%s\n' "$name"
  done
}

# Removes the file of a segment that pg_receivewal did not get to fill with zeros, because it was ended meanwhile:
# it begins each file like that, so nothing of the WAL is in there, and it refuses to start again beside such a
# file. To be called while no pg_receivewal runs.
remove_unfilled() {
  local name size
  for name in [0-9A-F]*.partial; do
    # Beside a folder it does not start either, and says so: that is somebody else's doing.
    [[ $name =~ ^[0-9A-F]{24}\.partial$ && ! -d $name ]] || continue
    size=$(stat -c %s -- "$name")
    # An empty one it takes.
    ((size == 0 || size == SEGMENT_BYTES)) || rm -f -- "$name"
  done
}

# The segment after $1: timeline, number of the log, number in it. A log has 4 GB.
next_segment() {
  local log=$((16#${1:8:8})) number=$((16#${1:16:8} + 1))
  ((number < 4294967296 / SEGMENT_BYTES)) || log=$((log + 1)) number=0
  printf '%s%08X%08X' "${1:0:8}" "$log" "$number"
}

# Uploads every finished segment and removes it from the spool. Returns 0 or the exit code to take.
deliver_segments() {
  local batch
  enter_spool || {
    log ERROR "the spool $SPOOL is not there any more; next: see that the volume is the one that it was"
    return "$BAD_SPOOL"
  }
  while true; do
    mapfile -t batch < <(finished_segments "$LAST" | head -n "$BATCH")
    ((${#batch[@]} > 0)) || return 0
    check_order "${batch[@]}"
    upload "${batch[@]}" || return
    remove_uploaded
  done
}

# Removes what is in the bucket from the spool, and nothing that has arrived meanwhile. LAST itself stays:
# PostgreSQL before 15 tells pg_receivewal nothing of the slot, it goes on from the newest one here.
remove_uploaded() {
  local name
  while read -r name; do [[ ! $name < $LAST ]] || rm -f -- "$name"; done < <(finished_segments "")
}

# Begins a new chain where a segment is missing.
check_order() {
  local segment before=$LAST
  for segment; do
    if [[ -n $before && $segment != "$(next_segment "$before")" ]]; then
      log ERROR "WAL is missing between segments $before and $segment; next: find out who removed it; a new base backup begins by itself"
      begin_chain
      FIRST=$segment GAP=yes
    fi
    before=$segment
  done
}

upload() {
  local segment name until=$UNTIL files=()
  open_outgoing
  for segment; do
    # What was closed by a heartbeat reaches until then, others at least as far as those before them.
    [[ $segment != "$CLOSED" ]] || until=$BEAT
    name=$(compressed "$segment" "${until:-$UNKNOWN}") || return
    files+=("$name")
  done
  if ((${#files[@]} == 1)); then
    send "$OUTGOING/$name" "$PREFIX/$name" "$(sum_of "$OUTGOING/$name")" || return
  else
    upload_all && all_have_arrived || return
  fi
  FIRST=${FIRST:-$1} LAST=$segment UNTIL=${until:-$UNKNOWN}
  write_state
  rm -rf -- "$OUTGOING"
}

# Sets OUTGOING, the folder with what is to be uploaded. It outlives this run: what was encrypted for an upload
# that failed, or whose answer was lost, is sent again as it was. Encrypted once more it would be another object,
# and the segment would be there twice. What is for other recipients is not used.
open_outgoing() {
  OUTGOING=$WAL_DIR/outgoing
  [[ $(cat -- "$OUTGOING/.for" 2>/dev/null || true) == "$AGE $KEY_IDS" ]] || rm -rf -- "$OUTGOING"
  mkdir -p -- "$OUTGOING"
  printf '%s' "$AGE $KEY_IDS" >"$OUTGOING/.for"
}

# Compresses segment $1 for the bucket and prints the name of its object; $2: until when it reaches.
compressed() {
  local folder=$OUTGOING/${1:0:16} sum there
  [[ $(stat -c %s -- "$1") == "$SEGMENT_BYTES" ]] || {
    log ERROR "segment $1 in the spool has not $SEGMENT_BYTES bytes; next: find out who changes files in the volume"
    return "$BAD_SPOOL"
  }
  mkdir -p -- "$folder" || return "$DISK_FULL"
  for there in "$folder/$1"_*".gz$AGE"; do
    sum=$(md5sum 2>/dev/null <"$there") || continue
    [[ $there != *"_${sum%% *}.gz$AGE" ]] || { printf '%s' "${there#"$OUTGOING/"}" && return; }
    rm -f -- "$there"
  done
  dd if="$1" iflag=nofollow bs=1M status=none 2>"$ERRORS" | "${COMPRESS[@]}" >"$folder/new" 2>>"$ERRORS" || {
    tell "$COMPRESSOR" "$ERRORS"
    log ERROR "segment $1 could not be compressed; next: see the line above and the free space of $DIR"
    return "$DISK_FULL"
  }
  [[ -z $AGE ]] || encrypt "$folder/new" "$folder/new$AGE" || return "$DISK_FULL"
  sum=$(md5sum <"$folder/new$AGE") && mv -- "$folder/new$AGE" "$folder/$1_$2_${sum%% *}.gz$AGE" || return "$DISK_FULL"
  printf '%s' "${1:0:16}/$1_$2_${sum%% *}.gz$AGE"
}

upload_all() {
  local encrypt=()
  [[ -z $SSE ]] || encrypt=(--sse "$SSE")
  [[ -z $SSE_KMS_KEY_ID ]] || encrypt+=(--sse-kms-key-id "$SSE_KMS_KEY_ID")
  local type=application/gzip
  [[ -z $AGE ]] || { type=application/octet-stream && encrypt+=(--metadata "$(recipients_field)"); }
  aws_cli s3 cp --recursive --only-show-errors --content-type "$type" "${encrypt[@]}" \
    --exclude '*' --include '*/*' "$OUTGOING" "s3://$S3_BUCKET/$PREFIX/" && return
  bucket_failed "segments could not be uploaded to s3://$S3_BUCKET/$PREFIX/"
  return "$UPLOAD_FAILED"
}

# Whether each file is in the bucket: its size, and its MD5 where the store tells that.
all_have_arrived() {
  local name key size tag
  declare -A sizes=() tags=()
  aws_cli s3api list-objects-v2 --bucket "$S3_BUCKET" --prefix "$PREFIX/" --start-after "$PREFIX/${files[0]%_*}" \
    --query 'Contents[].[Key,Size,ETag]' --output text || {
    bucket_failed "s3://$S3_BUCKET/$PREFIX/ could not be listed"
    return "$UPLOAD_FAILED"
  }
  while IFS=$'\t' read -r key size tag; do sizes[$key]=$size tags[$key]=${tag//\"/}; done <"$ANSWER"
  for name in "${files[@]}"; do
    key=$PREFIX/$name size=$(stat -c %s -- "$OUTGOING/$name") tag=${name##*_}
    [[ ${sizes[$key]-} == "$size" && (${tags[$key]} == "${tag%%.*}" || ${tags[$key]} == *-* || $SSE == aws:kms) ]] || {
      log ERROR "s3://$S3_BUCKET/$key is not what was uploaded; next: find out who else writes there; the next run uploads it again"
      return "$BAD_OBJECT"
    }
  done
}

# Removes the segments from the spool, the unfinished one too.
empty_spool() {
  local name
  enter_spool || return 0
  for name in [0-9A-F]*; do [[ ! $name =~ ^[0-9A-F]{24}(\.partial)?$ ]] || rm -f -- "$name"; done
}
