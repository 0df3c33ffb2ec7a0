#!/bin/bash
# The bucket, for all scripts: the AWS CLI, lists of sets, uploads that are seen to have arrived,
# and what to do about a refusal. Sourced by backup-common.sh, never run.

readonly SMALL=$((8 * 1024 * 1024)) # bytes: what is larger goes up in parts

# Runs the AWS CLI; its output is in $ANSWER. Each start of it takes half a second and more.
aws_cli() {
  local endpoint=()
  [[ -z $S3_ENDPOINT_URL ]] || endpoint=(--endpoint-url "$S3_ENDPOINT_URL")
  ANSWER=${ANSWER:-$DIR/answer.partial}
  start aws "${endpoint[@]}" --cli-connect-timeout 10 --cli-read-timeout 60 "$@" \
    >"$ANSWER" 2>"$ERRORS" </dev/null
  finish "$STARTED"
  return "$STATUS"
}

# Lists every object whose key begins with $1 into the file that `read_sizes` reads; what follows are
# further words for the AWS CLI. Returns as aws_cli.
list_sizes() {
  aws_cli s3api list-objects-v2 --bucket "$S3_BUCKET" --prefix "$1" "${@:2}" \
    --query 'Contents[].[Key,Size]' --output text && mv -- "$ANSWER" "$DIR/sizes.partial"
}

# Sets SIZES: the bytes of each object that was listed, by key. Where there is none, the answer is
# the word None.
read_sizes() {
  local key size
  declare -gA SIZES=()
  while IFS=$'\t' read -r key size; do [[ -z $size ]] || SIZES[$key]=$size; done <"$DIR/sizes.partial"
}

# Lists the sets of the last $1 days. Returns as aws_cli.
list_sets() {
  list_sizes "$PREFIX/backup_" --start-after "$PREFIX/backup_$(date -u -d "-$1 days" +%Y%m%d)"
}

# Sets SETS to the times of the listed sets that have a manifest, the newest first; without those of
# the future (a wrong clock). Sets SIZES, too.
read_sets() {
  local set now end=.manifest.json
  SETS=()
  now=$(date -u -d '+5 minutes' +%Y%m%dT%H%M%SZ)
  read_sizes
  while read -r set; do
    [[ ! $set =~ ^[0-9]{8}T[0-9]{6}Z$ || $set > $now ]] || SETS=("$set" "${SETS[@]}")
  done < <(printf '%s\n' "${!SIZES[@]}" | sed -n "s,^$PREFIX/backup_\(.*\)$end\$,\1,p" | sort)
}

# ---- uploads ------------------------------------------------------------------------------------

# Puts file $1, whose SHA-256 is $3, at key $2, and sees that it has arrived. Returns 0 or the exit
# code to take.
send() {
  local file=$1 key=$2 sum=$3 bytes type=application/gzip
  bytes=$(stat -c %s -- "$file")
  [[ $key != *.json ]] || type=application/json
  [[ $key != *.age ]] || type=application/octet-stream
  if ((bytes <= SMALL)); then
    send_whole && return || (($? == BAD_OBJECT)) || return "$UPLOAD_FAILED"
  else
    send_in_parts || return "$UPLOAD_FAILED"
  fi
  has_arrived
}

# One request, whose answer has the ETag of what the store has now: where that is the MD5, nothing
# more need be asked. Returns BAD_OBJECT where it is not (KMS; or it is somebody else's object).
send_whole() {
  local encrypt=()
  [[ -z $SSE ]] || encrypt=(--server-side-encryption "$SSE")
  [[ -z $SSE_KMS_KEY_ID ]] || encrypt+=(--ssekms-key-id "$SSE_KMS_KEY_ID")
  aws_cli s3api put-object --bucket "$S3_BUCKET" --key "$key" --body "$file" --content-type "$type" \
    "${encrypt[@]}" --metadata "sha256=$sum,bytes=$bytes$(recipients_metadata "$key")" --query ETag --output text || {
    bucket_failed "s3://$S3_BUCKET/$key could not be uploaded"
    return "$UPLOAD_FAILED"
  }
  [[ $(tr -d '"\n' <"$ANSWER") == "$(md5sum <"$file" | cut -c 1-32)" ]] || return "$BAD_OBJECT"
}

send_in_parts() {
  local encrypt=()
  [[ -z $SSE ]] || encrypt=(--sse "$SSE")
  [[ -z $SSE_KMS_KEY_ID ]] || encrypt+=(--sse-kms-key-id "$SSE_KMS_KEY_ID")
  aws_cli s3 cp --only-show-errors --content-type "$type" "${encrypt[@]}" \
    --metadata "sha256=$sum,bytes=$bytes$(recipients_metadata "$key")" "$file" "s3://$S3_BUCKET/$key" && return
  bucket_failed "s3://$S3_BUCKET/$key could not be uploaded"
  return "$UPLOAD_FAILED"
}

# Whether the object is ours: an object of somebody else's may have come in its place, and be as large.
has_arrived() {
  local found
  aws_cli s3api head-object --bucket "$S3_BUCKET" --key "$key" \
    --query '[ContentLength,Metadata.sha256]' --output text || {
    bucket_failed "s3://$S3_BUCKET/$key could not be looked at"
    return "$UPLOAD_FAILED"
  }
  found=$(tr -s '[:space:]' ' ' <"$ANSWER")
  [[ ${found% } != "$bytes $sum" ]] || return 0
  log ERROR "s3://$S3_BUCKET/$key is '${found% }' instead of '$bytes $sum' (size, SHA-256); next: find out who else writes there; the next run uploads it again"
  return "$BAD_OBJECT"
}

# ---- refusals -----------------------------------------------------------------------------------

# Logs what the AWS CLI said when it failed, and that $1.
bucket_failed() {
  tell aws "$ERRORS"
  # The CLI of Debian 12 reports some refusals as a fault of its own: ask plainly for the reason.
  # (Under the printed policy this is refused even with the right key: it tells a reason only.)
  if grep -q NoneType "$ERRORS" && ! aws_cli s3api head-bucket --bucket "$S3_BUCKET"; then
    tell aws "$ERRORS"
  fi
  log ERROR "$1; next: $(advice)"
}

# What to do about what the AWS CLI said.
advice() {
  case $(<"$ERRORS") in
    *NoSuchBucket* | *"Not Found"*) echo "create bucket $S3_BUCKET, or correct s3_bucket_name" ;;
    *"locate credentials"*) echo "give this node AWS credentials: in the vault, in ~/.aws, or an instance role" ;;
    *AccessDenied* | *Forbidden* | *InvalidAccessKeyId* | *SignatureDoesNotMatch* | *ExpiredToken*)
      echo "check this node's AWS key and what it may do (docs/backup.md, Permissions)" ;;
    *KMS* | *ServerSideEncryption* | *InvalidEncryption*) echo "check backup.encryption and kms_key_id, and that this node may use the key" ;;
    *) echo "check that this node reaches ${S3_ENDPOINT_URL:-S3 in $AWS_REGION}" ;;
  esac
}
