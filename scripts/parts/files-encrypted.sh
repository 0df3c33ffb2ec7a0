#!/bin/bash
# shellcheck disable=SC2034,SC2153,SC2154 # used by backup-files.sh, set by it
# The part of backup-files.sh that encrypts attachments before they are uploaded, each as an object of its
# own, and decrypts them again. Sourced, never run.

readonly BATCH_BYTES=$((512 * 1024 * 1024)) # that are encrypted before they are uploaded

# Given list $1 of files here and list $2 of encrypted objects, prints the latter with the bytes that are in
# them, as far as the files here tell: age adds a header for its recipients, 16 bytes, and 16 for each 64 KiB.
# Where that does not fit, the bytes are $3, or "stored" for those of the object.
with_plain_sizes() { awk -v unknown="$3" "$WITH_PLAIN_SIZES" reading=here "$1" reading=objects "$2"; }

# In the header each recipient has 98 bytes (an age key) or 110 (an SSH key), the rest of it 70; some programs,
# but not the one that is used here, add a line that stands for nobody (https://age-encryption.org/v1). Such an
# object is uploaded once more by the node that has the file; for a restore it is good.
# shellcheck disable=SC2016 # awk
readonly WITH_PLAIN_SIZES='
function fits(stored, bytes,  header, ssh) {
  header = stored - bytes - 16 - 16 * (bytes > 0 ? int((bytes + 65535) / 65536) : 1)
  if (header < 168 || header > 4096) return 0
  if (unknown == "stored") return 1
  for (ssh = 0; ssh * 110 <= header - 70; ssh++) if ((header - 70 - ssh * 110) % 98 == 0) return 1
  return 0
}
BEGIN { FS = OFS = "\t" }
reading == "here" { here[$2] = $1; next }
{
  if ($2 in here && fits($1, here[$2])) $1 = here[$2]
  else if (unknown != "stored") $1 = unknown
  print
}'

# Uploads what is missing encrypted, as many files at a time as need little room.
upload_encrypted() {
  local batch=$DIR/batch.partial rest=$DIR/rest.partial out=$DIR/outgoing.partial sse=() lanes=() lane
  [[ -z $SSE ]] || sse=(--sse "$SSE")
  [[ -z $SSE_KMS_KEY_ID ]] || sse+=(--sse-kms-key-id "$SSE_KMS_KEY_ID")
  for ((lane = 0; lane < LANES; lane++)); do lanes+=("encrypt_lane $lane"); done
  cp -- "$DIR/missing.partial" "$rest"
  while [[ -s $rest ]]; do
    mv -- "$rest" "$batch"
    : >"$rest"
    awk -F '\t' -v most="$BATCH_BYTES" -v rest="$rest" \
      '{ bytes += $1; if (NR > 1 && (bytes > most || NR > 2000)) print > rest; else print }' "$batch" >"$batch.now"
    rm -rf -- "$out"
    mkdir -- "$out"
    side_by_side "${lanes[@]}" || quit "$?"
    move_files cp --recursive --content-type application/octet-stream --metadata "$(recipients_field)" \
      "${sse[@]}" "$out" "s3://$S3_BUCKET/$PREFIX/$ENCRYPTED/" || {
      bucket_failed "the files of $VOLUME_DIR could not be uploaded to s3://$S3_BUCKET/$PREFIX/$ENCRYPTED/"
      quit "$UPLOAD_FAILED"
    }
  done
  rm -rf -- "$out"
}

# Encrypts each file of the batch whose turn is $1. One that has gone meanwhile is no failure.
encrypt_lane() {
  local size path copy=$DIR/copy.$1.partial
  while IFS=$'\t' read -r size path; do
    mkdir -p -- "$out/./$(dirname -- "$path")"
    cp --no-dereference -- "$VOLUME_DIR/$path" "$copy" 2>"$ERRORS" || {
      [[ ! -e $VOLUME_DIR/$path ]] && continue
      tell cp "$ERRORS"
      die "$DUMP_FAILED" "$path could not be copied to be encrypted" "see the line above, and the free space of $DIR"
    }
    encrypt "$copy" "$out/$path.age" || quit "$DUMP_FAILED"
  done < <(awk -v lanes="$LANES" -v lane="$1" 'NR % lanes == lane' "$batch.now")
}

# Fetches what is absent of the encrypted files, list $1, and decrypts it into STAGING. What need not be
# fetched is there as a hollow file of the size that its object has, as in `stage`.
stage_encrypted() {
  local size path in=$DIR/incoming.partial lanes=() lane
  mkdir -- "$STAGING" "$in"
  while IFS=$'\t' read -r size path; do
    mkdir -p -- "$in/./$(dirname -- "$path")"
    truncate -s "$size" -- "$in/$path.age"
  done < <(without "$DIR/absent.partial" "$1")
  move_files sync --size-only "s3://$S3_BUCKET/$PREFIX/$ENCRYPTED/" "$in" || {
    bucket_failed "the files could not be fetched from s3://$S3_BUCKET/$PREFIX/$ENCRYPTED/"
    quit "$UPLOAD_FAILED"
  }
  for ((lane = 0; lane < LANES; lane++)); do lanes+=("decrypt_lane $lane"); done
  side_by_side "${lanes[@]}" || quit "$?"
  rm -rf -- "$in"
  # What age has authenticated has the right size, whatever that is.
  (cd -- "$STAGING" && find . -type f ! -name '*[[:cntrl:]]*' -printf '%s\t%P\n') | sort >"$DIR/absent.partial"
}

# Decrypts each file whose turn is $1. One that is damaged is left out, and missed by the comparison.
decrypt_lane() {
  local size path code=0
  while IFS=$'\t' read -r size path; do
    [[ -f $in/$path.age ]] || continue
    mkdir -p -- "$STAGING/./$(dirname -- "$path")"
    decrypt "$in/$path.age" "$STAGING/$path" || code=$?
    ((code != NO_IDENTITY)) || die "$NO_IDENTITY" "$path cannot be decrypted: $FLAW" \
      "give an identity that fits: in the vault (vault_backup_identity), or --identity FILE"
    ((code == 0)) || log ERROR "$PREFIX/$ENCRYPTED/$path.age cannot be decrypted: $FLAW; next: fetch an earlier version of it, if the bucket keeps them"
    code=0
  done < <(awk -v lanes="$LANES" -v lane="$1" 'NR % lanes == lane' "$DIR/absent.partial")
}
