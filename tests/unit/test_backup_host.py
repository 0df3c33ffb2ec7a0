"""What goes on a db host, as exact files and commands; the rest is shown in the lab."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fabfile import backup_host, backup_kits, hosts_file
from fabfile.backup_kits import ATTACHMENTS, DATABASE
from fabfile.errors import SwarmkeepError
from fabfile.secret import Secret
from fabfile.transport import RemoteFile, Result

KEY, SECRET = "vault_aws_access_key_id", "vault_aws_secret_access_key"


class Vault:
    """Stands for an opened vault."""

    def __init__(self, **entries: str) -> None:
        self._entries = entries

    def get(self, name: str) -> Secret | None:
        value = self._entries.get(name)
        return None if value is None else Secret(value)


@pytest.fixture
def inventory(tmp_path: Path):
    data = {
        "hosts": {
            "m": {"address": "192.0.2.1", "swarm": "manager"},
            "d": {"address": "192.0.2.2", "role": "db"},
            "a": {"address": "192.0.2.3", "role": "app", "node": "node-a"},
        },
        "s3_bucket_name": "test-bucket",
        "aws_region": "eu-central-1",
        "backup": {"endpoint_url": "https://s3.example.com", "node_endpoint_url": "http://in:9000"},
    }
    path = tmp_path / "hosts.yaml"
    path.write_text(yaml.safe_dump(data))
    return hosts_file.load(path)


def db(inventory):
    """The db host."""
    return inventory.with_role("db")[0]


def db_files(inventory, vault):
    return backup_kits.files(db(inventory), inventory, vault)


def db_config(inventory, **options):
    return backup_kits.config(db(inventory), inventory, **options)


def sourced(config: bytes, *names: str) -> list[str]:
    """What bash makes of a settings file."""
    script = "source /dev/stdin; " + " ".join(f'printf "%s\\0" "${name}";' for name in names)
    done = subprocess.run(["bash", "-uc", script], input=config, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def test_settings_say_what_hosts_yaml_says(inventory):
    config = db_config(inventory, own_credentials=False)
    names = ("PG_DB", "PG_USER", "DB_SERVICE_NAME", "S3_BUCKET", "AWS_REGION", "S3_ENDPOINT_URL")
    assert sourced(config, *names) == [
        "nocodb",
        "nocodb",
        "dbstack_root_db",
        "test-bucket",
        "eu-central-1",
        "http://in:9000",
    ]
    assert b"AWS_SHARED_CREDENTIALS_FILE" not in config


@pytest.mark.parametrize("evil", ["a b", "$(touch pwned)", "it's", 'a"b', "a;b\nc", "`x`", "$HOME"])
def test_no_setting_is_ever_executed(inventory, evil, tmp_path):
    # hosts.yaml refuses most of these; the settings file must not depend on that.
    hostile = replace(inventory, backup=replace(inventory.backup, directory=evil))
    assert sourced(db_config(hostile, own_credentials=False), "BACKUP_DIR") == [evil]
    assert not Path("pwned").exists()


def test_credentials_go_into_a_file_of_their_own_and_nowhere_else(inventory):
    files = {f.path: f for f in db_files(inventory, Vault(**{KEY: "AK", SECRET: "s3cr3t"}))}
    credentials = files.pop("/etc/backup-pg.aws")
    assert credentials.mode == 0o600
    assert b"aws_access_key_id = AK\naws_secret_access_key = s3cr3t\n" in credentials.content
    assert all(b"s3cr3t" not in file.content for file in files.values())
    assert b"AWS_SHARED_CREDENTIALS_FILE=/etc/backup-pg.aws" in files["/etc/backup-pg.conf"].content


def test_without_credentials_in_the_vault_the_nodes_own_are_used(inventory):
    files = db_files(inventory, Vault())
    assert "/etc/backup-pg.aws" not in {f.path for f in files}
    command = backup_host.put_command(DATABASE, files, {})
    assert "rm -f /etc/backup-pg.aws" in command.script


@pytest.mark.parametrize("there", [KEY, SECRET])
def test_half_a_key_is_refused(inventory, there):
    with pytest.raises(SwarmkeepError) as caught:
        db_files(inventory, Vault(**{there: "x"}))
    missing = SECRET if there == KEY else KEY
    assert missing in caught.value.message
    assert f"inv secrets.set {missing}" in caught.value.hint


def test_secrets_travel_through_stdin(inventory):
    files = db_files(inventory, Vault(**{KEY: "AK", SECRET: "s3cr3t"}))
    command = backup_host.put_command(
        DATABASE, files, backup_kits.programs(db(inventory), inventory)
    )
    assert "s3cr3t" not in command.script
    assert "AK" not in command.script


def test_the_cron_entry_has_the_schedule(inventory):
    backup = replace(inventory.backup, schedule="30 3 * * 1-5")
    lines = (
        backup_kits.cron_entry(DATABASE, replace(inventory, backup=backup)).decode().splitlines()
    )
    jobs = [line for line in lines if "backup-pg.sh" in line and not line.startswith("#")]
    assert len(jobs) == 1
    assert jobs[0].startswith("30 3 * * 1-5 root /usr/local/bin/backup-pg.sh >>")


def test_each_compressor_brings_its_package(inventory):
    def programs(compression: str, role: str = "db") -> dict[str, str]:
        known = replace(inventory, backup=replace(inventory.backup, compression=compression))
        return backup_kits.programs(known.with_role(role)[0], known)

    assert programs("auto")["libdeflate-gzip"] == "libdeflate-tools"
    assert programs("igzip-3")["igzip"] == "isal"
    assert "igzip" not in programs("pigz-6")
    assert programs("gzip-6")["aws"] == "awscli"
    assert set(programs("auto", "app")) == {"aws", "cron", "logrotate"}


def test_an_app_host_gets_the_script_for_the_attachments_with_its_own_name(inventory):
    app = inventory.with_role("app")[0]
    files = {f.path: f for f in backup_kits.files(app, inventory, Vault(**{KEY: "A", SECRET: "B"}))}
    assert set(files) == set(backup_kits.installed(ATTACHMENTS))
    config = files["/etc/backup-files.conf"].content
    names = ("APP_STACK", "NODE", "S3_BUCKET", "AWS_SHARED_CREDENTIALS_FILE")
    wanted = ["appstack", "node-a", "test-bucket", "/etc/backup-files.aws"]
    assert sourced(config, *names) == wanted
    assert b"root /usr/local/bin/backup-files.sh >>" in files["/etc/cron.d/backup-files"].content
    assert files["/etc/logrotate.d/backup-files"].content.startswith(b"/var/log/backup-files.log {")


def test_without_attachments_only_the_db_hosts_take_part(inventory):
    assert [h.name for h in backup_kits.hosts(inventory)] == ["d", "a"]
    without = replace(inventory, backup=replace(inventory.backup, files=False))
    assert [h.name for h in backup_kits.hosts(without)] == ["d"]


def test_several_databases_and_encryption_reach_the_settings(inventory):
    changed = replace(
        inventory,
        postgres=replace(inventory.postgres, databases=("nocodb", "other")),
        backup=replace(
            inventory.backup,
            encryption="aws:kms", kms_key_id="k-1", count_rows=False,
            drill_memory=2**31 + 5, drill_cpus=2,
        ),
    )  # fmt: skip
    config = backup_kits.config(db(changed), changed, own_credentials=False)
    names = ("PG_DB", "SSE", "SSE_KMS_KEY_ID", "COUNT_ROWS", "DRILL_MEMORY", "DRILL_CPUS")
    assert sourced(config, *names) == ["nocodb other", "aws:kms", "k-1", "no", "2048m", "2"]


@pytest.mark.parametrize("check", [True, False])
def test_whether_it_works_is_left_open_where_there_is_no_database_yet(inventory, check):
    """Before a recovery: PostgreSQL of a new host lacks all databases but one."""
    asked = []

    class Host:
        name, entry = "d", db(inventory)

        def check(self, command, what, **more):
            return Result("d", 0, "changed /usr/local/bin/backup-pg.sh\n", "")

        def run(self, command, **more):
            asked.append(command.script)
            return Result("d", 0, "", "")

    done = backup_host._install_on(Host(), [], {}, check=check)
    assert done.changes == ["/usr/local/bin/backup-pg.sh"]
    assert len(asked) == check
    assert all("backup-pg.sh --check" in script for script in asked)


def test_the_fingerprint_changes_with_content_and_mode():
    base = [RemoteFile("/a", b"x", 0o600)]
    marks = {
        backup_kits.fingerprint(files)
        for files in (base, [RemoteFile("/a", b"y", 0o600)], [RemoteFile("/a", b"x", 0o644)])
    }
    assert len(marks) == 3
    assert backup_kits.fingerprint(base) == backup_kits.fingerprint(list(base))
