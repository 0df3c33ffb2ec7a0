#!/bin/bash
# shellcheck disable=SC2034,SC2153 # used by those that source this, set by those before it
# The part of wal-pg.sh that makes base backups: a copy of the whole cluster, from which the WAL leads on.
# Sourced, never run.
#
# An incremental one (PostgreSQL 17 and newer) holds only the blocks that have changed since the one
# before it, its parent; a restore combines them from the full one on.

readonly MOST_INCREMENTAL=6 # after a full one: a week, of which each restore reads all; together at most half of it

make_base() {
  local base=$DIR/base_$STAMP tar=$DIR/base_$STAMP.tar.gz.partial
  find_container
  ping_start
  look
  ((TABLESPACES == 0)) || die "$HAS_TABLESPACES" "this PostgreSQL has $TABLESPACES tablespaces of its own, which a base backup does not hold" \
    "move what is in them to pg_default, or go without point-in-time recovery (backup.pitr: false)"
  [[ $SLOT_STATE != none ]] || die "$NO_RECEIVER" "no WAL is archived yet" "the next 'wal-pg.sh archive' begins that, and then makes a base backup"
  check_room
  choose_parent
  if ! copy_cluster "$tar"; then
    [[ -n $PARENT ]] || die "$DUMP_FAILED" "the base backup failed (exit codes: pg_basebackup $THERE, $COMPRESSOR $HERE) and is removed" \
      "see the lines above and 'docker logs $CONTAINER'"
    log WARNING "an incremental base backup failed, a full one is made"
    PARENT="" CHAIN=""
    copy_cluster "$tar" || die "$DUMP_FAILED" "the base backup failed (exit codes: pg_basebackup $THERE, $COMPRESSOR $HERE) and is removed" \
      "see the lines above and 'docker logs $CONTAINER'"
  fi
  read_back "$tar"
  [[ -z $AGE ]] || {
    encrypt "$tar" "${tar%.partial}$AGE.partial" || quit "$DUMP_FAILED"
    tar=${tar%.partial}$AGE.partial
  }
  SUM=$(sum_of "$tar")
  write_base_manifest "$base.json.partial" "$(stat -c %s -- "$tar")"
  send "$tar" "$PREFIX/base_$STAMP.tar.gz$AGE" "$SUM" || quit $?
  send "$base.json.partial" "$PREFIX/base_$STAMP.json" "$(sum_of "$base.json.partial")" || quit $?
  BASE_OF=$CLUSTER SUMS=$CHECKSUMS CHAIN="${CHAIN:+$CHAIN }$STAMP:$(stat -c %s -- "$tar")"
  [[ -n $PARENT ]] || BASE_BYTES=$(stat -c %s -- "$tar") UNPACKED=0
  UNPACKED=$((UNPACKED + FILES_BYTES))
  # Its own name: a run that ends in between leaves no manifest that belongs to another base backup.
  rm -f -- "$WAL_DIR"/newest-base.*.manifest
  sync -- "$DIR/read.partial/backup_manifest"
  mv -- "$DIR/read.partial/backup_manifest" "$WAL_DIR/newest-base.$STAMP.manifest"
  keep_in "$WAL_DIR/newest-base" BASE BASE_OF BASE_BYTES CHAIN UNPACKED SUMS
  rm -f -- "$WAL_DIR/base.tried"
  succeeded size_bytes="$(stat -c %s -- "$tar")"
  log INFO "base backup complete bytes=$(stat -c %s -- "$tar") seconds=$SECONDS begins_in=$BASE key=$PREFIX/base_$STAMP.json${PARENT:+ parent=$PARENT}"
}

