"""How a host is reached: what hosts.yaml says, and ~/.ssh/config where hosts.yaml asks for it.

hosts.yaml wins; ~/.ssh/config is read with paramiko's reader, in which Match works as far as
paramiko knows it. Include, which it does not know, is put in place here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabfile.base.errors import ConfigError

if TYPE_CHECKING:
    import paramiko

    from fabfile.config.inventory import Gateway, HostEntry, Ssh

_LINE = re.compile(r"\s*(?P<key>[A-Za-z]+)(?:\s*=\s*|\s+)(?P<value>.*\S)\s*")
_JUMP = re.compile(r"(?:(?P<user>[^@]+)@)?(?P<host>\[[^]]+\]|[^:@]+)(?::(?P<port>\d+))?")
_DEEP = 8
"""Files in files, and jumps of jumps, that are followed."""
HOSTS, CONFIG, DEFAULT = "hosts.yaml", "ssh config", "default"


@dataclass(frozen=True)
class Target:
    """One machine on the way, with everything that is needed to reach it.

    `known_as` is what known_hosts calls it. `sources` tells where each value came from.
    """

    label: str
    address: str
    port: int
    user: str
    keys: tuple[Path, ...]
    known_as: str
    known_hosts: tuple[Path, ...]
    agent: bool = True
    """Whether the agent's keys may be tried beside `keys`."""
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """A host, and the machines to jump over, in the order in which they are passed."""

    target: Target
    jumps: tuple[Target, ...] = ()

    def __str__(self) -> str:
        """What `inv doctor` shows: which values come from where."""
        said = [f"{what} from {source}" for what, source in self.target.sources.items()]
        over = ", ".join(jump.label for jump in self.jumps)
        return "; ".join([*([f"over {over}"] if over else []), *said])


def route(ssh: Ssh, entry: HostEntry) -> Route:
    """How a host is reached. Raises ConfigError for what is not supported of ~/.ssh/config."""
    config = _load(ssh.config) if ssh.config else None
    own = _Own(ssh, entry.address, entry.user, entry.port, entry.given, ssh.key)
    target, asked = _target(f"{entry.name} ({entry.address}:{entry.port})", own, config)
    if ssh.gateway:
        return Route(target, (_gateway(ssh, ssh.gateway, config),))
    return Route(target, _jumps(ssh, config, asked, 0))


@dataclass(frozen=True)
class _Own:
    """What hosts.yaml says of a machine; `given` are the keys that it really names."""

    ssh: Ssh
    address: str
    user: str
    port: int
    given: frozenset[str]
    key: Path | None


def _gateway(ssh: Ssh, gateway: Gateway, config: paramiko.SSHConfig | None) -> Target:
    given = frozenset({"user", "port"})
    own = _Own(ssh, gateway.address, gateway.user, gateway.port, given, gateway.key or ssh.key)
    return _target(f"gateway ({gateway.address}:{gateway.port})", own, config)[0]


def _jumps(
    ssh: Ssh, config: paramiko.SSHConfig | None, asked: str, depth: int
) -> tuple[Target, ...]:
    """The machines that ProxyJump names, the first first; the first may have jumps of its own."""
    if config is None or asked.lower() in ("", "none"):
        return ()
    if depth >= _DEEP:
        raise ConfigError(f"{ssh.config}: ProxyJump {asked!r} leads to itself", hint="correct it")
    found: list[Target] = []
    for number, hop in enumerate(asked.split(",")):
        match = _JUMP.fullmatch(hop.strip().removeprefix("ssh://"))
        if match is None:
            raise ConfigError(f"{ssh.config}: ProxyJump {hop!r} is no host", hint="correct it")
        user, address, port = match["user"], match["host"].strip("[]"), match["port"]
        given = frozenset(k for k, v in (("user", user), ("port", port)) if v)
        own = _Own(ssh, address, user or ssh.user, int(port or 22), given, None)
        target, further = _target(f"jump host {address}", own, config)
        if number == 0:
            found += _jumps(ssh, config, further, depth + 1)
        found.append(target)
    return tuple(found)


