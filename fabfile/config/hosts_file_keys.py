"""The sections of hosts.yaml, each read key by key into the dataclasses of inventory.py; keys
without a section are read in hosts_file.py.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from fabfile.base.schema import Section
from fabfile.config.inventory import (
    NOTIFY_ON,
    NOTIFYING,
    App,
    Gateway,
    HostEntry,
    Notify,
    Postgres,
    Ssh,
    Vault,
)

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
_ADDRESS = r"[A-Za-z0-9:][A-Za-z0-9._:-]{0,252}"
# What Docker takes: an address or an interface's name, no host name.
_ADVERTISE = r"\d{1,3}(\.\d{1,3}){3}|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*|[A-Za-z][A-Za-z0-9_.-]{0,14}"
REGISTRY = r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}(:[0-9]{1,5})?"
_USER = r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,62}"
PG_NAME = r"[A-Za-z_][A-Za-z0-9_.-]{0,62}"
IMAGE = r"[a-z0-9][A-Za-z0-9._/:-]{0,254}(@sha256:[0-9a-f]{64})?"
URL = r"https?://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._~/-]*)?"
_PG_IMAGE = re.compile(r".*:(?P<major>\d+)(\.\d+)?-[a-z][a-z0-9.]*(@sha256:[0-9a-f]{64})?")


def read_ssh(section: Section, base: Path) -> Ssh:
    """The section `ssh`; `base` is the folder that its paths are relative to."""
    user = section.text("user", "root", pattern=_USER, want="a user name")
    port = section.integer("port", 22, low=1, high=65535)
    key = optional_path(section, "key", base)
    gateway = None
    if "gateway" in section:
        hop = section.section("gateway")
        gateway = Gateway(
            address=_read_address(hop),
            port=hop.integer("port", 22, low=1, high=65535),
            user=hop.text("user", user, pattern=_USER, want="a user name"),
            key=optional_path(hop, "key", base) or key,
        )
        hop.finish()
    else:
        section.section("gateway")
    ssh = Ssh(
        user=user,
        port=port,
        key=key,
        known_hosts=_path(section, "known_hosts", "~/.ssh/known_hosts", base),
        connect_timeout=section.duration("connect_timeout", 10, low=1, high=600),
        become=section.flag("become", False),
        gateway=gateway,
        config=optional_path(section, "config", base),
        given=frozenset(k for k in ("user", "port", "key", "known_hosts") if k in section),
    )
    section.finish()
    return ssh


def _read_address(section: Section) -> str:
    address = section.text("address", pattern=_ADDRESS, want="a host name or IP address")
    # No name ends in a number: what looks like an IP address must be one (RFC 1123, 2.1).
    if ":" in address or address.rpartition(".")[2].isdecimal():
        try:
            ipaddress.ip_address(address)
        except ValueError:
            section.fail("address", f"{address!r} looks like an IP address but is not a valid one")
    return address


def read_host(name: str, section: Section, ssh: Ssh) -> HostEntry:
    """One host below `hosts`."""
    if not re.fullmatch(NAME, name):
        section.errors.append(f"{section.path}: not a valid host name: want letters, digits, . _ -")
    host = HostEntry(
        name=name,
        address=_read_address(section),
        port=section.integer("port", ssh.port, low=1, high=65535),
        user=section.text("user", ssh.user, pattern=_USER, want="a user name"),
        swarm=section.choice("swarm", "worker", ("manager", "worker")),
        role=section.choice("role", "none", ("db", "app", "none")).replace("none", ""),
        node=section.text("node", name, pattern=NAME, want="a Swarm node's name"),
        advertise_addr=section.text(
            "advertise_addr", "", pattern=_ADVERTISE, want="an IP address or a network interface"
        ),
        given=(ssh.given & {"user", "port"}) | {k for k in ("user", "port") if k in section},
    )
    section.finish()
    return host


def read_postgres(top: Section, stacks: Section, images: Section, project: str) -> Postgres:
    """What the database is called and made of, from keys of the top level."""
    stack = stacks.text("db", with_project(project, "dbstack"), pattern=NAME, want="a stack name")
    service = top.text("db_service_name", f"{stack}_root_db", pattern=NAME, want="a service name")
    if not service.startswith(f"{stack}_") or service == f"{stack}_":
        top.fail("db_service_name", f"{service!r} must start with the stack's name: '{stack}_...'")
    image = images.text("postgres", "postgres:17-bookworm", pattern=IMAGE, want="an image name")
    pinned = _PG_IMAGE.fullmatch(image)
    if image and not pinned:
        images.fail(
            "postgres",
            f"{image!r} must be pinned to a major version and a distribution suite, "
            "such as 'postgres:17-bookworm' (another suite's glibc sorts text differently "
            "and so breaks the indexes that are there)",
        )
    section = top.section("db")
    postgres = Postgres(
        stack=stack,
        service=service,
        image=image,
        major=int(pinned["major"]) if pinned else 0,
        databases=top.texts("pg_db", ("nocodb",), pattern=PG_NAME, want="letters, digits, _ . -"),
        user=top.text("pg_user", "nocodb", pattern=PG_NAME, want="letters, digits, _ . -"),
        data_host=section.text("data_host", "", pattern=NAME, want="a host of this file"),
        endpoint_mode=section.choice("endpoint_mode", "dnsrr", ("dnsrr", "vip")),
        volume=section.text("volume", "pgdata", pattern=NAME, want="a volume's name"),
    )
    section.finish()
    return postgres


def read_app(section: Section, stacks: Section, images: Section, project: str) -> App:
    """The section `app`, but for its domain."""
    app = App(
        stack=stacks.text(
            "app", with_project(project, "appstack"), pattern=NAME, want="a stack name"
        ),
        image=images.text("nocodb", "nocodb/nocodb:0.301.3", pattern=IMAGE, want="an image name"),
        replicas=section.integer("replicas", 1, low=1, high=100),
        port=section.integer("port", 8080, low=1, high=65535),
        port_mode=section.choice("port_mode", "ingress", ("ingress", "host")),
        endpoint_mode=section.choice("endpoint_mode", "vip", ("vip", "dnsrr")),
        public_url=section.text("public_url", "", pattern=URL, want="http(s)://host[:port][/path]"),
    )
    if app.endpoint_mode == "dnsrr" and app.port_mode == "ingress":
        section.fail(
            "endpoint_mode", "dnsrr needs app.port_mode: host (Docker's routing mesh is VIP only)"
        )
    return app


def with_project(project: str, stack: str) -> str:
    """What a stack is called in a project, "" for the one without a name."""
    return f"{project}-{stack}" if project else stack


def read_vault(section: Section, base: Path) -> Vault:
    """The section `vault`."""
    vault = Vault(
        file=_path(section, "file", "vault.yml", base),
        password_file=optional_path(section, "password_file", base),
    )
    section.finish()
    return vault


def read_notify(section: Section, top: Section) -> Notify:
    """The section `notify`; without it nothing is told."""
    if "notify" not in top:
        return Notify()
    notify = Notify(
        on=section.texts("on", ("failure", "recovered"), pattern="|".join(NOTIFY_ON),
                         want=", ".join(NOTIFY_ON)),
        commands=section.texts("commands", NOTIFYING, pattern="|".join(map(re.escape, NOTIFYING)),
                               want=", ".join(NOTIFYING)),
    )  # fmt: skip
    section.finish()
    return notify


def _path(section: Section, key: str, default: str, base: Path) -> Path:
    text = section.text(key, default)
    try:
        return (base / Path(text).expanduser()).absolute()
    except RuntimeError:  # ~name of nobody, or no home at all
        section.fail(key, f"{text!r}: there is no such home directory")
        return base


def optional_path(section: Section, key: str, base: Path) -> Path | None:
    """A path, relative to `base`; None where the key is not given."""
    return _path(section, key, "", base) if section.text(key, "") else None
