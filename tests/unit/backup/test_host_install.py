"""What goes on a db host, as exact files and commands; the rest is shown in the lab."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fabfile.backup import (
    host_cron,
    host_files,
    host_install,
    host_kit,
    host_programs,
    host_settings,
    host_uninstall,
)
from fabfile.backup.host_kit import ATTACHMENTS, DATABASE
from fabfile.base.errors import CONFIG, ConfigError, SwarmkeepError
from fabfile.base.secret import Secret
from fabfile.config import hosts_file
from fabfile.ssh.remote_command import Command, RemoteFile, Result
from fabfile.vault.project_identity import project_of

KEY, SECRET = "vault_aws_access_key_id", "vault_aws_secret_access_key"


class Vault:
    """Stands for an opened vault."""

    def __init__(self, **entries: str) -> None:
        self._entries = entries

    def name_key(self) -> bytes:
        return self._entries.get("key", "key").encode()

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
    return host_files.files(db(inventory), inventory, vault)


def db_config(inventory, vault=None):
    return host_settings.config(db(inventory), inventory, vault or Vault())


def put(inventory, vault=None, role="db", **options):
    """What installs the backup on the host of a role."""
    entry, vault = inventory.with_role(role)[0], vault or Vault()
    return host_install.put_command(
        host_kit.kit_of(entry, inventory),
        inventory,
        project_of(inventory, vault).id,
        host_files.files(entry, inventory, vault),
        host_programs.programs(entry, inventory),
        **options,
    )


def sourced(config: bytes, *names: str) -> list[str]:
    """What bash makes of a settings file."""
    script = "source /dev/stdin; " + " ".join(f'printf "%s\\0" "${name}";' for name in names)
    done = subprocess.run(["bash", "-uc", script], input=config, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def test_settings_say_what_hosts_yaml_says(inventory):
    config = db_config(inventory)
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
    assert sourced(db_config(hostile), "BACKUP_DIR") == [evil]
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
    assert "rm -f /etc/backup-pg.aws" in put(inventory).script


@pytest.mark.parametrize("there", [KEY, SECRET])
def test_half_a_key_is_refused(inventory, there):
    with pytest.raises(SwarmkeepError) as caught:
        db_files(inventory, Vault(**{there: "x"}))
    missing = SECRET if there == KEY else KEY
    assert missing in caught.value.message
    assert f"inv secrets.set {missing}" in caught.value.hint


def test_secrets_travel_through_stdin(inventory):
    command = put(inventory, Vault(**{KEY: "AK", SECRET: "s3cr3t"}))
    assert "s3cr3t" not in command.script
    assert "AK" not in command.script


def test_the_cron_entry_has_the_schedule(inventory):
    backup = replace(inventory.backup, schedule="30 3 * * 1-5")
    lines = host_cron.cron_entry(DATABASE, replace(inventory, backup=backup)).decode().splitlines()
    jobs = [line for line in lines if "backup-pg.sh" in line and not line.startswith("#")]
    assert len(jobs) == 1
    assert jobs[0].startswith("30 3 * * 1-5 root /usr/local/bin/backup-pg.sh >>")


def test_point_in_time_recovery_runs_each_minute_and_makes_base_backups(inventory):
    lines = host_cron.cron_entry(DATABASE, inventory).decode().splitlines()
    assert not any("wal-pg.sh" in line for line in lines)
    backup = replace(inventory.backup, pitr=True, base_schedule="5 1 * * 0", wal_tick=2)
    on = replace(inventory, backup=backup)
    lines = host_cron.cron_entry(DATABASE, on).decode().splitlines()
    jobs = [line.partition(" >>")[0] for line in lines if "wal-pg.sh" in line]
    script = "/usr/local/bin/wal-pg.sh"
    assert jobs == [f"* * * * * root {script} archive", f"5 1 * * 0 root {script} base"]
    other = replace(DATABASE, project="two")
    text = host_cron.cron_entry(other, on).decode()
    assert f"{script} archive --config /etc/backup-pg-two.conf >>" in text
    assert "wal-pg.sh" not in host_cron.cron_entry(ATTACHMENTS, on).decode()
    assert sourced(db_config(on), "PITR", "WAL_TICK", "MAX_SLOT_WAL") == ["yes", "2", "10737418240"]


def test_each_compressor_brings_its_package(inventory):
    def programs(compression: str, role: str = "db") -> dict[str, str]:
        known = replace(inventory, backup=replace(inventory.backup, compression=compression))
        return host_programs.programs(known.with_role(role)[0], known)

    assert programs("auto")["libdeflate-gzip"] == "libdeflate-tools"
    assert programs("igzip-3")["igzip"] == "isal"
    assert "igzip" not in programs("pigz-6")
    assert programs("gzip-6")["aws"] == "awscli"
    assert set(programs("auto", "app")) == {"aws", "cron", "logrotate"}


def test_an_app_host_gets_the_script_for_the_attachments_with_its_own_name(inventory):
    app = inventory.with_role("app")[0]
    files = {f.path: f for f in host_files.files(app, inventory, Vault(**{KEY: "A", SECRET: "B"}))}
    assert set(files) == set(host_files.installed(ATTACHMENTS)) - {ATTACHMENTS.pings}
    config = files["/etc/backup-files.conf"].content
    names = ("APP_STACK", "NODE", "S3_BUCKET", "AWS_SHARED_CREDENTIALS_FILE")
    wanted = ["appstack", "node-a", "test-bucket", "/etc/backup-files.aws"]
    assert sourced(config, *names) == wanted
    assert b"root /usr/local/bin/backup-files.sh >>" in files["/etc/cron.d/backup-files"].content
    assert files["/etc/logrotate.d/backup-files"].content.startswith(b"/var/log/backup-files.log {")


def test_without_attachments_only_the_db_hosts_take_part(inventory):
    assert [h.name for h in host_kit.hosts(inventory)] == ["d", "a"]
    without = replace(inventory, backup=replace(inventory.backup, files=False))
    assert [h.name for h in host_kit.hosts(without)] == ["d"]


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
    config = db_config(changed)
    names = ("PG_DB", "SSE", "SSE_KMS_KEY_ID", "COUNT_ROWS", "DRILL_MEMORY", "DRILL_CPUS")
    assert sourced(config, *names) == ["nocodb other", "aws:kms", "k-1", "no", "2048m", "2"]


@pytest.mark.parametrize("check", [True, False])
def test_whether_it_works_is_left_open_where_there_is_no_database_yet(inventory, check):
    """Before a recovery: PostgreSQL of a new host lacks all databases but one."""
    asked = []

    class Host:
        name, entry = "d", db(inventory)

        def __init__(self):
            self.inventory = inventory

        def run(self, command, **more):
            if command.script == "put":
                return Result("d", 0, "changed /usr/local/bin/backup-pg.sh\n", "")
            asked.append(command.script)
            return Result("d", 0, "", "")

    done = host_install._install_on(Host(), [], Command("put"), check=check)
    assert done.changes == ["/usr/local/bin/backup-pg.sh"]
    assert len(asked) == check
    assert all("backup-pg.sh --check" in script for script in asked)


def test_the_fingerprint_changes_with_content_and_mode():
    base = [RemoteFile("/a", b"x", 0o600)]
    marks = {
        host_files.fingerprint(files)
        for files in (base, [RemoteFile("/a", b"y", 0o600)], [RemoteFile("/a", b"x", 0o644)])
    }
    assert len(marks) == 3
    assert host_files.fingerprint(base) == host_files.fingerprint(list(base))


class Machine:
    """A host whose files lie in a folder; its commands are run by the real sh."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("etc", "usr/local", "var"):
            (root / folder).mkdir(parents=True)

    def run(self, command: Command) -> Result:
        script = command.script
        for folder in ("/etc/", "/usr/local/", "/var/"):
            script = script.replace(folder, f"{self.root}{folder}")
        done = subprocess.run(
            ["sh", "-c", script], input=command.stdin, capture_output=True, check=False
        )
        said = done.stdout.decode().replace(str(self.root), "")
        return Result("d", done.returncode, said, done.stderr.decode())

    def write(self, path: str) -> None:
        file = self.root / path.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")

    def files(self) -> dict[str, str]:
        return {
            f"/{path.relative_to(self.root)}": path.read_text()
            for path in self.root.rglob("*")
            if path.is_file()
        }


