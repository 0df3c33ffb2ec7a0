#!/bin/bash
# shellcheck disable=SC2034,SC2153 # used by those that source this, set by those before it
# Encryption before anything leaves the node: age (https://age-encryption.org), for the recipients of
# the settings. The node has their public keys only: what it has encrypted it cannot read. Reading needs
# an identity, the private key of one of them, which comes through stdin and is never in a file, an
# argument or an environment variable. Sourced by backup-common.sh, never run.

readonly NO_IDENTITY=34
readonly AGE_FIRST_LINE=age-encryption.org/v1
readonly RECIPIENT_FORM='(age1[02-9ac-hj-np-z]{58}|ssh-ed25519 [A-Za-z0-9+/]{68})'

AGE=""       # what the names of encrypted files and objects end with: .age, or nothing
IDENTITY=""  # the private key that this run may use
KEY_IDS=""   # the ids of the recipients' keys, as JSON: "a1b2c3d4", "0f1e2d3c"
RECIPIENT_WORDS=() RECIPIENT_LIST=()

# From now on what this run writes is encrypted, if the settings name recipients.
use_recipients() {
  local one
  AGE="" KEY_IDS="" RECIPIENT_WORDS=() RECIPIENT_LIST=()
  [[ -n $RECIPIENTS ]] || return 0
  need age
  AGE=.age
  IFS=, read -r -a RECIPIENT_LIST <<<"$RECIPIENTS"
  for one in "${RECIPIENT_LIST[@]}"; do
    RECIPIENT_WORDS+=(-r "$one")
    KEY_IDS+="${KEY_IDS:+, }\"$(key_id "$one")\""
  done
}

# The id of a recipient's key, by which people and manifests name it: the first 8 hex digits of the
# SHA-256 of its text.
key_id() { printf '%s' "$1" | sha256sum | cut -c 1-8; }

# For a manifest: the ids of the keys that its objects are encrypted for; nothing where they are not.
recipients_json() { [[ -z $AGE ]] || printf ' "recipients": [%s],' "$KEY_IDS"; }

# For the metadata of object $1, behind other fields: the keys that it is encrypted for, if it is.
recipients_metadata() { [[ $1 != *.age ]] || printf ',%s' "$(recipients_field)"; }
recipients_field() { printf 'recipients=%s' "$(tr -d '", ' <<<"${KEY_IDS//, /+}")"; }

# The name of file $1 as it is there: with .age where it is encrypted.
name_of() { if [[ -f $1.age ]]; then printf '%s.age' "$1"; else printf '%s' "$1"; fi; }

# Encrypts file $1 into $2 and removes it. Before that it was read; afterwards the header must name every
# recipient, and where an identity is at hand, all of it is decrypted and compared.
# Returns 1 if that failed, with the reason logged.
encrypt() {
  start age "${RECIPIENT_WORDS[@]}" -o "$2" -- "$1" </dev/null 2>"$ERRORS"
  finish "$STARTED"
  ((STATUS == 0)) || {
    tell age "$ERRORS"
    log ERROR "${1##*/} could not be encrypted; next: see the line above and the free space of ${2%/*}"
    return 1
  }
  has_every_recipient "$2" || {
    log ERROR "${2##*/} is not encrypted for every recipient; next: see backup.recipients, and 'age --version' on this node"
    return 1
  }
  if [[ -n $IDENTITY ]] && [[ $(sum_of "$1") != "$(decrypted "$2" 2>"$ERRORS" | sha256sum | cut -d ' ' -f 1)" ]]; then
    tell age "$ERRORS"
    log ERROR "${2##*/} cannot be decrypted to what it was made of; next: see this node's disk and memory"
    return 1
  fi
  rm -f -- "$1"
}

# Whether the header of file $1 has a line for every recipient, and none besides. age hides which
# X25519 key a line is for, so those are counted; an SSH key shows the beginning of its hash.
has_every_recipient() {
  local line one found=() wanted=()
  while IFS= read -r line && [[ $line != ---* ]]; do
    case $line in
      "-> X25519 "*) found+=(X25519) ;;
      "-> ssh-ed25519 "*) found+=("$(cut -d ' ' -f 3 <<<"$line")") ;;
      "-> "*) found+=("$line") ;;
    esac
  done < <(head -c 65536 -- "$1" | tr -d '\0')
  for one in "${RECIPIENT_LIST[@]}"; do
    if [[ $one == ssh-* ]]; then wanted+=("$(ssh_tag "$one")"); else wanted+=(X25519); fi
  done
  is_encrypted "$1" && [[ $(printf '%s\n' "${found[@]}" | sort) == "$(printf '%s\n' "${wanted[@]}" | sort)" ]]
}

