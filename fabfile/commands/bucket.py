"""inv bucket.*: the bucket's own settings, and who may do what in it."""

from __future__ import annotations

from invoke.context import Context

from fabfile.base.errors import CheckFailedError, ConfigError, SwarmkeepError
from fabfile.commands.backup import JSON_HELP
from fabfile.terminal.command import command, is_dry, read_inventory, show_error

OLD_DAYS = 30


@command(help={"json": JSON_HELP})
def check(_ctx: Context, hosts: str | None = None, json: bool = False) -> None:
    """Check the bucket's settings; changes nothing."""
    from fabfile.s3 import bucket_settings
    from fabfile.s3.connection import Connection
    from fabfile.terminal import tables

    backup = read_inventory(hosts).backup
    connection = Connection(backup)
    checks = bucket_settings.judge(bucket_settings.read(connection), backup)
    if json:
        print(tables.checks_json(checks, bucket=backup.bucket, requests=connection.requests))
    else:
        print(f"{connection.where}\n{tables.checks(checks)}")
    failed = [one for one in checks if not one.ok]
    if failed:
        names = ", ".join(one.name for one in failed)
        raise CheckFailedError(
            f"{connection.where} failed {len(failed)} of {len(checks)} checks: {names}",
            hint=failed[0].hint,
        )


@command(
    help={
        "yes": "set it; without it nothing is changed",
        "old-versions": f"days after which deleted backups are gone for good (default {OLD_DAYS})",
    }
)
def setup(
    ctx: Context, hosts: str | None = None, yes: bool = False, old_versions: int = OLD_DAYS
) -> None:
    """Create the bucket, set what is missing (--yes)."""
    from fabfile.s3 import bucket_settings, bucket_setup
    from fabfile.s3.connection import Connection

    if old_versions < 1:
        raise ConfigError(f"--old-versions {old_versions}: must be a number of days, 1 or more")
    backup = read_inventory(hosts).backup
    connection = Connection(backup)
    settings = bucket_settings.read(connection)
    changes = bucket_setup.changes(settings, backup, old_versions)
    possible = [one for one in changes if bucket_setup.can(one, settings)]
    for one in changes:
        if one not in possible:
            print(f"skipped, this store does not support it: {one.said}")
    if not possible:
        print(f"{connection.where}: nothing to change")
        return
    if not yes or is_dry(ctx):
        print("\n".join(one.said for one in possible))
        print("nothing was changed: inv bucket.setup --yes does this")
        return
    errors = []
    for one in possible:
        # A store may refuse one setting and take the next.
        try:
            bucket_setup.apply(connection, one, backup, old_versions)
        except SwarmkeepError as error:
            errors.append(error)
        else:
            print(one.said, flush=True)
    if not errors:
        print(f"{connection.where}: set; next: inv bucket.check bucket.policies")
        return
    for earlier in errors[:-1]:
        show_error(earlier)
    raise errors[-1]


@command(help={"party": "node, operator, pruner or owner (default: all)"})
def policies(_ctx: Context, hosts: str | None = None, party: str = "") -> None:
    """Print the least-privilege policies, as JSON."""
    from fabfile.s3 import policies as bucket_policies
    from fabfile.terminal.tables import to_json

    if party and party not in bucket_policies.PARTIES:
        raise ConfigError(f"--party {party}: want one of {', '.join(bucket_policies.PARTIES)}")
    backup = read_inventory(hosts).backup
    found = bucket_policies.policies(backup.bucket, backup.region, backup.kms_key_id, backup.prefix)
    print(to_json(found[party] if party else found))
