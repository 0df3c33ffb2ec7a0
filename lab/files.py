"""The lab's state in .lab/<name>: keys, vault, hosts file. For the owner's eyes only (0600)."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
from pathlib import Path
from typing import Any

from lab import images, s3
from lab.model import DEFAULT_NAME, NOCODB_PORT, NODES, REGION, Lab

SSH_KEY = "id_ed25519"


def write(path: Path, content: str) -> bool:
    """Write a file for its owner alone, at once or not at all; return whether it changed."""
    if path.exists() and path.read_text() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
    partial.rename(path)
    return True


def remember(lab: Lab) -> None:
    """Keep what the lab is: its subnet must be the same next time."""
    write(lab.directory / "lab.json", json.dumps({"name": lab.name, "subnet": lab.subnet}) + "\n")


def credentials(lab: Lab) -> dict[str, Any]:
    """The lab's passwords and keys; passwords are made up at the first call and kept."""
    path = lab.directory / "credentials.json"
    if path.exists():
        return lab.secrets
    made = {
        name: secrets.token_urlsafe(24)
        for name in ("postgres_password", "vault_password", "name_key", "deploy_password")
    }
    keep_credentials(lab, made)
    return made


def keep_credentials(lab: Lab, values: dict[str, Any]) -> bool:
    """Write credentials.json; return whether anything in it is new."""
    return write(lab.directory / "credentials.json", json.dumps(values, indent=2) + "\n")


def ssh_public_key(lab: Lab) -> str:
    """The public half of the lab's SSH key, which is made at the first call."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = lab.directory / SSH_KEY, lab.directory / f"{SSH_KEY}.pub"
    if not private.exists() or not public.exists():
        key = Ed25519PrivateKey.generate()
        text = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        write(public, f"{text.decode()} lab-{lab.name}\n")
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        write(private, pem.decode())
    return public.read_text().strip()


def write_known_hosts(lab: Lab, host_keys: dict[str, str]) -> bool:
    """Write known_hosts. `host_keys` is node -> its public keys, a line each, from inside it."""
    lines = []
    for node in NODES:
        for line in host_keys[node].splitlines():
            kind, key = line.split()[:2]
            lines.append(f"{lab.addresses[node]} {kind} {key}\n")
    return write(lab.directory / "known_hosts", "".join(lines))


def write_all(lab: Lab, values: dict[str, Any], *, vault_is_stale: bool) -> None:
    """Write the files that commands read. What is there and may have been edited stays."""
    directory = lab.directory
    write(directory / "vault-password", values["vault_password"] + "\n")
    if vault_is_stale or not (directory / "vault.yml").exists():
        write(directory / "vault.yml", _vault(values))
    if not lab.hosts_file.exists():
        write(lab.hosts_file, hosts_yaml(lab))
    operator = values[s3.OPERATOR]
    write(
        directory / "aws/credentials",
        f"[default]\naws_access_key_id = {operator['access_key']}\n"
        f"aws_secret_access_key = {operator['secret_key']}\n",
    )
    write(directory / "aws/config", f"[default]\nregion = {REGION}\n")
    write(directory / "env", environment_file(lab))


def _vault(values: dict[str, Any]) -> str:
    from fabfile.vault.reading import encrypt

    entries = {
        "vault_postgres_password": values["postgres_password"],
        "vault_aws_access_key_id": values[s3.NODE]["access_key"],
        "vault_aws_secret_access_key": values[s3.NODE]["secret_key"],
        "vault_name_key": values["name_key"],
    }
    # JSON strings are YAML strings.
    text = "---\n" + "".join(f"{name}: {json.dumps(value)}\n" for name, value in entries.items())
    return encrypt(text.encode(), values["vault_password"])


def environment_file(lab: Lab) -> str:
    """A shell file to source: afterwards `inv` is found, and it, boto3 and `aws` mean this lab."""
    lines = ["# made by 'inv lab.up'; use it with: . " + shlex.quote(str(lab.directory / "env"))]
    # These would win over the files.
    lines.append("unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE")
    lines += [f"export {name}={shlex.quote(value)}" for name, value in lab.settings().items()]
    # `inv` is the one that made the lab, in a shell in which nobody has activated anything.
    programs = shlex.quote(str(Path(sys.executable).parent))
    lines.append(f'case ":$PATH:" in *:{programs}:*) ;; *) export PATH={programs}:"$PATH" ;; esac')
    return "\n".join(lines) + "\n"


def hosts_yaml(lab: Lab) -> str:
    """The lab's hosts file: one manager, one db and one app node, the lab's own S3."""
    addresses = lab.addresses
    name = "" if lab.name == DEFAULT_NAME else f" --name {lab.name}"
    return f"""\
# The lab's hosts file, made by 'inv lab.up{name}'. Edit it as you like: it is made again only
# after 'inv lab.down{name}'.
ssh:
  user: root
  key: {SSH_KEY}
  known_hosts: known_hosts

hosts:
  manager1: {{address: {addresses["manager1"]}, swarm: manager}}
  db1:      {{address: {addresses["db1"]}, swarm: worker, role: db}}
  app1:     {{address: {addresses["app1"]}, swarm: worker, role: app}}

network: backend
stacks: {{db: dbstack, app: appstack}}
images:
  postgres: {images.POSTGRES.tag}
  nocodb: {images.NOCODB.tag}

pg_db: nocodb
pg_user: nocodb
db_service_name: dbstack_root_db

db: {{endpoint_mode: dnsrr}}
app:
  port: {NOCODB_PORT}
  # Works on every kernel; the routing mesh would need IPVS.
  port_mode: host
  endpoint_mode: dnsrr
  public_url: {lab.nocodb_url}

deploy: {{resolve_image: never}}   # the nodes' images were loaded, there is no registry to ask

vault:
  file: vault.yml
  password_file: vault-password

s3_bucket_name: {lab.bucket}
aws_region: {REGION}
backup:
  endpoint_url: {lab.s3_url}
  min_size: 1KiB
"""