def named(inventory, name="staging"):
    """The same hosts as another project, with its own stacks."""
    stack = f"{name}-dbstack"
    return replace(
        inventory,
        project=name,
        postgres=replace(inventory.postgres, stack=stack, service=f"{stack}_root_db"),
    )


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "machine")


def test_two_projects_have_files_of_their_own_and_share_the_scripts(inventory, machine):
    machine.run(put(inventory, Vault(key="one", **{KEY: "A", SECRET: "B"})))
    first = machine.files()
    assert "/etc/backup-pg.aws" in first
    said = machine.run(put(named(inventory), Vault(key="two")))
    assert said.exit_code == 0, said.stderr
    both = machine.files()
    assert {path: both[path] for path in first} == first
    more = set(both) - set(first)
    assert more == {
        f"/etc/{path}"
        for path in (
            "backup-pg-staging.conf",
            "cron.d/backup-pg-staging",
            "logrotate.d/backup-pg-staging",
        )
    }
    cron = both["/etc/cron.d/backup-pg-staging"]
    assert "backup-pg.sh --config /etc/backup-pg-staging.conf >>" in cron
    assert both["/etc/logrotate.d/backup-pg-staging"].startswith("/var/log/backup-pg-staging.log")
    config = both["/etc/backup-pg-staging.conf"].encode()
    assert sourced(config, "PROJECT", "IMAGES_FILE") == [
        "staging",
        "/etc/backup-pg-staging.images",
    ]


