"""The folder from which every tool works: hosts, host keys, compose files, backup files, secrets.

The three peers get their files filled in: they pay for no templates.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fabfile.backup import host_files, host_kit
from fabfile.config import hosts_file
from fabfile.deploy import compose_file, secret_versions, stacks
from fabfile.vault import reading
from lab.files import SSH_KEY
from lab.model import NODES, Lab

SSH_PORT = 22
GROUPS = {"manager": "manager1", "db": "db1"}
"""Which hosts the peers talk to. Swarmkeep asks app1 too: whether NocoDB really answers."""

VAULT = Path("group_vars/all/vault.yml")
"""Where Ansible looks for it by itself."""

Address = tuple[str, int]


def write(folder: Path, lab: Lab, nodes: Mapping[str, Address]) -> None:
    """Fill a folder. `nodes` is where each node's sshd is reached: name -> address, port."""
    _ssh_files(folder, lab, nodes)
    _hosts_file(folder, lab, nodes)
    _ansible_inventory(folder)
    vault_file = folder / VAULT
    vault_file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(lab.directory / "vault.yml", vault_file)
    _content(folder)


def _private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _ssh_files(folder: Path, lab: Lab, nodes: Mapping[str, Address]) -> None:
    """known_hosts and ssh_config: the lab's host keys, under the addresses used here."""
    names = {lab.addresses[node]: node for node in NODES}
    lines = []
    for line in (lab.directory / "known_hosts").read_text().splitlines():
        address, rest = line.split(" ", 1)
        host, port = nodes[names[address]]
        lines.append(f"{host if port == SSH_PORT else f'[{host}]:{port}'} {rest}\n")
    (folder / "known_hosts").write_text("".join(lines))
    hosts = "".join(
        f"Host {name}\n  HostName {host}\n  Port {port}\n" for name, (host, port) in nodes.items()
    )
    (folder / "ssh_config").write_text(
        f"{hosts}Host *\n  User root\n  IdentityFile {lab.directory / SSH_KEY}\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {folder / 'known_hosts'}\n"
        "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n"
    )


def _hosts_file(folder: Path, lab: Lab, nodes: Mapping[str, Address]) -> None:
    """The lab's hosts.yaml with the nodes' addresses as they are reached here."""
    data: dict[str, Any] = yaml.safe_load(lab.hosts_file.read_text())
    for name, (host, port) in nodes.items():
        data["hosts"][name] |= {"address": host, "port": port}
    data["ssh"] |= {"key": str(lab.directory / SSH_KEY), "known_hosts": "known_hosts"}
    # The peers do the database's backup only.
    data["backup"] |= {"files": False}
    data["vault"] = {"file": str(VAULT), "password_file": str(lab.directory / "vault-password")}
    (folder / "hosts.yaml").write_text(yaml.safe_dump(data, sort_keys=False))


def _ansible_inventory(folder: Path) -> None:
    groups = {group: {"hosts": {name: None}} for group, name in GROUPS.items()}
    options = {
        "work": str(folder),
        "ansible_ssh_common_args": f"-F {folder / 'ssh_config'}",
    }
    data = {"all": {"vars": options, "children": groups}}
    (folder / "inventory.yml").write_text(yaml.safe_dump(data))


def _content(folder: Path) -> None:
    """Compose files, backup files and secrets, as Swarmkeep itself would have them."""
    known = hosts_file.load(folder / "hosts.yaml")
    secrets = reading.load(known.vault)
    contents = {}
    for stack in (stacks.database(known, secrets), stacks.application(known, secrets)):
        (folder / f"compose-{stack.role}.yml").write_text(_compose_file(stack))
        for secret in stack.secrets:
            contents[_plain_name(secret, stack)] = secret.content.decode()
    for file in host_files.files(known.with_role("db")[0], known, secrets):
        text = file.content.decode()
        if file.path == host_kit.DATABASE.credentials:
            contents["aws"] = text
        elif file.path in _FILES:
            (folder / _FILES[file.path]).write_text(text)
    _private(folder / "secrets.json", json.dumps(contents))
    for name, text in contents.items():
        _private(folder / f"{name}.secret", text)


# The peers are spared the scripts of the way back, which they have nothing like.
_FILES = {
    host_kit.DATABASE.script: "backup-pg.sh",
    **{path: path.rpartition("/")[2] for path in host_kit.SHARED},
    host_kit.DATABASE.config: "backup-pg.conf",
    host_kit.DATABASE.cron: "backup-pg.cron",
    host_kit.DATABASE.logrotate: "backup-pg.logrotate",
}


def _plain_name(secret: secret_versions.SecretContent, stack: stacks.Wanted) -> str:
    return secret.version.base.removeprefix(f"{stack.name}_")


def _compose_file(stack: stacks.Wanted) -> str:
    """The stack's file with the peers' names for secrets, and without Swarmkeep's own label."""
    data: dict[str, Any] = json.loads(json.dumps(stack.compose))
    names = {secret.version.name: f"{_plain_name(secret, stack)}_v1" for secret in stack.secrets}
    for entry in data["secrets"].values():
        entry["name"] = names[entry["name"]]
    for service in data["services"].values():
        placement = service["deploy"]["placement"]
        placement["constraints"] = [c for c in placement["constraints"] if "swarmkeep" not in c]
    return compose_file.to_stack_input(data)
