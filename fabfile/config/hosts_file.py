"""hosts.yaml -> Inventory: the file as a whole; each key is read in hosts_file_keys.py
and hosts_file_backup_keys.py.

Every mistake of the file is reported in one go.

Nothing here opens a connection. Relative paths in the file are relative to the file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fabfile.base import yaml_text
from fabfile.base.errors import ConfigError
from fabfile.base.schema import Section
from fabfile.config.apps import OtherApp
from fabfile.config.hosts_file_apps_keys import read_apps
from fabfile.config.hosts_file_backup_keys import read_backup
from fabfile.config.hosts_file_keys import (
    NAME,
    REGISTRY,
    read_app,
    read_host,
    read_notify,
    read_postgres,
    read_ssh,
    read_vault,
)
from fabfile.config.hosts_file_proxy_keys import read_proxy, with_domain
from fabfile.config.inventory import RESOLVE_IMAGE, Inventory, Postgres

DEFAULT_FILE = "hosts.yaml"
ENVIRONMENT = "SWARMKEEP_HOSTS"
# It becomes part of paths, names of Docker's and of cron's, labels and keys.
_PROJECT = r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?"
_PROJECT_ID = r"[0-9a-f]{16}"
_RESERVED = ("postgres", "files", "wal")
"""What keys in the bucket begin with where the project has no name."""


def locate(flag: str | None) -> Path:
    """Return the file to read: --hosts if given, else $SWARMKEEP_HOSTS, else ./hosts.yaml."""
    named = flag or os.environ.get(ENVIRONMENT) or DEFAULT_FILE
    try:
        return Path(named).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"{named!r}: no such hosts file: {error}") from None


def load(path: Path) -> Inventory:
    """Read a hosts file.

    Raises ConfigError naming every mistake with its path in the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such hosts file",
            hint="copy hosts.yaml from the repository and edit it, or name yours with --hosts FILE",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {error}",
            hint="check its permissions and that it is UTF-8 text",
        ) from None
    return parse(text, path)


def parse(text: str, path: Path) -> Inventory:
    """As `load`, with the text of the file."""
    try:
        data = yaml_text.parse(text, yaml_text.PlainNumbers)
    except yaml_text.YamlTextError as error:
        raise ConfigError(f"{path}: {error}", details=error.details) from None
    if data is None:
        raise ConfigError(f"{path}: is empty", hint="docs/hosts.md lists what belongs in it")
    errors: list[str] = []
    inventory = _read(Section(data, "", errors), path)
    if errors:
        count = "one mistake" if len(errors) == 1 else f"{len(errors)} mistakes"
        raise ConfigError(f"{path}: {count}", details=tuple(errors))
    return inventory


def _read(top: Section, path: Path) -> Inventory:
    base = path.parent
    ssh = read_ssh(top.section("ssh"), base)
    hosts = tuple(read_host(name, entry, ssh) for name, entry in top.section("hosts").sections())
    stacks = top.section("stacks")
    images = top.section("images")
    project = _read_project(top)
    proxy = read_proxy(top, stacks, images, hosts, project, base)
    app_section = top.section("app")
    postgres = read_postgres(top, stacks, images, project)
    app = with_domain(read_app(app_section, stacks, images, project), app_section, proxy)
    apps = read_apps(top.section("apps"), postgres, app, proxy, project, base)
    inventory = Inventory(
        path=path,
        ssh=ssh,
        hosts=hosts,
        network=top.text("network", "backend", pattern=NAME, want="a Docker network name"),
        postgres=with_apps(postgres, apps),
        app=app,
        apps=apps,
        proxy=proxy,
        backup=read_backup(top.section("backup"), top, stacks, images, project),
        vault=read_vault(top.section("vault"), base),
        deploy_timeout=(deploy := top.section("deploy")).duration(
            "timeout", 600, low=1, high=86400
        ),
        resolve_image=deploy.choice("resolve_image", "changed", RESOLVE_IMAGE),
        registry=top.text("registry", "", pattern=REGISTRY, want="host or host:port"),
        project=project,
        notify=read_notify(top.section("notify"), top),
        project_id=top.text(
            "project_id", "", pattern=_PROJECT_ID, want="16 hex digits, as inv doctor shows them"
        ),
    )
    if inventory.app.stack == inventory.postgres.stack:
        stacks.fail("app", f"{inventory.app.stack!r} is also stacks.db: want two separate stacks")
    for one in inventory.apps:
        if one.volumes and inventory.backup.mode == "container":
            top.fail(f"apps.{one.name}.volumes", "are backed up with 'backup.mode: host' only")
        if one.volumes and not inventory.backup.files:
            top.fail(f"apps.{one.name}.volumes", "are not backed up with 'backup.files: false'")
    others = tuple(one.stack for one in inventory.apps)
    if inventory.backup.stack in (*inventory.stacks, *others):
        stacks.fail("backup", f"{inventory.backup.stack!r} is another stack's name, too")
    if inventory.proxy.stack in (*inventory.stacks, *others, inventory.backup.stack):
        stacks.fail("proxy", f"{inventory.proxy.stack!r} is another stack's name, too")
    for section in (app_section, stacks, images, deploy):
        section.finish()
    top.finish(extensions=True)
    _check_hosts(inventory, top.section("hosts"))
    return inventory


def with_apps(postgres: Postgres, apps: Sequence[OtherApp]) -> Postgres:
    """The database with the databases of the apps beside NocoDB, which are backed up like its."""
    return replace(
        postgres, databases=(*postgres.databases, *(name for one in apps for name in one.databases))
    )


def _read_project(top: Section) -> str:
    name = top.text(
        "project", "", pattern=_PROJECT, want="up to 30 lower-case letters, digits and inner '-'"
    )
    if name in _RESERVED:
        top.fail("project", f"{name!r} is what the bucket's own folders are called: choose another")
    return name


def _check_hosts(inventory: Inventory, hosts: Section) -> None:
    """Mistakes that only show when all hosts are seen together."""
    errors = hosts.errors
    if not inventory.hosts:
        errors.append("hosts: is missing or empty: name at least one manager and one db host")
        return
    if not inventory.managers():
        errors.append("hosts: no host has 'swarm: manager'")
    databases = [host.name for host in inventory.with_role("db")]
    if not databases:
        errors.append("hosts: no host has 'role: db'")
    _refuse_duplicates(inventory, hosts)
    chosen = inventory.postgres.data_host
    if chosen and chosen not in databases:
        errors.append(f"db.data_host: {chosen!r} is not a host with 'role: db'")


def _refuse_duplicates(inventory: Inventory, hosts: Section) -> None:
    addresses: dict[tuple[str, int], str] = {}
    nodes: dict[str, str] = {}
    for host in inventory.hosts:
        path = hosts.at(host.name)
        first = addresses.setdefault((host.address.lower(), host.port), path)
        if host.address and first != path:
            hosts.errors.append(f"{path}.address: {host.address}:{host.port} is already {first}")
        first = nodes.setdefault(host.node, path)
        if first != path:
            hosts.errors.append(f"{path}.node: {host.node!r} is already {first}")