def _target(label: str, own: _Own, config: paramiko.SSHConfig | None) -> tuple[Target, str]:
    """A machine, and what its ProxyJump says."""
    said: Mapping[str, Any] = config.lookup(own.address) if config else {}
    if str(said.get("proxycommand", "none")).lower() != "none":
        raise ConfigError(
            f"{own.ssh.config}: ProxyCommand for {own.address} is not supported",
            hint="use ProxyJump there, or ssh.gateway in hosts.yaml",
        )
    address = str(said.get("hostname", own.address))
    sources = {"address": CONFIG} if address != own.address else {}

    def chosen(what: str, mine: Any, key: str) -> Any:
        if what in own.given or key not in said:
            sources[what] = HOSTS if what in own.given else DEFAULT
            return mine
        sources[what] = CONFIG
        return said[key]

    user, port = str(chosen("user", own.user, "user")), int(chosen("port", own.port, "port"))
    keys, agent = _keys(own, said, sources)
    alias = said.get("hostkeyalias")
    known_as = str(alias) if alias else address if port == 22 else f"[{address}]:{port}"
    files: tuple[Path, ...] = (own.ssh.known_hosts,)
    if "userknownhostsfile" in said and "known_hosts" not in own.ssh.given:
        files = tuple(_path(word) for word in str(said["userknownhostsfile"]).split())
        sources["known_hosts"] = CONFIG
    at = label if address == own.address else f"{label}, which is {address}:{port}"
    jump = str(said.get("proxyjump", ""))
    return Target(at, address, port, user, keys, known_as, files, agent, sources), jump


def _keys(
    own: _Own, said: Mapping[str, Any], sources: dict[str, str]
) -> tuple[tuple[Path, ...], bool]:
    """The keys to try, and whether the agent's may be tried, too."""
    if own.key:
        sources["key"] = HOSTS
        return (own.key,), False
    named = tuple(p for p in map(_path, said.get("identityfile") or ()) if p.exists())
    if named:
        sources["key"] = CONFIG
        return named, str(said.get("identitiesonly", "no")).lower() != "yes"
    sources["key"] = DEFAULT
    return (), True


def _path(text: str) -> Path:
    return Path(text.strip('"')).expanduser()


def _load(path: Path) -> paramiko.SSHConfig:
    """~/.ssh/config with what it includes. Raises ConfigError."""
    import paramiko

    try:
        text = "\n".join(_with_included(path.read_text(encoding="utf-8").splitlines(), path, 0))
        return paramiko.SSHConfig.from_text(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {error}", hint="check ssh.config in hosts.yaml"
        ) from None
    except (paramiko.SSHException, ValueError) as error:
        raise ConfigError(f"{path}: {error}", hint="ssh -G HOST shows what OpenSSH says") from None


def _with_included(lines: Sequence[str], path: Path, depth: int) -> list[str]:
    """The lines, with those of the files that they include in place.

    A Host or Match of an included file ends with it (ssh_config(5), Include): so after it, the
    block that it stands in goes on.
    """
    if depth > _DEEP:
        raise ConfigError(f"{path}: Include leads to itself", hint="correct it")
    found: list[str] = []
    block = ""
    for line in lines:
        match = _LINE.fullmatch(line)
        key = match["key"].lower() if match else ""
        if key in ("host", "match"):
            block = line
        if match is None or key != "include":
            found.append(line)
            continue
        for file in _included(match["value"], path):
            text = file.read_text(encoding="utf-8").splitlines()
            inner = _with_included(text, file, depth + 1)
            blocks = [one for one in inner if re.match(r"\s*(host|match)\b", one, re.I)]
            if block and blocks:
                raise ConfigError(
                    f"{path}: Include of {file} inside {block.strip()!r}, with "
                    f"{blocks[0].strip()!r} in it, is not supported",
                    hint="move that Include to the top of the file",
                )
            found += [*inner, *([block or "Host *"] if blocks or block else [])]
    return found


def _included(value: str, path: Path) -> list[Path]:
    """The files that an Include names; relative ones lie beside the user's own configuration."""
    files: list[Path] = []
    for word in value.split():
        pattern = path.parent / _path(word)
        root = Path(pattern.anchor)
        files += sorted(root.glob(str(pattern.relative_to(root))))
    return files