@pytest.mark.parametrize("by_earlier_version", [True, False])
def test_settings_of_another_project_are_not_overwritten_unless_that_is_said(
    inventory, machine, by_earlier_version
):
    """Seen: a second hosts file took the first one's settings, and nobody backed that up again."""
    machine.run(put(inventory, Vault(key="one")))
    config = machine.root / "etc/backup-pg.conf"
    if by_earlier_version:
        lines = config.read_text().splitlines(keepends=True)
        config.write_text("".join(line for line in lines if not line.startswith("PROJECT")))
    before = machine.files()
    other = replace(named(inventory), project="")
    said = machine.run(put(other, Vault(key="two")))
    assert machine.files() == before
    with pytest.raises(ConfigError) as caught:
        host_install.check_owner(said, DATABASE)
    assert caught.value.exit_code == CONFIG
    assert "/etc/backup-pg.conf is of another project" in caught.value.message
    assert "project:" in caught.value.hint
    machine.run(put(other, Vault(key="two"), take_over=True))
    assert "staging-dbstack_root_db" in machine.files()["/etc/backup-pg.conf"]


def test_settings_of_an_earlier_version_are_carried_over(inventory, machine):
    machine.run(put(inventory))
    config = machine.root / "etc/backup-pg.conf"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith("PROJECT")))
    said = machine.run(put(inventory))
    assert said.exit_code == 0
    assert "changed /etc/backup-pg.conf" in said.stdout
    assert "PROJECT_ID=" in config.read_text()
    assert "changed" not in machine.run(put(inventory)).stdout


def test_a_project_that_gets_a_name_is_not_backed_up_twice(inventory, machine):
    machine.run(put(inventory, Vault(**{KEY: "A", SECRET: "B"})))
    same_service = replace(inventory, project="prod")
    said = machine.run(put(same_service))
    assert "removed /etc/cron.d/backup-pg\n" in said.stdout
    left = {path for path in machine.files() if path.startswith("/etc/")}
    assert left == {
        "/etc/backup-pg-prod.conf",
        "/etc/cron.d/backup-pg-prod",
        "/etc/logrotate.d/backup-pg-prod",
    }