# Sets PARENT, the base backup that this one only adds to, or "" for a full one; and CHAIN, what it is
# combined from, as "TIME:BYTES TIME:BYTES", the full one first. All of that must be in the bucket: one
# that is not there, or not whole, would make every later one useless.
choose_parent() {
  local one there newest added=0 parents=()
  PARENT=""
  read -r -a parents <<<"$CHAIN"
  CHAIN=""
  [[ -z $FULL ]] && ((INCREMENTAL_FROM > 0 && SIZE >= INCREMENTAL_FROM && MAJOR >= 17)) || return 0
  if [[ $SUMMARIES == off ]]; then
    # From now on PostgreSQL notes which blocks change: the next one can be incremental.
    ask_server <<<"ALTER SYSTEM SET summarize_wal = on; SELECT pg_reload_conf()"
    printf '%s' "$CLUSTER" >"$WAL_DIR/summarize-wal"
    log INFO "PostgreSQL notes from now on which blocks change (summarize_wal): the next base backup can be incremental"
    return
  fi
  ((${#parents[@]} > 0 && ${#parents[@]} <= MOST_INCREMENTAL)) || return 0
  newest=${parents[-1]%:*}
  # One that seems older than what it adds to would be taken for a part of nothing.
  [[ $BASE_OF == "$CLUSTER" && ! $BASE < $FIRST && $STAMP > $newest && $SUMS == "$CHECKSUMS" &&
    -f $WAL_DIR/newest-base.$newest.manifest && ! -L $WAL_DIR/newest-base.$newest.manifest ]] || return 0
  for one in "${parents[@]:1}"; do added=$((added + ${one#*:})); done
  ((added <= BASE_BYTES / 2)) || return 0
  list_sizes "$PREFIX/base_" || {
    bucket_failed "s3://$S3_BUCKET/$PREFIX/ could not be listed"
    quit "$UPLOAD_FAILED"
  }
  read_sizes
  for one in "${parents[@]}"; do
    there=$PREFIX/base_${one%:*}
    [[ ${SIZES[$there.tar.gz]-${SIZES[$there.tar.gz.age]-}} == "${one#*:}" && -n ${SIZES[$there.json]-} ]] || {
      log WARNING "base backup $there.tar.gz is not in the bucket as it was uploaded: a full one is made; next: find out who changed it"
      return 0
    }
  done
  CHAIN=${parents[*]} PARENT=$newest
}

# An estimate: the last one and a fifth; without one half of what all databases take.
check_room() {
  local free need
  ask_server <<<"SELECT sum(pg_database_size(oid))::bigint FROM pg_database"
  [[ $SAID =~ ^[0-9]+$ ]] || die "$NO_DATABASE" "PostgreSQL says '$SAID'" "report it"
  SIZE=$SAID need=$((SAID / 2))
  [[ -z $BASE_BYTES ]] || need=$((BASE_BYTES * 12 / 10))
  [[ -z $AGE ]] || need=$((need * 2))
  free=$(free_bytes)
  ((free >= need)) || die "$NO_SPACE" "$DIR has $free bytes free, a base backup needs about $need" "make room there"
}

# Returns 1 if it failed, with the reason logged.
copy_cluster() {
  local compressor since=() manifest=/dev/null
  [[ -z $PARENT ]] || since=(--incremental=/dev/stdin) manifest=$WAL_DIR/newest-base.$PARENT.manifest
  PIPES=wal-pg make_pipe
  open_pipe
  start "${COMPRESS[@]}" <&7 8>&- >"$1" 2>"$DIR/gz.partial"
  compressor=$STARTED
  # Without WAL: what makes it whole goes to the bucket as all WAL does. PostgreSQL keeps it for the slot
  # only until it is in the spool, so there may be none left to fetch at the end.
  [[ -z $PARENT ]] || with_stdin
  start "${ENTER[@]}" pg_basebackup -D - -F t -X none -c fast --manifest-checksums=SHA256 -l swarmkeep -w \
    "${since[@]}" >&8 7<&- 2>"$ERRORS" <"$manifest"
  close_pipe "$STARTED" "$compressor" && return
  (($(free_bytes) >= 1048576)) ||
    die "$DISK_FULL" "the disk of $DIR filled up, the unfinished base backup is removed" "make room there"
  tell "$COMPRESSOR" "$DIR/gz.partial"
  tell pg_basebackup "$ERRORS"
  return 1
}

# Reads it to its end, where PostgreSQL's own list of all files is, and sets what a restore must know:
# BASE, the segment that it begins in, FROM_LSN, TO_LSN, TIMELINE, and FILES_BYTES, its files together. Each file's SHA-256 is compared by
# pg_verifybackup when it is restored, in a drill for example.
read_back() {
  local ranges read=$DIR/read.partial
  rm -rf -- "$read"
  mkdir -- "$read"
  { "${DECOMPRESS[@]}" <"$1" 2>"$DIR/gz.partial" | tar -x -C "$read" backup_label backup_manifest 2>"$ERRORS"; } || {
    tell "${DECOMPRESS[0]}" "$DIR/gz.partial"
    tell tar "$ERRORS"
    die "$BAD_DUMP" "the base backup cannot be read back, and is removed" "see the lines above, and this node's disk and memory"
  }
  # They come from the container: a link would lead to a file of this host.
  [[ -f $read/backup_label && ! -L $read/backup_label && -f $read/backup_manifest && ! -L $read/backup_manifest ]] ||
    die "$BAD_DUMP" "the base backup's label or its list of files is no file" "find out who changes files in the container"
  FILES_BYTES=$(grep -oE '"Size": [0-9]+' "$read/backup_manifest" | awk '{ sum += $2 } END { printf "%.0f", sum }')
  BASE=$(sed -nE 's/^START WAL LOCATION: .* \(file ([0-9A-F]{24})\)$/\1/p' "$read/backup_label")
  ranges=$(tr -d ' \n' <"$read/backup_manifest" | grep -oE '"WAL-Ranges":\[[^]]*\]')
  [[ -n $BASE && $ranges =~ \"Timeline\":([0-9]+),\"Start-LSN\":\"([0-9A-F/]+)\",\"End-LSN\":\"([0-9A-F/]+)\" ]] ||
    die "$BAD_DUMP" "the base backup lacks its label or its list of files" "report it, with the version of PostgreSQL"
  TIMELINE=${BASH_REMATCH[1]} FROM_LSN=${BASH_REMATCH[2]} TO_LSN=${BASH_REMATCH[3]}
}

# A standby must allow at least as much as the server whose WAL it reads.
write_base_manifest() {
  local finished image
  # The next whole second: until then the copy is no place to stop at.
  finished=$(date -u -d '+1 second' +%Y%m%dT%H%M%SZ)
  image=$(image_name)
  ask_server <<'END'
SELECT json_build_object('server_version', current_setting('server_version'),
  'server_version_num', current_setting('server_version_num')::int,
  'databases', (SELECT json_agg(datname) FROM pg_database WHERE NOT datistemplate),
  'settings', (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name IN ('max_connections',
    'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction',
    'shared_preload_libraries', 'wal_segment_size')));
END
  cat >"$1" <<END
{"format": $([[ -z $PARENT ]] && echo 1 || echo 2), "parent": $(quoted "$PARENT"), "tool": "wal-pg.sh $VERSION", "cluster": "$CLUSTER", "node": $(quoted "$NODE"),
"project": $(project_json),$(recipients_json)
"started": "$STAMP", "finished": "$finished", "seconds": $SECONDS,
"key": "$PREFIX/base_$STAMP.tar.gz$AGE", "bytes": $2, "sha256": "$SUM", "size": $SIZE, "unpacked": $FILES_BYTES,
"timeline": $TIMELINE, "segment": "$BASE", "from_lsn": "$FROM_LSN", "to_lsn": "$TO_LSN", "segment_bytes": $SEGMENT_BYTES,
"image": $(quoted "$image"),
${SAID:1:-1}}
END
}
