"""The settings of a host's scripts: the .conf file, and the addresses of its pings."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from fabfile.backup.host_kit import Kit, kit_of
from fabfile.base.errors import SwarmkeepError

if TYPE_CHECKING:
    from fabfile.config.inventory import HostEntry, Inventory
    from fabfile.vault.reading import Secrets


def config(
    entry: HostEntry, inventory: Inventory, secrets: Secrets, *, in_container: bool = False
) -> bytes:
    """The settings file of a host's script: shell assignments, every value quoted. `in_container`:
    of the same script in a container.
    """
    from fabfile.vault.project_identity import project_of
    from fabfile.vault.reading import AWS_ACCESS_KEY_ID

    kit, backup = kit_of(entry, inventory), inventory.backup
    settings = {
        "PROJECT": inventory.project,
        "PROJECT_ID": project_of(inventory, secrets).id,
        "S3_BUCKET": backup.bucket,
        "AWS_REGION": backup.region,
        "S3_ENDPOINT_URL": backup.node_endpoint_url,
        "SSE": backup.encryption,
        "SSE_KMS_KEY_ID": backup.kms_key_id,
        "STACK": inventory.postgres.stack if kit.of_database else inventory.app.stack,
        "METRICS_DIR": backup.metrics_directory,
        "PING": backup.ping,
        "PING_FILE": backup.ping_file,
    }
    if backup.recipients:
        settings["RECIPIENTS"] = ",".join(backup.recipients)
    if ping_addresses(kit, inventory, secrets):
        settings["PING_FILE"] = kit.pings
    if kit.of_database:
        settings |= _of_database(inventory)
        settings |= {"MANIFEST_MODE": backup.manifest} if backup.manifest != "clear" else {}
        settings |= {"IDENTITY_FILE": kit.identity} if backup.drill_identity else {}
        # Where it is not named after a project, the script knows.
        settings |= {"IMAGES_FILE": kit.images} if kit.project else {}
    else:
        settings |= {
            "APP_STACK": inventory.app.stack,
            "NODE": entry.node,
            "STATE_DIR": kit.state_dir,
        }
        more = [one.volume_name(volume) for one in inventory.apps for volume in one.volumes]
        settings |= {"VOLUMES": " ".join(more)} if more else {}
    if secrets.get(AWS_ACCESS_KEY_ID) is not None:
        settings["AWS_SHARED_CREDENTIALS_FILE"] = kit.credentials
    if in_container:
        settings = _in_container(settings, inventory)
    lines = [f"{key}={shlex.quote(value)}\n" for key, value in settings.items()]
    head = f"# Settings of {kit.name}.sh, made by 'inv backup.install' from hosts.yaml.\n"
    if backup.recipients:
        # Scripts of before encryption would heed none of it: these end with it.
        head += ': "${AGE_FIRST_LINE:?the scripts here are older than encryption}"\n'
    return (head + "".join(lines)).encode()


def _in_container(settings: dict[str, str], inventory: Inventory) -> dict[str, str]:
    """The same where everything is elsewhere, with what the container's clock wants."""
    backup = inventory.backup
    places = {
        "BACKUP_DIR": "/var/backups/postgres",
        "STATE_DIR": "/var/lib/backup-files",
        "AWS_SHARED_CREDENTIALS_FILE": "/run/secrets/aws_credentials",
        "PING_FILE": "/run/secrets/pings",
        "IDENTITY_FILE": "/run/secrets/identity",
    }
    moved = {key: places.get(key, value) if value else value for key, value in settings.items()}
    # The container's node may be another one tomorrow: the scripts ask.
    moved.pop("NODE", None)
    moved |= {
        "ACCESS": "network",
        "POSTGRES_IMAGE": inventory.postgres.image,
        "IMAGES_FILE": "/var/backups/postgres/.images",
        "SCHEDULE": backup.schedule,
        "TIMEZONE": backup.timezone,
        "MAX_AGE": str(backup.max_age),
    }
    if "PG_DB" in settings:
        moved |= {"DRILL_SCHEDULE": backup.drill_schedule, "BASE_SCHEDULE": backup.base_schedule}
    return moved


