#!/bin/bash
# shellcheck disable=SC2034,SC2153 # used by those that source this, set by those before it
# The part of restore-pg.sh that goes to a point in time: replays a base backup and the WAL after it in a
# throwaway PostgreSQL, and makes a set of what a database was then. From there on it is a set as any
# other: the live server never replays anything. Sourced, never run.

readonly OUT_OF_REACH=29

# Sets what is wanted: TARGET, a time as in names of sets, or "" for the end of the WAL, and MARK_POINT,
# the name in the WAL, or "". Needs CONTAINER, the live PostgreSQL, or CLUSTER.
choose_point() {
  [[ -n $CLUSTER ]] || {
    asked postgres "PostgreSQL does not say which cluster it is" <<<"SELECT system_identifier FROM pg_control_system()"
    CLUSTER=$SAID
  }
  WAL=${PROJECT:+$PROJECT/}wal/$CLUSTER MARK_POINT=""
  case $POINT in
    end) TARGET="" ;;
    mark:*) find_mark "${POINT#mark:}" ;;
    *) TARGET=$POINT ;;
  esac
  choose_base
}

# Sets TARGET and MARK_POINT to mark $1: NAME_TIME, or NAME for the newest of that name.
find_mark() {
  local key newest=""
  list_sizes "$WAL/mark_$1" || could_not_be_read
  read_sizes
  for key in "${!SIZES[@]}"; do
    key=${key##*/mark_} key=${key%.json}
    [[ $key =~ ^(.*)_([0-9]{8}T[0-9]{6}Z)$ && ($key == "$1" || ${BASH_REMATCH[1]} == "$1") ]] || continue
    [[ -n $newest && ! ${BASH_REMATCH[2]} > ${newest##*_} ]] || newest=$key
  done
  [[ -n $newest ]] || die "$NO_SET" "there is no mark $1 in s3://$S3_BUCKET/$WAL/" "'inv backup.list' shows the marks"
  get "$WAL/mark_$newest.json"
  MARK_POINT=$(sed -nE 's/.*"point": "([A-Za-z0-9._-]+)".*/\1/p' "$DIR/mark_$newest.json.partial" | head -n 1)
  [[ -n $MARK_POINT ]] || die "$BAD_SET" "$WAL/mark_$newest.json cannot be read" "restore to its time: --at"
  TARGET=${newest##*_}
}

# Sets BASE_OF, what is known of the newest base backup that had ended by the target, and from which the
# WAL leads there, and CHAIN, what it is combined from. For the end of the WAL an older one counts where
# the newest leads nowhere yet.
choose_base() {
  local one bases=() oldest=""
  declare -gA BASE_OF=()
  UNTIL=none
  list_sizes "$WAL/base_" || could_not_be_read
  read_sizes
  mapfile -t bases < <(printf '%s\n' "${!SIZES[@]}" | grep -E '/base_[0-9]{8}T[0-9]{6}Z\.json$' | sort -r)
  for one in "${bases[@]}"; do
    oldest=${one##*/base_} oldest=${oldest%.json}
    [[ -z $TARGET || ! $oldest > $TARGET ]] || continue
    read_base "$one" || {
      log WARNING "an earlier base backup is used"
      BASE_OF=()
      continue
    }
    [[ -z $TARGET || ! ${BASE_OF[finished]} > $TARGET ]] || continue
    choose_segments
    ! leads_there || return 0
    [[ -z $TARGET ]] || break
    log WARNING "no WAL leads on from base backup ${one##*/} yet, an earlier one is used"
  done
  [[ -n $oldest ]] || die "$NO_SET" "s3://$S3_BUCKET/$WAL/ has no base backup" "is backup.pitr on? 'inv backup.verify'"
  [[ -n ${BASE_OF[finished]-} && (-z $TARGET || ! ${BASE_OF[finished]} > $TARGET) ]] ||
    die "$OUT_OF_REACH" "$(said_time "$TARGET") is before the first base backup, which began at $(said_time "$oldest")" \
      "use a set: 'inv backup.list' shows them"
  [[ $UNTIL != none && ! $UNTIL < ${BASE_OF[finished]} ]] || UNTIL=${BASE_OF[finished]}
  die "$OUT_OF_REACH" "$(said_time "${TARGET:-$STAMP}") is out of reach: from this base backup you can restore to any second between $(said_time "${BASE_OF[finished]}") and $(said_time "$UNTIL")" \
    "choose a time in between, or wait until the next upload; a gap begins a new chain: 'inv backup.verify'"
}

# Whether the segments lead from the base backup to the target. It is no state of its own before all the
# WAL is there that was written while it was made.
leads_there() { [[ $UNTIL != none && ! $UNTIL < ${BASE_OF[finished]} && (-z $TARGET || ! $UNTIL < $TARGET) ]]; }

# Sets BASE_OF, what the manifest $1 of a base backup says, and CHAIN, the keys that it is combined from,
# the full one first, each with its SHA-256 after it, CHAIN_BYTES, how large they are, and UNPACKED, how
# large when they are unpacked. Returns 1 if one of them is not in the bucket as it was uploaded; SIZES has the sizes of all.
read_base() {
  local parent
  read_base_manifest "$1" || return
  local -A last=()
  for parent in "${!BASE_OF[@]}"; do last[$parent]=${BASE_OF[$parent]}; done
  CHAIN=() CHAIN_BYTES=0 UNPACKED=0
  while true; do
    CHAIN=("${BASE_OF[key]}" "${BASE_OF[sha256]}" "${CHAIN[@]}")
    UNPACKED=$((UNPACKED + (BASE_OF[unpacked] > 0 ? BASE_OF[unpacked] : BASE_OF[size])))
    CHAIN_BYTES=$((CHAIN_BYTES + BASE_OF[bytes]))
    parent=${BASE_OF[parent]}
    [[ -n $parent ]] || break
    # Each parent is older: so this ends.
    [[ $parent =~ ^[0-9]{8}T[0-9]{6}Z$ && $WAL/base_$parent < ${BASE_OF[key]%.tar.gz*} ]] || {
      log WARNING "base backup ${BASE_OF[key]} names '$parent' as its parent, which cannot be"
      return 1
    }
    read_base_manifest "$WAL/base_$parent.json" || return
  done
  for parent in "${!last[@]}"; do BASE_OF[$parent]=${last[$parent]}; done
}

read_base_manifest() {
  local key value
  [[ -n ${SIZES[$1]-} ]] || {
    log WARNING "base backup $1 is not in the bucket"
    return 1
  }
  get "$1"
  ask_json "$DIR/${1##*/}.partial" "$READ_BASE" || {
    tell psql "$ERRORS"
    log WARNING "base backup $1 cannot be read"
    return 1
  }
  declare -gA BASE_OF=()
  while IFS=$'\t' read -r key value; do BASE_OF[$key]=$value; done <"$DIR/said.partial"
  # An incremental one is of a format of its own: alone it is no cluster.
  [[ ${BASE_OF[key]-} =~ ^(.*)\.tar\.gz((\.[0-9a-f]{8})?\.age)?$ && ${BASH_REMATCH[1]} == "${1%.json}" ]] || {
    log WARNING "base backup $1 is the manifest of another one"
    return 1
  }
  [[ ${BASE_OF[format]} == "$([[ -z ${BASE_OF[parent]} ]] && echo 1 || echo 2)" &&
    ${SIZES[${BASE_OF[key]}]-none} == "${BASE_OF[bytes]}" ]] || {
    log WARNING "base backup ${BASE_OF[key]} is not complete in the bucket"
    return 1
  }
}

readonly READ_BASE="
SELECT name || E'\\t' || translate(coalesce(value, ''), E'\\n\\t', '  ') FROM manifest, LATERAL (
  VALUES ('format', m ->> 'format'), ('parent', m ->> 'parent'), ('project', m #>> '{project,id}'), ('key', m ->> 'key'),
    ('bytes', (m ->> 'bytes')::bigint::text), ('sha256', m ->> 'sha256'), ('size', (m ->> 'size')::bigint::text),
    ('finished', m ->> 'finished'), ('segment', m ->> 'segment'), ('segment_bytes', (m ->> 'segment_bytes')::bigint::text),
    ('unpacked', coalesce((m ->> 'unpacked')::bigint, 0)::text),
    ('major', ((m ->> 'server_version_num')::int / 10000)::text),
    ('preload', replace(substring(m #>> '{settings,shared_preload_libraries}' FROM '^[A-Za-z0-9_., -]*\$'), ' ', '')))
  AS facts (name, value);
"

# As ask_manifest, with the JSON of file $1 and the SQL $2.
ask_json() {
  cp -- "$1" "$DIR/manifest.partial"
  ask_manifest <<<"$2"
}

# Sets SEGMENTS, the keys of the WAL from the base backup up to the target, UNTIL, how far that is, and
# WAL_BYTES, how large. A gap or an object that is not what was uploaded ends the way.
choose_segments() {
  local flaw
  SEGMENT_BYTES=${BASE_OF[segment_bytes]}
  aws_cli s3api list-objects-v2 --bucket "$S3_BUCKET" --prefix "$WAL/0" \
    --start-after "$WAL/${BASE_OF[segment]:0:16}/${BASE_OF[segment]}" \
    --query 'Contents[].[Key,Size,ETag]' --output text || could_not_be_read
  way_through "${BASE_OF[segment]}" "$TARGET" "$SEGMENT_BYTES" <"$ANSWER" >"$DIR/way.partial"
  { read -r UNTIL WAL_BYTES flaw; mapfile -t SEGMENTS; } <"$DIR/way.partial"
  [[ $flaw == complete ]] || log WARNING "the WAL in the bucket ends at $(said_time "$UNTIL"): $flaw"
}

# Given a listing on stdin (key, size, ETag), the first segment $1, the target time $2 ("" for the end) and
# the size of segments $3, prints "UNTIL BYTES REASON", then the keys of what leads there. UNTIL is the time up to
# which every commit is in them, "none" without any; BYTES is their size; REASON is why it ends, or "complete".
way_through() { sort | awk -F '\t' -v first="$1" -v target="$2" -v bytes="$3" -v kms="${SSE#AES256}" "$WAY_THROUGH"; }

# shellcheck disable=SC2016 # awk
readonly WAY_THROUGH='
function number(text,  i, n) {
  for (i = n = 0; i < length(text); i++) n = n * 16 + index("0123456789ABCDEF", substr(text, i + 1, 1)) - 1
  return n
}
function after(name,  log_, low) {
  log_ = number(substr(name, 9, 8)); low = number(substr(name, 17, 8)) + 1
  if (low >= 4294967296 / bytes) { log_++; low = 0 }
  return substr(name, 1, 8) sprintf("%08X%08X", log_, low)
}
# What looks like a number is compared as one, unless it is made a text: 24 digits are too many for that.
BEGIN { first = first ""; wanted = first; reached = "none"; reason = "complete" }
done { next }
{
  name = $1; sub(/.*\//, "", name)
  fields = split(name, part, /[_.]/)
  if (length(part[1]) != 24 || fields < 4 || fields > 6 || (fields > 4 && part[fields] != "age")) next
  segment = part[1] ""; md5 = part[3] ""; tag = $3 ""; gsub(/"/, "", tag)
  origin = fields == 6 ? part[5] "" : ""
  if (segment < first) next
  if (segment == last && md5 == before) next # uploaded twice, after a run that was cut off
  # Encrypted anew for others, and the former one is there still: the new one is meant.
  if (segment == last && (before_origin != "" && (before_origin == substr(md5, 1, 8) || before_origin == origin))) next
  if (segment == last && origin != "" && origin == substr(before, 1, 8)) {
    keys[n] = $1; size += $2 - added; added = $2; before = md5; before_origin = origin; next
  }
  done = 1
  if (segment == last) {
    # Nobody knows which of them belongs to the base backup.
    reason = "segment " last " is there twice: two servers archive as one cluster"
    reached = earlier; size -= added; n--
  }
  else if (enough) reason = "complete"
  else if (segment != wanted) reason = "segment " wanted " is missing"
  else if (length(tag) == 32 && tag != md5 && !kms) reason = $1 " is not what was uploaded: its MD5 is another"
  else {
    keys[++n] = $1; size += added = $2; last = segment; before = md5; before_origin = origin; wanted = after(segment)
    earlier = reached
    if (reached == "none" || part[2] "" > reached) reached = part[2] ""
    # One more is looked at: it may be this one again.
    enough = target != "" && reached > target
    done = 0
  }
}
END { printf "%s %.0f %s\n", reached, size, reason; for (i = 1; i <= n; i++) print keys[i] }'

# A time in names, as people write it.
said_time() { printf '%s-%s-%s %s:%s:%s UTC' "${1:0:4}" "${1:4:2}" "${1:6:2}" "${1:9:2}" "${1:11:2}" "${1:13:2}"; }

# ---- replaying ----------------------------------------------------------------------------------

# Downloads the base backup and the segments into a folder that the throwaway PostgreSQL sees.
fetch_chain() {
  local key log logs=() wanted=() root free need found name wrong="" i here
  need=$((CHAIN_BYTES + WAL_BYTES + BASE_OF[size] / 2))
  # Each is there twice while it is decrypted.
  [[ "${CHAIN[*]} ${SEGMENTS[*]}" != *.age* ]] || need=$((need + CHAIN_BYTES + WAL_BYTES))
  free=$(free_bytes)
  ((free > need)) || die "$NO_SPACE" "$DIR has $free bytes free; base backup, WAL and a dump need about $need" "make room there"
  # The throwaway server's files lie where Docker has volumes, as those of the live one do.
  root=$(volumes_root)
  here=$need
  need=$(replay_bytes "${BASE_OF[size]}" "$UNPACKED" "$((${#CHAIN[@]} / 2))")
  # On one disk there must be room for both.
  [[ $(stat -c %d -- "$root" 2>/dev/null) != "$(stat -c %d -- "$DIR")" ]] || need=$((need + here))
  free=$(df --output=avail -B1 -- "$root" 2>/dev/null | tail -n 1) || free=0
  ((free > need)) || die "$NO_SPACE" "$root has $free bytes free; what is replayed needs about $need there" "make room there"
  REPLAY=$(replay_folder)
  mkdir -p -- "$REPLAY/wal"
  for ((i = 0; i < ${#CHAIN[@]}; i += 2)); do
    key=${CHAIN[i]} name=$REPLAY/${CHAIN[i]##*/}
    phase downloading "${SIZES[$key]}" "$name"
    bucket s3 cp --only-show-errors "s3://$S3_BUCKET/$key" "$name"
    found=$(sum_of "$name")
    [[ $found == "${CHAIN[i + 1]}" ]] || blame "$BAD_SET" "$key is damaged: its SHA-256 is $found, its manifest says ${CHAIN[i + 1]}" \
      "choose a time before it began, or restore a set: 'inv backup.list'"
    decrypt_in_place "$name" "$key"
    [[ $key != *.tar.gz.*.age ]] || mv -- "${name%.age}" "${name%.tar.gz.*}.tar.gz"
    phase downloading
  done
  mapfile -t logs < <(printf '%s\n' "${SEGMENTS[@]%/*}" | uniq)
  for log in "${logs[@]}"; do
    wanted=()
    for key in "${SEGMENTS[@]}"; do [[ $key != "$log/"* ]] || wanted+=(--include "${key##*/}"); done
    bucket s3 cp --recursive --only-show-errors "s3://$S3_BUCKET/$log/" "$REPLAY/${log##*/}" --exclude '*' "${wanted[@]}"
  done
  for key in "${SEGMENTS[@]}"; do
    name=${key##*/} log=${key%/*} found=""
    [[ ! -f $REPLAY/${log##*/}/$name ]] || found=$(md5sum <"$REPLAY/${log##*/}/$name")
    [[ -n $found && $name =~ _${found%% *}\.gz((\.[0-9a-f]{8})?\.age)?$ ]] || wrong=${wrong:-$key}
    [[ $name == *.age ]] && here=.age || here=""
    mv -- "$REPLAY/${log##*/}/$name" "$REPLAY/wal/${name%%_*}.gz$here"
  done
  [[ -z $wrong ]] || blame "$BAD_SET" "$wrong is damaged: its MD5 is not the one in its name" \
    "choose a time before it, or restore a set: 'inv backup.list'"
  decrypt_segments
  chmod -R a+rX -- "$REPLAY"
}

# Decrypts file $1, object $2, and removes what it was made of; nothing where it is not encrypted.
decrypt_in_place() {
  [[ $1 == *.age ]] || return 0
  decrypt "$1" "${1%.age}" || cannot_be_decrypted "$?" "$2"
  rm -f -- "$1"
}

# The same for the segments, on every core: each start of age takes some milliseconds.
decrypt_segments() {
  local files=("$REPLAY"/wal/*.age) lanes=() lane
  [[ -e ${files[0]} ]] || return 0
  phase decrypting
  for ((lane = 0; lane < JOBS; lane++)); do lanes+=("decrypt_lane $lane"); done
  side_by_side "${lanes[@]}" || {
    lane=$?
    # A drill tells what it was.
    ((lane != BAD_SET)) || REASON="a segment of the WAL cannot be decrypted"
    quit "$lane"
  }
}

decrypt_lane() {
  local i
  for ((i = $1; i < ${#files[@]}; i += JOBS)); do
    decrypt_in_place "${files[i]}" "the WAL, segment ${files[i]##*/},"
  done
}

# Starts a throwaway PostgreSQL from the base backup, and has it replay until the target.
# Sets THROWAWAY. There it is promoted: paused, it would hold the locks of what was under way at the
# target, the lock of DROP TABLE for example, and a dump would wait for them for ever.
replay() {
  local target settings begun
  phase starting
  start_replay
  in_throwaway "$UNPACK" root "the base backup could not be unpacked"
  in_throwaway "$DECOMPRESS_AHEAD" postgres "the WAL could not be made ready"
  phase verifying
  in_throwaway "$VERIFY" postgres "a file of the base backup is not what PostgreSQL copied"
  in_throwaway "$COMBINE" postgres "the base backups could not be combined"
  printf -v settings '%s\n' "restore_command = 'sh /tmp/fetch %f \"%p\"'" \
    "recovery_target_action = 'promote'" "recovery_target_timeline = 'current'"
  [[ -z $TARGET ]] || target="recovery_target_time = '$(said_time "$TARGET")'"
  [[ -z $MARK_POINT ]] || target="recovery_target_name = '$MARK_POINT'"
  phase replaying
  begun=$(date +%s%N)
  in_throwaway "$START" postgres "the WAL could not be replayed up to the target" "$settings${target-}" "${BASE_OF[preload]}" "${TARGET:+stopped}"
  begun=$((($(date +%s%N) - begun) / 100000000))
  log INFO "replayed segments=${#SEGMENTS[@]} seconds=$((begun / 10)).$((begun % 10))"
}

# Runs the script $1 where the throwaway server is, as user $2; the words after $3, what failed, are its own.
in_throwaway() {
  local script=$1 user=$2 failed=$3
  shift 3
  run_as "$user"
  start "${RUN_AS[@]}" sh -c "replay=$REPLAY_INSIDE;$FOLDERS$script" sh "$@" >"$DIR/said.partial" 2>"$ERRORS" </dev/null
  finish "$STARTED"
  ((STATUS == 0)) && return
  tail -n 5 -- "$DIR/said.partial" >>"$ERRORS"
  tell replay "$ERRORS"
  ! grep -q "No space left on device" "$ERRORS" || die "$NO_SPACE" "the disk filled up ($failed)" "make room where Docker has its volumes"
  ! out_of_memory "$THROWAWAY" 0 || die "$NO_DATABASE" "PostgreSQL ran out of memory ($failed)" "$MORE_MEMORY, then run it again"
  blame "$BAD_SET" "$failed" "see the lines above; choose another time, or restore a set: 'inv backup.list'"
}

# What sh does in there. The image's own volume is where there is room.
# shellcheck disable=SC2016 # expanded in the container
readonly FOLDERS='
set -e; umask 077
data=/var/lib/postgresql; [ ! -d $data/data ] || data=$data/data
data=$data/replay log=/tmp/replay.log parts=$data.parts ahead=$data.wal
'
# shellcheck disable=SC2016 # expanded in the container
readonly UNPACK='
mkdir $parts
for tar in $replay/base_*.tar.gz; do
  part=$parts/$(basename $tar .tar.gz)
  mkdir $part && gzip -dc $tar | tar -x -C $part && chmod 700 $part
done
chown -R postgres $parts'
# PostgreSQL asks for one segment after the other, and waits for each: so those that come next are
# decompressed meanwhile, two at a time and ten at most.
# shellcheck disable=SC2016 # expanded in the container
readonly DECOMPRESS_AHEAD='
mkdir $ahead
cat >/tmp/fetch <<END
[ -f $replay/wal/\$1.gz ] || exit 1
echo "\$1" >/tmp/asked
tries=0
while [ -f "$ahead/.\$1" ] && [ \$tries -lt 500 ]; do sleep 0.02; tries=\$((tries + 1)); done
mv "$ahead/\$1" "\$2" 2>/dev/null || gzip -dc "$replay/wal/\$1.gz" >"\$2"
END
: >/tmp/asked
decompress_ahead() {
  local turn=$1 n=0 file name asked
  for file in $replay/wal/*.gz; do
    n=$((n + 1)) name=${file##*/} name=${name%.gz}
    [ $((n % 2)) = $turn ] || continue
    while set -- $ahead/* && [ $# -ge 10 ]; do sleep 0.05; done
    read -r asked </tmp/asked || true
    [ "$name" \> "$asked" ] || continue
    nice gzip -dc $file >$ahead/.$name && mv $ahead/.$name $ahead/$name || rm -f $ahead/.$name
  done
}
decompress_ahead 0 >/dev/null 2>&1 &
decompress_ahead 1 >/dev/null 2>&1 &'
# Every file is compared with the list that PostgreSQL has made of them.
# shellcheck disable=SC2016 # expanded in the container
readonly VERIFY='for part in $parts/*; do pg_verifybackup --no-parse-wal --quiet $part; done'
# Their names are their times: the full one comes first.
# shellcheck disable=SC2016 # expanded in the container
readonly COMBINE='
if [ $(ls $parts | wc -l) = 1 ]; then
  mv $parts/* $data
else
  # The server syncs nothing here either.
  pg_combinebackup --no-sync --manifest-checksums=NONE -o $data $parts/*
fi
rm -rf $parts'
# Its own settings stay, but nobody else is let in, nothing is sent anywhere, it need not survive a
# crash, and nobody reads it before it has ended to replay: so it may allow less than the live one.
# $3: whether it must have stopped at a target; else it has come to the end of the WAL.
# shellcheck disable=SC2016 # expanded in the container
readonly START='
printf "%s\n" "$1" >>$data/postgresql.auto.conf
echo "local all all trust" >$data/replay_hba.conf
touch $data/recovery.signal
code=0
pg_ctl -D $data -w -t 86400 -l $log -o "-c hba_file=$data/replay_hba.conf -c lc_messages=C -c listen_addresses= -c hot_standby=off \
  -c unix_socket_directories=/var/run/postgresql -c fsync=off -c full_page_writes=off -c ssl=off -c log_min_messages=log \
  -c shared_buffers=128MB -c huge_pages=off -c logging_collector=off -c log_destination=stderr -c archive_mode=off -c autovacuum=off -c shared_preload_libraries=$2" \
  start || code=$?
# pg_ctl does not wait for the end of a replay that nobody can read from. Asking the server ten times a
# second would cost a fifth of a core.
read -r server <$data/postmaster.pid || code=1
while [ $code = 0 ] && ! grep -q "ready to accept connections" $log; do
  kill -0 $server 2>/dev/null || code=1
  sleep 0.1
done
if [ $code = 0 ] && [ -n "$3" ] && ! grep -q "recovery stopping" $log; then code=1; fi
[ $code = 0 ] || grep -E "FATAL|PANIC|ERROR" $log | tail -n 3 >&2
exit $code'

# Whether the replay came as far as the WAL in the bucket reaches. Without a target PostgreSQL takes the
# first record that it cannot read for the end; each heartbeat is a commit after the time that it tells.
check_end() {
  [[ -z $TARGET && $UNTIL != 1970* ]] || return 0
  asked postgres "PostgreSQL does not say how far it has replayed" \
    <<<"SELECT coalesce(pg_last_xact_replay_timestamp() >= '$(said_time "$UNTIL")', false)"
  [[ $SAID == t ]] || blame "$BAD_SET" "the replay ended before $(said_time "$UNTIL"), up to which there is WAL: a segment cannot be read" \
    "choose an earlier time (--at), or restore a set: 'inv backup.list'"
}

# Whether the database was there then. DROP DATABASE removes its files before it commits, and a replay
# stops at commits only: before the target there must be one that was made before the drop began.
check_database() {
  local earlier
  asked postgres "PostgreSQL does not say which databases there were" \
    <<<"SELECT (SELECT datconnlimit FROM pg_database WHERE datname = '$DATABASE')"
  case ${SAID:-none} in
    none) die "$NO_SET" "database $DATABASE did not exist at $(said_time "${TARGET:-$UNTIL}")" "choose another time" ;;
    -2)
      earlier=$(printf '%s\n' "${SEGMENTS[@]##*/}" | cut -d _ -f 2 | awk -v target="$TARGET" '$0 "" <= target "" && $0 "" > found "" { found = $0 } END { print found }')
      die "$OUT_OF_REACH" "database $DATABASE was being dropped at $(said_time "$TARGET"), and its files were gone already" \
        "choose a time a little earlier: --at '$(said_time "${earlier:-${BASE_OF[finished]}}" | cut -c 1-19)'"
      ;;
  esac
}

# ---- a set of what was then ---------------------------------------------------------------------

# Makes a set of DATABASE as it was at the point, in $DIR/point.partial.*, and sets MANIFEST, as
# choose_set does.
make_point() {
  local live=$CONTAINER base=$DIR/point.partial
  choose_point
  log INFO "replaying base=${BASE_OF[key]##*/} segments=${#SEGMENTS[@]} until=$(said_time "${TARGET:-$UNTIL}")"
  asked postgres "PostgreSQL does not say its version" <<<"SELECT current_setting('server_version_num')::int / 10000"
  [[ $SAID == "${BASE_OF[major]}" ]] || die "$OLD_SERVER" "the base backup is of PostgreSQL ${BASE_OF[major]}, this server is $SAID" \
    "a point in time is reached with its own major version only; use a set"
  fetch_chain
  replay
  CONTAINER=$THROWAWAY
  check_end
  check_database
  phase dumping
  PG_DB=$DATABASE EXPECTED=$CLUSTER COUNT_ROWS=yes
  choose_compression
  open_session
  make_pipe
  dump "$base.dump.gz.partial"
  close_session
  dump_globals "$base.globals.sql.gz.partial"
  DUMP_SUM=$(sum_of "$base.dump.gz.partial")
  GLOBALS_SUM=$(sum_of "$base.globals.sql.gz.partial")
  write_manifest "$base"
  CONTAINER=$live PG_DB=postgres
  remove_containers
  THROWAWAY=""
  rm -rf -- "$REPLAY"
  SET=${TARGET:-$UNTIL}
  load_manifest "$base.manifest.json.partial"
}

# ---- a drill ------------------------------------------------------------------------------------

# Replays to the point, counts the rows of DATABASE there, and writes the outcome beside the WAL.
drill_point() {
  choose_point
  asked postgres "PostgreSQL does not say its version" <<<"SELECT current_setting('server_version')"
  SERVER=$SAID
  log INFO "replaying base=${BASE_OF[key]##*/} segments=${#SEGMENTS[@]} until=$(said_time "${TARGET:-$UNTIL}")"
  fetch_chain
  replay
  CONTAINER=$THROWAWAY
  check_end
  exists "$DATABASE" || blame "$BAD_SET" "database $DATABASE is not in what was replayed" "inv backup.verify; is it the right cluster?"
  count_rows "$DATABASE"
  write_outcome ok "" || quit $?
  succeeded rows="$ROWS" size_bytes="${BASE_OF[size]}"
  log INFO "drill complete at=$(said_time "${TARGET:-$UNTIL}") database=$DATABASE tables=$TABLES rows=$ROWS seconds=$SECONDS"
}

# Only what was replayed to the end says that the chain is good up to now.
write_replay_outcome() {
  [[ $POINT == end ]] || { REASON="" && return; }
  local file=$DIR/outcome.json.partial reason=${2//\\/\\\\}
  reason=${reason//[[:cntrl:]]/ }
  cat >"$file" <<END
{"format": 1, "set": "$(basename "${BASE_OF[key]-none}" | sed 's/\.tar\.gz.*//')", "until": "${TARGET:-${UNTIL-}}", "outcome": "$1", "reason": "${reason//\"/\\\"}",
"finished": "$(date -u +%Y-%m-%dT%H:%M:%SZ)", "project": $(project_json),
"seconds": $SECONDS, "tables": ${TABLES:-0}, "rows": ${ROWS:-0}, "segments": ${#SEGMENTS[@]},
"server_version": "${SERVER//[\"\\]/}", "node": "$(uname -n)"}
END
  REASON=""
  send "$file" "$WAL/drill.json" "$(sum_of "$file")"
}
