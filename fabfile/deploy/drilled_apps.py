"""How a drill starts the other apps on what it has restored: a file for the db hosts, by which
restore-pg.sh runs each app's main service without Swarm, beside the throwaway PostgreSQL.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fabfile.base.errors import ConfigError
from fabfile.deploy import other_app_stack
from fabfile.deploy.service_spec import specification

if TYPE_CHECKING:
    from fabfile.config.apps import OtherApp
    from fabfile.config.inventory import Inventory
    from fabfile.vault.reading import Secrets

_HEAD = """\
# How a drill starts the app of a database on what it has restored. Made by 'inv backup.install'.
case $DATABASE in
"""
_ENVIRONMENT = "/environment"
"""What stands for a target where the content is the variables."""


def settings(inventory: Inventory, secrets: Secrets) -> bytes:
    """The file; b"" where drills start no other app. Raises ConfigError as `other_app` does, and
    for a variable that no file for `docker run` can hold.
    """
    if not inventory.backup.drill_with_app:
        return b""
    parts = [
        f"{shlex.quote(app.databases[0])})\n{_of(app, inventory, secrets)};;\n"
        for app in inventory.apps
        if app.drillable
    ]
    return (_HEAD + "".join(parts) + "esac\n").encode() if parts else b""


def _of(app: OtherApp, inventory: Inventory, secrets: Secrets) -> str:
    assert app.health
    wanted = other_app_stack.drilled(app, inventory, secrets)
    spec, _ = specification(wanted.compose, app.service, wanted.name)
    container = spec["TaskTemplate"]["ContainerSpec"]
    contents = {one.version.name: one.content for one in wanted.secrets}
    entry = container["Command"] or []
    arrays = {
        "APP_OPTIONS": _options(container, entry),
        "APP_WORDS": [*entry[1:], *(container["Args"] or [])],
        "APP_CONTENTS": [*_variables(app, container), *_files(container, contents)],
    }
    values = {
        "APP": container["Image"],
        "APP_NAME": app.name,
        "APP_PORT": str(app.port),
        "APP_PATH": app.health.path,
        "APP_STATUS": str(app.health.status),
    }
    lines = [f"{key}={shlex.quote(value)}" for key, value in values.items()]
    lines += [f"{key}=({shlex.join(words)})" for key, words in arrays.items()]
    return "".join(f"  {line}\n" for line in lines)


def _options(container: Mapping[str, Any], entry: list[str]) -> list[str]:
    """Options of `docker run`. Volumes are empty: what is in the app's own lies elsewhere."""
    options = ["--entrypoint", entry[0]] if entry else []
    options += ["--user", container["User"]] if container["User"] else []
    options += ["--workdir", container["Dir"]] if container["Dir"] else []
    options += [
        flag
        for key, flag in (("ReadOnly", "--read-only"), ("Init", "--init"), ("TTY", "--tty"))
        if container[key]
    ]
    for mount in container["Mounts"] or ():
        kind = "--tmpfs" if mount.get("Type") == "tmpfs" else "--volume"
        options += [kind, str(mount["Target"])]
    for key, option in (("CapabilityAdd", "--cap-add"), ("CapabilityDrop", "--cap-drop")):
        for name in container[key] or ():
            options += [option, name]
    return options


def _variables(app: OtherApp, container: Mapping[str, Any]) -> list[str]:
    """Those with a value, in the form of a file for `docker run`, which has a line for each."""
    lines = [line for line in container["Env"] or () if "=" in line]
    for line in lines:
        if "\n" in line:
            raise ConfigError(
                f"{app.compose}: {line.partition('=')[0]} has several lines, which a drill cannot "
                "hand over",
                hint="put it into a config or a secret, or set backup.drill_with_app: false",
            )
    return _content(_ENVIRONMENT, "400", "0:0", "".join(f"{line}\n" for line in lines).encode())


def _files(container: Mapping[str, Any], contents: Mapping[str, bytes]) -> Iterable[str]:
    """Secrets and configs whose content is known: one that somebody else made is left out."""
    for kind, folder in (("Secret", "/run/secrets/"), ("Config", "/")):
        for item in container[f"{kind}s"] or ():
            file, content = item["File"], contents.get(item[f"{kind}Name"])
            if content is not None:
                target = file["Name"] if file["Name"].startswith("/") else folder + file["Name"]
                owner = f"{file['UID']}:{file['GID']}"
                yield from _content(target, f"{file['Mode']:o}", owner, content)


def _content(target: str, mode: str, owner: str, content: bytes) -> list[str]:
    return [target, mode, owner, base64.b64encode(content).decode()]
