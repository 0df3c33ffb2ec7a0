"""hosts.yaml: what is read, and every way in which it can be wrong."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabfile.base.errors import CONFIG, ConfigError
from fabfile.config import hosts_file, inventory
from fabfile.config.backup import Retention

REPOSITORY = Path(__file__).parents[3]

GOOD: dict[str, Any] = {
    "hosts": {
        "m1": {"address": "192.0.2.1", "swarm": "manager"},
        "db1": {"address": "192.0.2.2", "role": "db"},
        "app1": {"address": "192.0.2.3", "role": "app"},
    },
    "s3_bucket_name": "backups",
}


def good(**changes: Any) -> dict[str, Any]:
    """A good file's data with top-level keys changed; "section.key" changes one level deeper."""
    data = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *parents, key = path.split(".")
        target = data
        for parent in parents:
            target = target.setdefault(parent, {})
        target[key] = value
    return data


def load(tmp_path: Path, content: object) -> inventory.Inventory:
    """Write the file (text, bytes, or data to be written as YAML) and load it."""
    path = tmp_path / "hosts.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        path.write_text(
            yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8"
        )
    return hosts_file.load(path)


def refusal(tmp_path: Path, content: object) -> ConfigError:
    """Load and return the error, checked for what every one of them must have."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, content)
    error = caught.value
    assert error.exit_code == CONFIG
    assert error.message.startswith(str(tmp_path / "hosts.yaml"))
    assert len(error.message.splitlines()) == 1
    assert all(line.replace("\t", "").isprintable() for line in error.details)
    return error


# What is read


def test_the_example_in_the_repository_is_good() -> None:
    found = hosts_file.load(REPOSITORY / "hosts.yaml")
    assert [host.name for host in found.managers()] == ["manager1"]
    assert [host.name for host in found.with_role("db")] == ["db1"]
    assert found.postgres.service == "dbstack_root_db"
    assert found.backup.bucket == "example-backups"


def test_every_commented_key_of_the_example_is_good_as_well(tmp_path: Path) -> None:
    lines = (REPOSITORY / "hosts.yaml").read_text().splitlines()
    commented = [
        number
        for number, line in enumerate(lines)
        if line.startswith("  # ") and ": " in line and "node:" not in line
    ]
    assert len(commented) >= 10
    for number in commented:
        line = lines[number].replace("# ", "", 1)
        load(tmp_path, "\n".join([*lines[:number], line, *lines[number + 1 :]]))


def test_the_least_that_is_needed(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD)
    assert found.ssh.user == "root"
    assert found.ssh.port == 22
    assert found.ssh.connect_timeout == 10
    assert found.ssh.gateway is None
    assert found.hosts[1] == inventory.HostEntry(
        "db1", "192.0.2.2", 22, "root", "worker", "db", "db1"
    )
    assert found.network == "backend"
    assert found.postgres.service == "dbstack_root_db"
    assert found.postgres.major == 17
    assert found.backup.max_age == 26 * 3600
    assert found.backup.min_size == 10 * 1024
    assert found.vault == inventory.Vault(tmp_path / "vault.yml", None)


def test_every_key_is_read(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        {
            "ssh": {
                "user": "deploy", "port": 2222, "key": "keys/id", "known_hosts": "/etc/known",
                "connect_timeout": "5s", "become": True,
                "gateway": {"address": "gw.example.com", "port": 23, "user": "jump", "key": "gw"},
            },
            "hosts": {
                "m": {"address": "m.example.com", "swarm": "manager", "port": 1, "user": "u"},
                "d": {"address": "::1", "role": "db", "node": "node-d"},
                "a": {"address": "fe80::1", "role": "none", "advertise_addr": "10.0.0.3"},
            },
            "registry": "reg.example.com:5000",
            "network": "net", "stacks": {"db": "dbs", "app": "apps"},
            "images": {"postgres": "reg.example.com:5000/pg:16.4-alpine3.20", "nocodb": "x/y:1"},
            "pg_db": ["base", "other"], "pg_user": "owner", "db_service_name": "dbs_pg",
            "db": {"data_host": "d", "endpoint_mode": "vip"},
            "app": {
                "replicas": 2, "port": 80, "port_mode": "host", "endpoint_mode": "dnsrr",
                "public_url": "https://noco.example.com/x",
            },
            "vault": {"file": "../v.yml", "password_file": "/run/pass"},
            "s3_bucket_name": "bucket", "aws_region": "eu-central-1",
            "deploy": {"timeout": "15m", "resolve_image": "never"},
            "backup": {
                "schedule": "*/5  * * * *", "directory": "/srv/dumps", "keep_local_days": 0,
                "compression": "pigz-5", "max_age": "2d", "min_size": "1MiB", "profile": "ops",
                "endpoint_url": "https://s3.example.com", "node_endpoint_url": "http://10.0.0.5:9",
                "count_rows": False, "files": False, "encryption": "aws:kms", "kms_key_id": "abc-1",
                "drill_schedule": "0 4 * * 0", "drill_with_app": True, "max_drill_age": "35d",
                "drill_memory": "2GiB", "drill_cpus": 3,
                "keep_daily": 1, "keep_weekly": 2, "keep_monthly": 3, "keep_yearly": 4,
                "keep_min": 5,
            },
        },
    )  # fmt: skip
    assert found.ssh == inventory.Ssh(
        "deploy", 2222, tmp_path / "keys/id", Path("/etc/known"), 5, True,
        inventory.Gateway("gw.example.com", 23, "jump", tmp_path / "gw"),
    )  # fmt: skip
    assert found.hosts == (
        inventory.HostEntry("m", "m.example.com", 1, "u", "manager", "", "m"),
        inventory.HostEntry("d", "::1", 2222, "deploy", "worker", "db", "node-d"),
        inventory.HostEntry("a", "fe80::1", 2222, "deploy", "worker", "", "a", "10.0.0.3"),
    )
    assert found.postgres == inventory.Postgres(
        "dbs", "dbs_pg", "reg.example.com:5000/pg:16.4-alpine3.20", 16,
        ("base", "other"), "owner", "d", "vip",
    )  # fmt: skip
    assert found.postgres.database == "base"
    assert found.app == inventory.App(
        "apps", "x/y:1", 2, 80, "host", "dnsrr", "https://noco.example.com/x"
    )
    assert found.registry == "reg.example.com:5000"
    assert found.vault == inventory.Vault(tmp_path / "../v.yml", Path("/run/pass"))
    assert found.backup == inventory.Backup(
        "bucket", "eu-central-1", "*/5 * * * *", "/srv/dumps", 0, "pigz-5", 172800, 2**20,
        "https://s3.example.com", "http://10.0.0.5:9",
        count_rows=False, files=False, encryption="aws:kms", kms_key_id="abc-1",
        drill_schedule="0 4 * * 0", drill_with_app=True, max_drill_age=35 * 86400,
        drill_memory=2 * 2**30, drill_cpus=3,
        retention=Retention(1, 2, 3, 4, 5), profile="ops",
    )  # fmt: skip
    assert (found.network, found.deploy_timeout, found.resolve_image) == ("net", 900, "never")
    assert found.host_of_node("node-d") == found.hosts[1]
    assert found.host_of_node("d") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pg_db": []}, "pg_db: is an empty list"),
        ({"pg_db": ["a", 1]}, "pg_db[1]: want a text"),
        ({"pg_db": ["a", "b c"]}, "pg_db[1]: 'b c' is not valid"),
        ({"pg_db": ["a", "a"]}, "pg_db[1]: 'a' is named twice"),
        ({"backup.kms_key_id": "k"}, "backup.kms_key_id: needs backup.encryption: aws:kms"),
        ({"backup.encryption": "aes"}, "backup.encryption: 'aes' is not one of"),
        ({"backup.drill_schedule": "now"}, "backup.drill_schedule: 'now'"),
        ({"backup.drill_memory": "1MiB"}, "backup.drill_memory: '1MiB' is out of range: want 64"),
        ({"backup.keep_min": 0}, "backup.keep_min: 0 is out of range"),
        (
            {f"backup.keep_{unit}": 0 for unit in ("daily", "weekly", "monthly")},
            "backup.keep_daily: and keep_weekly",
        ),
    ],
)
def test_what_recovery_refuses(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, good(**changes))
    assert any(line.startswith(said) for line in caught.value.details)


def test_a_gateway_inherits_user_and_key(tmp_path: Path) -> None:
    found = load(
        tmp_path, good(**{"ssh.user": "u", "ssh.key": "k", "ssh.gateway": {"address": "gw"}})
    )
    assert found.ssh.gateway == inventory.Gateway("gw", 22, "u", tmp_path / "k")


def test_nodes_see_the_store_where_we_see_it_unless_told_otherwise(tmp_path: Path) -> None:
    found = load(tmp_path, good(**{"backup.endpoint_url": "http://s3:9000"}))
    assert found.backup.node_endpoint_url == "http://s3:9000"


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    assert load(tmp_path, b"\xef\xbb\xbf" + yaml.safe_dump(GOOD).encode()).network == "backend"


# Which file


def test_flag_before_environment_before_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hosts_file.ENVIRONMENT, "/env/hosts.yaml")
    assert hosts_file.locate("/flag/hosts.yaml") == Path("/flag/hosts.yaml")
    assert hosts_file.locate(None) == Path("/env/hosts.yaml")
    monkeypatch.delenv(hosts_file.ENVIRONMENT)
    assert hosts_file.locate(None) == Path.cwd() / "hosts.yaml"


def test_a_home_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no such hosts file"):
        hosts_file.locate("~no-such-user-here/hosts.yaml")


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such hosts file") as caught:
        hosts_file.load(tmp_path / "absent.yaml")
    assert "--hosts" in caught.value.hint


def test_a_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        hosts_file.load(tmp_path)


# Not a hosts file at all


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "null", "~"])
def test_an_empty_file(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, text).message.endswith(": is empty")


def test_not_utf8(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path, b"pg_db: \xff\xfe").message


@pytest.mark.parametrize(
    "text", ["hosts: [", "a: b: c", "\tx: 1", "hosts: *x", "a: 2026-99-99", "\x00", "[" * 600]
)
def test_not_yaml(tmp_path: Path, text: str) -> None:
    assert "is not valid YAML" in refusal(tmp_path, text).message


def test_where_the_yaml_is_wrong_is_shown(tmp_path: Path) -> None:
    error = refusal(tmp_path, "network: a\nhosts: [\n")
    assert "line 3, column 1" in error.message
    assert error.details


@pytest.mark.parametrize("text", ["[]", "5", "text", "- hosts", "false", "''"])
def test_not_a_mapping(tmp_path: Path, text: str) -> None:
    assert any("want a mapping" in line for line in refusal(tmp_path, text).details)


def test_the_same_host_twice_is_refused_and_not_silently_dropped(tmp_path: Path) -> None:
    text = yaml.safe_dump(GOOD).replace("  m1:", "  db1: {address: 192.0.2.9}\n  m1:")
    assert any("twice" in line for line in refusal(tmp_path, text).details)


# One mistake each: where it is, and what it says

LONG = "a" * 300

MISTAKES = [
    ("s3_bucket_name", None, "s3_bucket_name: is missing"),
    ("hosts", None, "hosts: is missing or empty"),
    ("hosts", {}, "hosts: is missing or empty"),
    ("hosts.db1.address", None, "hosts.db1.address: is missing"),
    ("hosts.db1.adress", "x", "hosts.db1.adress: unknown key, did you mean 'address'?"),
    ("hosst", {}, "hosst: unknown key, did you mean 'hosts'?"),
    ("s3_bucket", "x", "s3_bucket: unknown key, did you mean 's3_bucket_name'?"),
    ("ssh.users", "x", "ssh.users: unknown key, did you mean 'user'?"),
    ("stacks.apps", "x", "stacks.apps: unknown key, did you mean 'app'?"),
    ("images.nocdb", "x", "images.nocdb: unknown key, did you mean 'nocodb'?"),
    ("app.replica", 1, "app.replica: unknown key, did you mean 'replicas'?"),
    ("db.datahost", "x", "db.datahost: unknown key, did you mean 'data_host'?"),
    ("backup.shedule", "x", "backup.shedule: unknown key, did you mean 'schedule'?"),
    ("vault.files", "x", "vault.files: unknown key, did you mean 'file'?"),
    ("deploy.timeut", 1, "deploy.timeut: unknown key, did you mean 'timeout'?"),
    ("hosts.m1.swarm", "worker", "hosts: no host has 'swarm: manager'"),
    ("hosts.db1.role", "app", "hosts: no host has 'role: db'"),
    ("hosts.db1.role", "database", "hosts.db1.role: 'database' is not one of db, app, none"),
    ("hosts.db1.address", "192.0.2.1", "hosts.db1.address: 192.0.2.1:22 is already hosts.m1"),
    ("hosts.m1.node", "db1", "hosts.db1.node: 'db1' is already hosts.m1"),
    ("hosts.db1.port", "22", "hosts.db1.port: want a whole number, got '22'"),
    ("hosts.db1.port", 0, "hosts.db1.port: 0 is out of range: want 1 to 65535"),
    ("hosts.db1.port", True, "hosts.db1.port: want a whole number, got True"),
    ("hosts.db1", "192.0.2.2", "hosts.db1: want a mapping (key: value), got '192.0.2.2'"),
    ("hosts", ["db1"], "hosts: want a mapping (key: value), got a list"),
    ("ssh", "root", "ssh: want a mapping (key: value), got 'root'"),
    ("ssh.become", "yes", "ssh.become: want true or false, got 'yes'"),
    ("ssh.connect_timeout", 0, "ssh.connect_timeout: 0 is out of range: want 1 to 600 seconds"),
    ("ssh.connect_timeout", "1d", "ssh.connect_timeout: '1d' is out of range"),
    ("ssh.gateway", {}, "ssh.gateway.address: is missing"),
    ("ssh.gateway", "bastion", "ssh.gateway: want a mapping"),
    ("ssh.gateway", {"address": "gw", "usr": "x"}, "ssh.gateway.usr: unknown key"),
    ("ssh.known_hosts", "~no-such-user-here/k", "ssh.known_hosts: '~no-such-user-here/k': there"),
    ("ssh.key", "~no-such-user-here/k", "ssh.key: '~no-such-user-here/k': there is no such home"),
    ("pg_db", 2026, "pg_db: want a text, got 2026 (put it in quotes)"),
    ("network", "", "network: is empty"),
    ("images.postgres", "postgres:latest", "images.postgres: 'postgres:latest' must be pinned"),
    ("images.postgres", "postgres:17", "images.postgres: 'postgres:17' must be pinned"),
    ("db_service_name", "other_root_db", "db_service_name: 'other_root_db' must start with"),
    ("db_service_name", "dbstack_", "db_service_name: 'dbstack_' must start with"),
    ("stacks", {"db": "one", "app": "one"}, "stacks.app: 'one' is also stacks.db"),
    ("db.data_host", "app1", "db.data_host: 'app1' is not a host with 'role: db'"),
    ("app.endpoint_mode", "dnsrr", "app.endpoint_mode: dnsrr needs app.port_mode: host"),
    ("app.replicas", 0, "app.replicas: 0 is out of range: want 1 to 100"),
    ("backup.schedule", "60 2 * * *", "backup.schedule: '60 2 * * *': '60' is not a cron minute"),
    ("backup.schedule", "daily", "backup.schedule: 'daily': want five cron fields"),
    ("backup.directory", "dumps", "backup.directory: 'dumps' is not valid: want an absolute path"),
    ("backup.directory", "/", "backup.directory: '/' is not valid: want an absolute path"),
    ("backup.directory", "/var/../etc", "backup.directory: '/var/../etc' is not valid"),
    ("backup.max_age", "soon", "backup.max_age: 'soon': want a duration such as"),
    ("backup.max_age", 0, "backup.max_age: 0 is out of range"),
    ("backup.min_size", "big", "backup.min_size: 'big': want a size such as"),
    ("backup.keep_local_days", -1, "backup.keep_local_days: -1 is out of range"),
    ("backup.compression", "zstd-3", "backup.compression: 'zstd-3' is not valid: want auto"),
    ("deploy.timeout", 0, "deploy.timeout: 0 is out of range"),
    ("deploy.resolve_image", "often", "deploy.resolve_image: 'often' is not one of always"),
    ("s3_bucket_name", "My_Bucket", "s3_bucket_name: 'My_Bucket' is not valid: want an S3"),
]


@pytest.mark.parametrize(("path", "value", "line"), MISTAKES, ids=lambda v: str(v)[:40])
def test_one_mistake_is_one_line(tmp_path: Path, path: str, value: object, line: str) -> None:
    error = refusal(tmp_path, good(**{path: value}))
    assert any(found.startswith(line) for found in error.details), error.details
    # The same mistake may have a consequence ("no host has role db"), but no avalanche.
    assert len(error.details) <= 3


def test_equal_addresses_differing_in_case_are_one_host(tmp_path: Path) -> None:
    data = good(**{"hosts.m1.address": "Node.example.com", "hosts.db1.address": "node.EXAMPLE.com"})
    assert "is already" in refusal(tmp_path, data).details[0]


def test_one_address_with_two_ports_is_two_hosts(tmp_path: Path) -> None:
    data = good(**{"hosts.db1.address": "192.0.2.1", "hosts.db1.port": 2222})
    assert len(load(tmp_path, data).hosts) == 3


def test_all_mistakes_are_reported_in_one_go(tmp_path: Path) -> None:
    error = refusal(
        tmp_path,
        {
            "hosts": {"x": {"adress": "1"}, "y": {"address": 5, "port": "a"}},
            "ssh": {"port": 0, "colour": "red"},
            "backup": {"max_age": "x"},
            "pg_db": "a b",
        },
    )
    assert error.message.endswith(": 11 mistakes")
    assert sorted(line.split(":")[0] for line in error.details) == [
        "backup.max_age", "hosts", "hosts", "hosts.x.address", "hosts.x.adress",
        "hosts.y.address", "hosts.y.port", "pg_db", "s3_bucket_name", "ssh.colour", "ssh.port",
    ]  # fmt: skip


# Values that a shell, a config file or a terminal could take for something else

HOSTILE = [
    "$(touch /tmp/pwned)", "`id`", "a; reboot", "a b", "it's", 'say "hi"', "a\nb", "a\r", "a\tb",
    "a && b", "a|b", "$HOME", "-oProxyCommand=id", "--help", "*", "a\\b", "{a,b}", "a>b", "#a",
    "a\x1b[31mb", "a\u2028b", "%n", "!x", "a'$(id)'b", "../../etc", LONG,
]  # fmt: skip

TEXT_FIELDS = [
    "network", "pg_db", "pg_user", "db_service_name", "s3_bucket_name", "aws_region",
    "ssh.user", "stacks.db", "stacks.app", "images.postgres", "images.nocodb", "db.data_host",
    "db.endpoint_mode", "app.port_mode", "app.endpoint_mode", "app.public_url",
    "backup.schedule", "backup.directory", "backup.compression", "backup.endpoint_url",
    "backup.node_endpoint_url", "backup.profile", "backup.max_age", "backup.min_size",
    "deploy.timeout", "deploy.resolve_image",
    "hosts.db1.address", "hosts.db1.user", "hosts.db1.node", "hosts.db1.role", "hosts.db1.swarm",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=lambda v: repr(v)[:24])
def test_a_hostile_value_is_refused_in_every_field(tmp_path: Path, value: str) -> None:
    error = refusal(tmp_path, good(**dict.fromkeys(TEXT_FIELDS, value)))
    accepted = [f for f in TEXT_FIELDS if not any(e.startswith(f"{f}: ") for e in error.details)]
    assert accepted == []


@pytest.mark.parametrize("value", [v for v in HOSTILE if v != LONG], ids=lambda v: repr(v)[:24])
def test_hostile_host_names_are_refused(tmp_path: Path, value: str) -> None:
    data = good()
    data["hosts"][value] = {"address": "192.0.2.9"}
    error = refusal(tmp_path, data)
    assert any("not a valid host name" in line for line in error.details)


@pytest.mark.parametrize("field", ["ssh.known_hosts", "ssh.key", "vault.file"])
@pytest.mark.parametrize("value", ["with space", "it's", "$(id)", "`id`", "a;b", 'x"y'])
def test_local_paths_are_kept_as_they_are(tmp_path: Path, field: str, value: str) -> None:
    """They are opened, never handed to a shell: such names are legal and stay untouched."""
    found = load(tmp_path, good(**{field: value}))
    section, key = field.split(".")
    assert getattr(getattr(found, section), key) == tmp_path / value


@pytest.mark.parametrize("value", ["a\nb", "a\x00b", "a\x1bb"])
def test_local_paths_hold_no_control_characters(tmp_path: Path, value: str) -> None:
    error = refusal(tmp_path, good(**{"vault.file": value}))
    assert error.details == (
        "vault.file: must not contain line breaks or other control characters",
    )


# No document at all makes load() raise anything else

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
    | st.sampled_from(["manager", "worker", "db", "app", "192.0.2.1", "26h", *HOSTILE])
)  # fmt: skip
words = st.sampled_from(
    ["ssh", "hosts", "stacks", "images", "db", "app", "vault", "deploy", "backup", "gateway",
     "address", "port", "user", "key", "role", "swarm", "node", "network", "pg_db", "schedule",
     "s3_bucket_name", "timeout", "file", "m1", "db1", "postgres", "known_hosts", "max_age"]
)  # fmt: skip
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | scalars, inner, max_size=6),
    max_leaves=25,
)
per_example = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def check_any(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hosts.yaml"
    path.write_bytes(content)
    try:
        found = hosts_file.load(path)
    except ConfigError as caught:
        error = caught
    else:
        assert found.managers()
        assert found.with_role("db")
        return
    assert error.message.startswith(str(path))
    assert all(len(line.splitlines()) <= 1 for line in error.details)


@pytest.mark.thorough
@per_example
@given(documents.filter(lambda value: value == value))
def test_any_yaml_document_is_read_or_refused(tmp_path: Path, document: object) -> None:
    check_any(tmp_path, yaml.safe_dump(document).encode("utf-8", "replace"))


@pytest.mark.thorough
@per_example
@given(
    st.sampled_from([*TEXT_FIELDS, "hosts", "ssh", "backup", "hosts.m1", "vault.file"]), documents
)
def test_any_value_in_any_field_is_read_or_refused(
    tmp_path: Path, field: str, value: object
) -> None:
    check_any(tmp_path, yaml.safe_dump(good(**{field: value})).encode("utf-8", "replace"))


@per_example
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    check_any(tmp_path, content)


def test_an_inventory_cannot_be_changed(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.network = "x"  # type: ignore[misc]


# --- what people write and mean otherwise --------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["10.213.0.999", "1.2.3", "256.1.1.1", "10.0.0.1.5", "host.7", "::1::2", "fe80:::1"]
)
def test_what_looks_like_an_ip_address_must_be_one(tmp_path, address):
    error = refusal(tmp_path, good(**{"hosts.db1.address": address}))
    assert "hosts.db1.address" in error.details[0]
    assert "looks like an IP address but is not a valid one" in error.details[0]
    gateway = good(ssh={"gateway": {"address": address}})
    assert "ssh.gateway.address" in refusal(tmp_path, gateway).details[0]


@pytest.mark.parametrize("address", ["10.213.0.99", "fe80::1", "db1", "db1.example.com", "7.host"])
def test_addresses_that_are_fine(tmp_path, address):
    assert load(tmp_path, good(**{"hosts.db1.address": address})).hosts[1].address == address


def test_top_level_keys_for_anchors_are_the_files_own(tmp_path):
    text = f"x-user: &user deploy\nssh: {{user: *user}}\n{yaml.safe_dump(good())}"
    assert load(tmp_path, text).ssh.user == "deploy"
    assert (
        "hosts.db1.x-y: unknown key" in refusal(tmp_path, good(**{"hosts.db1.x-y": 1})).details[0]
    )


@pytest.mark.parametrize("number", ["022", "0o22", "0x16", "0b1", "2_2", "1:30", "-022"])
def test_numbers_that_yaml_reads_otherwise_are_refused(tmp_path, number):
    """Seen: port 022 was taken for 18."""
    error = refusal(tmp_path, f"ssh: {{port: {number}}}\n{yaml.safe_dump(good())}")
    assert number in " ".join(error.details)


@pytest.mark.parametrize("number", ["22", "0", "65535"])
def test_plain_numbers_are_read(tmp_path, number):
    text = f"ssh: {{port: {number}}}\n{yaml.safe_dump(good())}"
    if number == "0":
        assert "ssh.port: 0 is out of range" in refusal(tmp_path, text).details[0]
    else:
        assert load(tmp_path, text).ssh.port == int(number)