def credentials(secrets: Secrets) -> bytes:
    """The file with the nodes' AWS key, b"" without one. Raises SwarmkeepError for half."""
    from fabfile.vault.reading import AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY

    key, secret = secrets.get(AWS_ACCESS_KEY_ID), secrets.get(AWS_SECRET_ACCESS_KEY)
    if (key is None) != (secret is None):
        missing = AWS_SECRET_ACCESS_KEY if secret is None else AWS_ACCESS_KEY_ID
        raise SwarmkeepError(
            f"the vault holds one half of the nodes' AWS key, {missing} is missing",
            hint=f"inv secrets.set {missing}, or remove the other half",
        )
    if not key or not secret:
        return b""
    text = (
        "# Made by 'inv backup.install' from the vault.\n[default]\n"
        f"aws_access_key_id = {key.reveal()}\naws_secret_access_key = {secret.reveal()}\n"
    )
    return text.encode()


def _of_database(inventory: Inventory) -> dict[str, str]:
    backup, postgres = inventory.backup, inventory.postgres
    return {
        "PG_DB": " ".join(postgres.databases),
        "PG_USER": postgres.user,
        "DB_SERVICE_NAME": postgres.service,
        "BACKUP_DIR": backup.directory,
        "KEEP_LOCAL_DAYS": str(backup.keep_local_days),
        "COMPRESSION": backup.compression,
        "COUNT_ROWS": "yes" if backup.count_rows else "no",
        "DRILL_MEMORY": f"{backup.drill_memory // 2**20}m",
        "DRILL_CPUS": str(backup.drill_cpus),
        "PITR": "yes" if backup.pitr else "no",
        "WAL_TICK": str(backup.wal_tick),
        "MAX_SLOT_WAL": str(backup.max_slot_wal),
        "INCREMENTAL_FROM": str(backup.incremental_from),
    }


def drill_identity(kit: Kit, inventory: Inventory, secrets: Secrets) -> bytes:
    """The file with the identity for drills by cron; b"" where there is none.

    Raises SwarmkeepError if the vault has none, or if backups are not encrypted for it.
    """
    from fabfile.vault.backup_identity import of_entry
    from fabfile.vault.reading import DRILL_IDENTITY

    if not (kit.of_database and inventory.backup.drill_identity):
        return b""
    identity = of_entry(secrets, DRILL_IDENTITY)
    if identity is None:
        raise SwarmkeepError(
            f"backup.drill_identity is true, and the vault has no {DRILL_IDENTITY}",
            hint="inv backup.keys --drill makes it",
        )
    if not set(identity.publics) & set(inventory.backup.recipients):
        raise SwarmkeepError(
            f"backup.recipients lacks the key of the vault's {DRILL_IDENTITY}: no drill could "
            "read a set",
            hint=f"add its public key to backup.recipients: {identity.publics[0]}",
        )
    return f"{identity.private.reveal()}\n".encode()


def ping_addresses(kit: Kit, inventory: Inventory, secrets: Secrets) -> bytes:
    """The file with the addresses that this kit's pings go to; b"" for none from the vault.

    Raises SwarmkeepError for what is no address, or if pings are wanted and nobody says where to.
    """
    from fabfile.vault.reading import PING_DATABASE, PING_DRILL, PING_FILES

    backup = inventory.backup
    if not backup.ping or backup.ping_file:
        return b""
    entries = {"database": PING_DATABASE, "drill": PING_DRILL, "files": PING_FILES}
    given = {job: secret for job, entry in entries.items() if (secret := secrets.get(entry))}
    if not given:
        raise SwarmkeepError(
            f"backup.ping is {backup.ping}, and the vault has no address for it",
            hint=f"inv secrets.set {PING_DATABASE} (and {PING_DRILL}, {PING_FILES})",
        )
    for job, secret in given.items():
        if not re.fullmatch(r'https?://[^\s"\\]+', secret.reveal()):
            raise SwarmkeepError(
                f"the vault's {entries[job]} is no http(s) address",
                hint=f"correct it: inv secrets.set {entries[job]}",
            )
    mine = ("database", "drill") if kit.of_database else ("files",)
    lines = [f"{job} {given[job].reveal()}\n" for job in mine if job in given]
    return "".join(lines).encode()
