"""How a host is reached: hosts.yaml wins, ~/.ssh/config fills in, nothing is silently ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fabfile.base.errors import ConfigError
from fabfile.config import hosts_file
from fabfile.ssh import ssh_config


@pytest.fixture
def reach(tmp_path: Path):
    """The route to the host db1, whose address is "db", with a configuration."""

    def go(config: str, *, ssh=None, host=None):
        (tmp_path / "config").write_text(config)
        data = {
            "ssh": {"config": "config", "known_hosts": "known_hosts", **(ssh or {})},
            "hosts": {
                "m1": {"address": "192.0.2.1", "swarm": "manager"},
                "db1": {"address": "db", "role": "db", **(host or {})},
            },
            "s3_bucket_name": "test-bucket",
        }
        path = tmp_path / "hosts.yaml"
        path.write_text(yaml.safe_dump(data))
        inventory = hosts_file.load(path)
        return ssh_config.route(inventory.ssh, inventory.with_role("db")[0])

    return go


def test_without_it_hosts_yaml_is_all(tmp_path, reach):
    target = reach("Host *\n  User somebody\n  Port 2222\n", ssh={"config": None}).target
    assert (target.user, target.port, target.known_as) == ("root", 22, "db")


def test_what_hosts_yaml_leaves_open_comes_from_it(reach, tmp_path):
    (tmp_path / "id").write_text("a key")
    way = reach(
        f"Host db\n  HostName 192.0.2.7\n  User ann\n  Port 2222\n  IdentityFile {tmp_path}/id\n"
        "  IdentitiesOnly yes\n"
    )
    target = way.target
    assert (target.address, target.user, target.port) == ("192.0.2.7", "ann", 2222)
    assert target.keys == (tmp_path / "id",)
    assert not target.agent
    assert target.known_as == "[192.0.2.7]:2222"
    assert "user from ssh config" in str(way)
    assert "192.0.2.7:2222" in target.label


def test_hosts_yaml_wins(reach, tmp_path):
    config = "Host *\n  User ann\n  Port 2222\n  IdentityFile ~/x\n  UserKnownHostsFile ~/y\n"
    target = reach(config, ssh={"user": "bob", "key": "mine"}, host={"port": 22}).target
    assert (target.user, target.port, target.keys) == ("bob", 22, (tmp_path / "mine",))
    assert target.known_hosts == (tmp_path / "known_hosts",)
    assert set(target.sources.values()) == {"hosts.yaml"}


def test_the_name_in_known_hosts_and_the_files(reach):
    config = "Host db\n  HostKeyAlias shared\n  UserKnownHostsFile ~/a /b\n"
    target = reach(config, ssh={"known_hosts": None}).target
    assert target.known_as == "shared"
    assert target.known_hosts == (Path("~/a").expanduser(), Path("/b"))


def test_jumps_are_passed_in_their_order(reach):
    config = (
        "Host db\n  ProxyJump ann@first:2201,second\n"
        "Host second\n  HostName 192.0.2.2\n  User bob\n"
        "Host first\n  ProxyJump zeroth\n"
    )
    way = reach(config)
    assert [(j.user, j.address, j.port) for j in way.jumps] == [
        ("root", "zeroth", 22),
        ("ann", "first", 2201),
        ("bob", "192.0.2.2", 22),
    ]
    assert str(way).startswith("over jump host zeroth, jump host first, jump host second")


def test_an_ipv6_jump(reach):
    (jump,) = reach("Host db\n  ProxyJump bob@[fe80::1]:2022\n").jumps
    assert (jump.user, jump.address, jump.port) == ("bob", "fe80::1", 2022)


def test_the_gateway_of_hosts_yaml_wins_over_proxyjump(reach):
    gateway = {"address": "bastion", "user": "jump"}
    (jump,) = reach("Host db\n  ProxyJump other\n", ssh={"gateway": gateway}).jumps
    assert (jump.address, jump.user) == ("bastion", "jump")


def test_none_means_none(reach):
    assert reach("Host db\n  ProxyJump none\nHost *\n  ProxyJump other\n").jumps == ()
    assert reach("Host db\n  ProxyCommand none\nHost *\n  ProxyCommand nc %h\n").jumps == ()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("Host db\n  ProxyCommand nc %h %p\n", "ProxyCommand for db is not supported"),
        ("Host *\n  ProxyJump db\n", "leads to itself"),
        ("Include config\n", "Include leads to itself"),
        ("Host db\n  ProxyJump @@@\n", "is no host"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_name(reach, config, said):
    with pytest.raises(ConfigError) as caught:
        reach(config)
    assert said in caught.value.message
    assert caught.value.hint


def test_a_file_that_is_not_there_is_refused(reach, tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        reach("", ssh={"config": "missing"})


def test_included_files_stand_in_their_place_and_end_with_themselves(reach, tmp_path):
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d/a").write_text("Host db\n  User ann\n")
    (tmp_path / "config.d/b").write_text("Host other\n  Port 1\n")
    # What follows an Include at the top is for every host, not only for the last one in it.
    way = reach("Include config.d/*\nPort 2222\n")
    assert (way.target.user, way.target.port) == ("ann", 2222)
    (tmp_path / "plain").write_text("Port 2022\n")
    assert reach("Host x\n  Include plain\nHost db\n  User bob\n").target.port == 22
    assert reach("Host db\n  Include plain\n").target.port == 2022
    with pytest.raises(ConfigError, match=r"Include of .*config.d/a inside 'Host x'"):
        reach("Host x\n  Include config.d/*\n")


def test_match_as_paramiko_has_it(reach):
    assert reach("Match host db\n  User ann\nMatch host other\n  User bob\n").target.user == "ann"
