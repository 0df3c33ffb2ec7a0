"""The section `backup` of hosts.yaml, and the bucket's keys of the top level."""

from __future__ import annotations

from fabfile.base.schema import Section
from fabfile.base.units import check_cron
from fabfile.config.backup import PING_SERVICES, Backup, Retention
from fabfile.config.hosts_file_keys import IMAGE, NAME, URL

_BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_ZONE = r"[A-Za-z][A-Za-z0-9_+/-]{0,63}"
_REGION = r"[a-z][a-z0-9-]{0,62}"
# It is pruned by root's script: a folder of its own, nothing relative, nothing to quote.
_DIRECTORY = r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+"
_KMS_KEY = r"[A-Za-z0-9][A-Za-z0-9:/_-]{0,255}"
_COMPRESSION = r"auto|(gzip|pigz)-[1-9]|igzip-[0-3]|libdeflate-([1-9]|1[0-2])"


def read_backup(
    section: Section, top: Section, stacks: Section, images: Section, project: str
) -> Backup:
    """The section `backup`, and the bucket's keys of the top level."""
    endpoint = section.text("endpoint_url", "", pattern=URL, want="http(s)://host[:port]")
    backup = Backup(
        bucket=top.text("s3_bucket_name", pattern=_BUCKET, want="an S3 bucket name"),
        region=top.text("aws_region", "us-east-1", pattern=_REGION, want="an AWS region"),
        schedule=_read_schedule(section, "schedule", "15 2 * * *"),
        directory=section.text(
            "directory", "/var/backups/postgres", pattern=_DIRECTORY,
            want="an absolute path of letters, digits, _ . -",
        )
        + (f"-{project}" if project else ""),
        keep_local_days=section.integer("keep_local_days", 7, low=0, high=3650),
        compression=section.text(
            "compression", "auto", pattern=_COMPRESSION,
            want="auto, gzip-1..9, pigz-1..9, igzip-0..3 or libdeflate-1..12",
        ),
        max_age=section.duration("max_age", 26 * 3600, low=60),
        min_size=section.size("min_size", 10 * 1024),
        endpoint_url=endpoint,
        node_endpoint_url=section.text(
            "node_endpoint_url", endpoint, pattern=URL, want="http(s)://host[:port]"
        ),
        count_rows=section.flag("count_rows", True),
        files=section.flag("files", True),
        encryption=section.choice("encryption", "", ("", "AES256", "aws:kms")),
        kms_key_id=section.text("kms_key_id", "", pattern=_KMS_KEY, want="a KMS key's id or ARN"),
        drill_schedule=_read_schedule(section, "drill_schedule", ""),
        drill_with_app=section.flag("drill_with_app", False),
        drill_memory=section.size("drill_memory", 512 * 2**20, low=64 * 2**20),
        drill_cpus=section.integer("drill_cpus", 1, low=1, high=512),
        max_drill_age=section.duration("max_drill_age", 0, low=3600),
        retention=_read_retention(section),
        profile=section.text("profile", "", pattern=NAME, want="an AWS profile's name"),
        metrics_directory=section.text(
            "metrics_directory", "", pattern=_DIRECTORY, want="an absolute path"
        ),
        ping=section.choice("ping", "", ("", *PING_SERVICES)),
        ping_file=section.text("ping_file", "", pattern=_DIRECTORY, want="an absolute path"),
        project=project,
        pitr=section.flag("pitr", False),
        wal_tick=section.duration("wal_tick", 60, low=2),
        base_schedule=_read_schedule(section, "base_schedule", "45 1 * * *"),
        max_base_age=section.duration("max_base_age", 50 * 3600, low=3600),
        max_slot_wal=section.size("max_slot_wal", 10 * 2**30, low=64 * 2**20),
        incremental_from=section.size("incremental_from", 10 * 2**30, low=0),
        pitr_window=section.duration("pitr_window", 7 * 86400, low=3600),
        recipients=_read_recipients(section),
        mode=section.choice("mode", "host", ("host", "container")),
        stack=stacks.text("backup", f"{project}-backupstack" if project else "backupstack",
                          pattern=NAME, want="a stack name"),
        image=images.text("backup", "", pattern=IMAGE, want="an image name"),
        timezone=section.text("timezone", "UTC", pattern=_ZONE, want="such as Europe/Berlin"),
        manifest=section.choice("manifest", "clear", ("clear", "encrypted")),
        drill_identity=section.flag("drill_identity", False),
    )  # fmt: skip
    _check_encryption(section, backup)
    _check_mode(section, images, backup)
    if backup.wal_tick > 60:
        section.fail("wal_tick", "must be from 2s to 60s")
    if not backup.base_schedule:
        section.fail("base_schedule", "must be a schedule as in crontab, such as '45 1 * * *'")
    if backup.kms_key_id and backup.encryption != "aws:kms":
        section.fail("kms_key_id", "needs backup.encryption: aws:kms")
    if backup.ping_file and not backup.ping:
        section.fail("ping_file", f"needs backup.ping: {', '.join(PING_SERVICES)}")
    section.finish()
    return backup