# What a header calls an SSH key: the first four bytes of the SHA-256 of the key, in base64.
ssh_tag() {
  local sum
  sum=$(base64 -d <<<"${1#ssh-ed25519 }" | sha256sum)
  printf '%b' "\\x${sum:0:2}\\x${sum:2:2}\\x${sum:4:2}\\x${sum:6:2}" | base64 | tr -d '='
}

# Whether file $1 begins as age's files do.
is_encrypted() { [[ $(head -c "${#AGE_FIRST_LINE}" -- "$1" | tr -d '\0') == "$AGE_FIRST_LINE" ]]; }

# ---- reading -----------------------------------------------------------------------------------

# Takes the identity from stdin, which nothing else reads then.
read_identity() {
  IDENTITY=$(cat)
  exec </dev/null
}

# Takes the identity for drills, which an installation may have left on this node.
use_identity_of_drills() {
  local mode
  [[ -z $IDENTITY && -n $IDENTITY_FILE && -e $IDENTITY_FILE ]] || return 0
  mode=$(stat -L -c %a -- "$IDENTITY_FILE")
  (((8#$mode & 8#077) == 0)) || die "$USAGE" "$IDENTITY_FILE: others could read it" "chmod 600 '$IDENTITY_FILE'"
  IDENTITY=$(<"$IDENTITY_FILE")
}

# Writes what is in file $1 to stdout.
decrypted() { age -d -i <(printf '%s\n' "$IDENTITY") -- "$1"; }

# Decrypts file $1 into $2. Returns 0; NO_IDENTITY where this run has no key that fits; BAD_OBJECT where the
# file is damaged; UNEXPECTED where that is not known. Sets FLAW to why, and leaves nothing of $2 then: what age has written before it noticed is
# not to be used.
decrypt() {
  local code=$BAD_OBJECT
  FLAW=""
  [[ -n $IDENTITY ]] || { FLAW="it is encrypted, and no identity was given" && return "$NO_IDENTITY"; }
  command -v age >/dev/null || die "$NO_TOOLS" "age is not installed, and ${1##*/} is encrypted" "install it on this node: apt-get install age"
  start age -d -i <(printf '%s\n' "$IDENTITY") -o "$2" -- "$1" </dev/null 2>"$ERRORS"
  finish "$STARTED"
  # age makes no file where there is nothing in it.
  ((STATUS != 0)) || { [[ -e $2 ]] || : >"$2"; return 0; }
  rm -f -- "$2"
  case $(<"$ERRORS") in
    *'"/dev/fd/'*) code=$NO_IDENTITY FLAW="what was given is no age identity, nor an SSH key without a passphrase" ;;
    *"no identity matched"* | *"did not match any"*) code=$NO_IDENTITY FLAW="the identity that was given is none of those that it is encrypted for" ;;
    *"failed to read header"*) FLAW="it is no age file, or its header is damaged" ;;
    *"failed to decrypt and authenticate"* | *"unexpected EOF"* | *"trailing data"* | *"last chunk"* | *MAC*)
      FLAW="it is damaged or cut off: age cannot authenticate it" ;;
    # No word of the file: a full disk, too little time.
    *) code=$UNEXPECTED FLAW="age has ended with exit code $STATUS: $(head -n 1 -- "$ERRORS")" ;;
  esac
  return "$code"
}