def test_scripts_are_never_replaced_by_older_ones(inventory, machine, monkeypatch):
    machine.run(put(inventory))
    scripts = {p: text for p, text in machine.files().items() if p.startswith("/usr/")}
    common = machine.root / "usr/local/lib/backup-common.sh"
    newer = common.read_text().replace(f"VERSION={host_files.scripts_version()}", "VERSION=0.10.0")
    common.write_text(newer)
    said = machine.run(put(named(inventory)))
    assert "kept 0.10.0" in said.stdout
    assert common.read_text() == newer
    assert "/etc/backup-pg-staging.conf" in machine.files()
    common.write_text(newer.replace("VERSION=0.10.0", "VERSION=0.1.9"))
    machine.run(put(named(inventory)))
    assert {p: text for p, text in machine.files().items() if p.startswith("/usr/")} == scripts


def uninstall(inventory, machine, role="db"):
    """Take the backup off the host of a role, as the command does."""

    class Host:
        entry = inventory.with_role(role)[0]

        def run(self, command):
            return machine.run(command)

    class Fleet:
        def fan_out(self, entries, act):
            return act(Host())

    return host_uninstall.uninstall(Fleet(), inventory)


def test_one_project_is_removed_and_the_other_keeps_all_it_needs(inventory, machine):
    machine.run(put(inventory))
    alone = machine.files()
    machine.run(put(named(inventory)))
    told = "/var/lib/prometheus/node-exporter/swarmkeep-backup{}.nocodb.prom"
    for project in ("", "-staging", "-staging2"):
        machine.write(told.format(project))
        alone |= {told.format(project): ""} if project != "-staging" else {}
    removed = uninstall(named(inventory), machine)
    assert machine.files() == alone
    assert set(removed) == {
        "/etc/cron.d/backup-pg-staging",
        "/etc/backup-pg-staging.conf",
        "/etc/logrotate.d/backup-pg-staging",
        told.format("-staging"),
    }
    machine.run(put(inventory, role="app"))
    uninstall(inventory, machine)
    # What both kinds of backup share stays for the other.
    assert "/usr/local/lib/backup-common.sh" in machine.files()
    uninstall(inventory, machine, "app")
    assert machine.files() == {told.format("-staging2"): ""}


def test_another_projects_backup_is_not_removed(inventory, machine):
    machine.run(put(inventory))
    before = machine.files()
    with pytest.raises(ConfigError, match="is of another project"):
        uninstall(replace(named(inventory), project=""), machine)
    assert machine.files() == before


PINGS = {"vault_ping_database": "https://hc.example.com/a", "vault_ping_files": "https://x/b"}


def with_pings(inventory, **changes):
    return replace(inventory, backup=replace(inventory.backup, ping="healthchecks", **changes))


def test_the_addresses_of_pings_come_from_the_vault_for_root_only(inventory):
    wanted = with_pings(inventory)
    for entry, kit, line in (
        (db(inventory), DATABASE, b"database https://hc.example.com/a\n"),
        (inventory.with_role("app")[0], ATTACHMENTS, b"files https://x/b\n"),
    ):
        files = {file.path: file for file in host_files.files(entry, wanted, Vault(**PINGS))}
        assert (files[kit.pings].content, files[kit.pings].mode) == (line, 0o600)
        settings = files[kit.config].content
        assert f"PING=healthchecks\nPING_FILE={kit.pings}\n".encode() in settings
        assert b"example.com" not in settings
        assert "curl" in host_programs.programs(entry, wanted)
    assert "curl" not in host_programs.programs(db(inventory), inventory)


def test_a_file_of_somebody_elses_needs_no_vault(inventory):
    wanted = with_pings(inventory, ping_file="/etc/pings")
    files = {file.path: file for file in host_files.files(db(inventory), wanted, Vault(**PINGS))}
    assert DATABASE.pings not in files
    assert b"PING_FILE=/etc/pings\n" in files[DATABASE.config].content


def test_pings_to_nowhere_are_refused(inventory):
    with pytest.raises(SwarmkeepError, match="the vault has no address for it"):
        host_files.files(db(inventory), with_pings(inventory), Vault())
    bad = Vault(vault_ping_database="ftp://s3cret word")
    with pytest.raises(SwarmkeepError, match="vault_ping_database is no http") as refused:
        host_files.files(db(inventory), with_pings(inventory), bad)
    assert "s3cret" not in str(refused.value)