def _read_recipients(section: Section) -> tuple[str, ...]:
    texts = section.texts("recipients", (), pattern=r"[^\n]+", want="keys")
    if not texts:
        return ()
    from fabfile.base import age_encryption

    found: list[str] = []
    for i, text in enumerate(texts):
        try:
            found.append(age_encryption.recipient(text))
        except ValueError as error:
            section.fail("recipients", f"no. {i + 1}, {text[:24]!r}, {error}")
    if len(set(found)) < len(found):
        section.fail("recipients", "one of them stands there twice")
    if len(found) > age_encryption.MOST_RECIPIENTS:
        section.fail("recipients", f"at most {age_encryption.MOST_RECIPIENTS}")
    return tuple(found)


def _check_encryption(section: Section, backup: Backup) -> None:
    """What hangs together of the keys about encryption on the client's side."""
    for key, given in (
        ("manifest", backup.manifest == "encrypted"),
        ("drill_identity", backup.drill_identity),
    ):
        if given and not backup.recipients:
            section.fail(key, "needs backup.recipients")
    if backup.recipients and backup.drill_schedule and not backup.drill_identity:
        section.fail(
            "drill_schedule",
            "with backup.recipients the nodes cannot read what they wrote: for drills by cron set "
            "drill_identity: true (docs/encryption.md), or drill from here: inv backup.drill",
        )


def _check_mode(section: Section, images: Section, backup: Backup) -> None:
    """What goes with one mode of the backup only."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    if backup.mode == "host":
        for where, key in ((images, "backup"), (section, "timezone")):
            if key in where:
                where.fail(key, "needs backup.mode: container")
        return
    if backup.drill_with_app:
        section.fail("drill_with_app", "needs Docker, which a container has not: mode: host")
    if backup.metrics_directory:
        section.fail("metrics_directory", "is a host's: needs mode: host")
    if backup.ping_file:
        section.fail("ping_file", "is a host's: needs mode: host; the vault has the addresses")
    try:
        ZoneInfo(backup.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        section.fail("timezone", f"{backup.timezone!r} is no time zone that is known here")


def _read_schedule(section: Section, key: str, default: str) -> str:
    text = section.text(key, default)
    try:
        return check_cron(text) if text else ""
    except ValueError as error:
        section.fail(key, f"{text!r}: {error}")
        return text


def _read_retention(section: Section) -> Retention:
    retention = Retention(
        daily=section.integer("keep_daily", 7, low=0, high=3650),
        weekly=section.integer("keep_weekly", 5, low=0, high=520),
        monthly=section.integer("keep_monthly", 12, low=0, high=120),
        yearly=section.integer("keep_yearly", 0, low=0, high=100),
        minimum=section.integer("keep_min", 3, low=1, high=10000),
    )
    if not any((retention.daily, retention.weekly, retention.monthly, retention.yearly)):
        section.fail("keep_daily", "and keep_weekly, keep_monthly, keep_yearly are all 0")
    return retention
