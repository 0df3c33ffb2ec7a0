"""What backup.verify --deep does on top: every part of the newest set through gzip and SHA-256,
and its dump through pg_restore too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.terminal.command import sudo_password
from fabfile.terminal.progress_bar import progress_bar

if TYPE_CHECKING:
    from invoke.context import Context

    from fabfile.backup.bucket import Bucket
    from fabfile.backup.deep_read import Decrypt, Sink
    from fabfile.backup.sets import BackupSet
    from fabfile.base.check import Check
    from fabfile.config.inventory import Inventory
    from fabfile.ssh.fleet import Fleet


def read_deep(
    ctx: Context, inventory: Inventory, bucket: Bucket, one: BackupSet
) -> tuple[BackupSet, list[Check]]:
    """Read every part of a set that its manifest records once, completely. Return the set with
    the outcome, if that could be kept as proof, and what the reading has shown.

    pg_restore runs on this machine if it has one that is new enough, else in the
    database's container, over SSH.
    Raises UnreachableError if the bucket fails while its object is read.
    """
    from time import monotonic

    from fabfile.backup import pg_restore_read
    from fabfile.backup.deep_read import Reading, inspect, inspect_encrypted, inspect_other
    from fabfile.ssh.fleet import connect

    if one.manifest is None or "dump" not in one.parts:
        return one, []
    started = monotonic()
    dump = one.parts["dump"]
    with ExitStack() as stack:

        def choose(head: bytes) -> Sink:
            if pg_restore_read.can_read_here(head):
                return pg_restore_read.read_here
            password = sudo_password(ctx)
            fleet = stack.enter_context(connect(inventory, sudo_password=password))
            return _sink_on_hosts(fleet, inventory)

        decrypt, readable = _decryption(bucket, one)
        show = stack.enter_context(progress_bar())
        on_bytes: Callable[[int], None] = lambda count: show("reading", count, dump.size)  # noqa: E731
        reading = Reading(bucket.read(dump), on_bytes, decrypt)
        recorded = one.manifest.parts["dump"]
        if readable:
            checks = inspect(recorded, reading, choose)
        else:
            checks = inspect_encrypted(recorded, reading, one.recipients)
        checks += [
            inspect_other(
                name,
                recorded,
                Reading(bucket.read(one.parts[name]), decrypt=decrypt),
                encrypted=not readable,
            )
            for name, recorded in one.manifest.parts.items()
            if name != "dump" and name in one.parts
        ]
    return _keep(bucket, one, checks, monotonic() - started), checks


def _decryption(bucket: Bucket, one: BackupSet) -> tuple[Decrypt | None, bool]:
    """What decrypts the parts of a set (None where nothing does), and whether they can be read."""
    from fabfile.base.age_encryption import decrypted

    identity = bucket.identity
    if not one.recipients:
        return None, True
    if identity is None or not identity.reads(one.recipients):
        return None, False
    return lambda blocks: decrypted(blocks, identity.private.reveal()), True


def _keep(bucket: Bucket, one: BackupSet, checks: list[Check], seconds: float) -> BackupSet:
    """Write the outcome next to the set, where this person may write there."""
    from fabfile.backup.deep_read import NOT_CHECKED
    from fabfile.backup.set_parsing import outcome

    wrong = [check for check in checks if not check.ok]
    failed = [check for check in wrong if not check.detail.startswith(NOT_CHECKED)]
    if wrong and not failed:
        return one
    reason = "; ".join(f"{check.name}: {check.detail}" for check in failed)
    try:
        return bucket.record(one, "deep", outcome(one.stamp, reason, seconds))
    except UnreachableError as error:
        print(f"not kept as proof: {error.message}", file=sys.stderr)
        return one


def _sink_on_hosts(fleet: Fleet, inventory: Inventory) -> Sink:
    """The sink in the first container of the database that is found, or one that says why not."""
    from fabfile.backup import pg_restore_read
    from fabfile.backup.deep_read import NOT_CHECKED, Verdict

    service = inventory.postgres.service
    reasons = ["this machine has no pg_restore that is new enough"]
    for entry in inventory.with_role("db"):
        try:
            host = fleet.host(entry)
            found = host.check(pg_restore_read.find_container(service), "looking for the database")
        except SwarmkeepError as error:
            reasons.append(error.message)
            continue
        container = found.stdout.strip()
        if container:
            return partial(pg_restore_read.read_on, host, container)
        reasons.append(f"{entry.name}: no container of {service} runs there")
    return lambda _reading: Verdict(
        False,
        f"{NOT_CHECKED}: {'; '.join(reasons)}",
        f"install PostgreSQL {inventory.postgres.major}'s client tools (pg_restore) on this "
        "machine, or make the db host reachable, then run again",
    )
