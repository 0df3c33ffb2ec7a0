"""How a deploy ends: what is kept, what is let go, the line in the log. Text; runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fabfile.deploy import releases
from fabfile.deploy.preflight import Allowed
from fabfile.deploy.stacks import Wanted
from fabfile.swarm import audit_log, docker_commands
from fabfile.swarm.operator import Origin
from fabfile.swarm.state import Cluster


@dataclass(frozen=True)
class Options:
    """What the flags of a deploy say. `command` is what the lock and the audit log call it."""

    command: str
    origin: Origin
    keep_failed: bool = False
    prune: bool = False
    wait: bool = False
    allowed: Allowed = field(default_factory=Allowed)
    resolve: str = ""
    """always, changed or never instead of what hosts.yaml says; "" for that."""
    goes_back_to: int = 0
    """The release that this deploy goes back to; 0 for none."""
    keep_release: bool = True
    """Whether what is deployed is a release: not where another step follows at once."""


@dataclass(frozen=True)
class Report:
    """What a deploy did. `services` maps full names to created, updated, unchanged or removed.

    `release` is the number under which it is kept now, 0 where there was nothing to keep.
    """

    stack: str
    changes: tuple[str, ...]
    services: Mapping[str, str]
    release: int = 0
    images: Mapping[str, str] = field(default_factory=dict)
    """What every service of both stacks runs now, by full name."""
    away: Mapping[str, float] = field(default_factory=dict)
    """For how many seconds no task of a service ran, by full name, where that was so."""
    at_rest: bool = False
    """Whether the stack ran as wanted from the first look on: that look is still true."""

    @property
    def changed(self) -> bool:
        """Whether anything was changed."""
        return bool(self.changes) or any(v != "unchanged" for v in self.services.values())


@dataclass(frozen=True)
class Ending:
    """The last script of a deploy and its stdin; `number` of the release it keeps, or 0.

    `log` is the part of it that only writes the line on record.
    """

    number: int
    script: str
    stdin: bytes
    log: str


def make(
    wanted: Wanted,
    cluster: Cluster,
    options: Options,
    *,
    changes: Sequence[str],
    seconds: float,
    error: str,
) -> Ending:
    """The ending of a deploy that led to `cluster`, or that failed with `error`.

    A release is kept only of a success, and only where the newest one is another.
    """
    number, keep, content = 0, "", b""
    if options.keep_release and not error and not releases.is_recorded(wanted, cluster):
        number, keep, content = releases.record_script(
            wanted,
            cluster,
            who=options.origin.who,
            commit=options.origin.commit,
            command=options.command,
            origin=options.goes_back_to,
        )
    line = audit_log.entry(
        options.origin,
        options.command,
        "failed" if error else "ok",
        stack=wanted.name,
        changes=changes,
        error=error,
        seconds=seconds,
        release=number or None,
    )
    log = audit_log.append_script(line, wanted.project.name)
    return Ending(number, keep + _remove_old_secrets(wanted, cluster) + log, content, log)


def outcome_of(wanted: Wanted, before: Cluster, after: Cluster, *, prune: bool) -> dict[str, str]:
    """What became of each service of a stack: created, updated, unchanged or removed."""
    outcome = {}
    for service in after.stack(wanted.name):
        old = before.service(service.name)
        if service.name not in wanted.services:
            if prune:
                outcome[service.name] = "removed"
        elif old is None:
            outcome[service.name] = "created"
        else:
            outcome[service.name] = "unchanged" if old.spec == service.spec else "updated"
    return outcome


def _remove_old_secrets(wanted: Wanted, cluster: Cluster) -> str:
    """Versions that neither a service nor a kept release needs. Docker keeps one in use."""
    bases = {secret.version.base for secret in wanted.secrets}
    kept = releases.marks(cluster, wanted.name)[-releases.KEPT :]
    needed = _secrets_in_use(cluster) | releases.secrets_to_keep(kept)
    ours = {s.version for s in wanted.secrets} | set(cluster.secrets)
    # What was made of a file goes, too, once the compose file does not name it any more.
    mine = (v for v in ours if v.base in bases or v.stack == wanted.name)
    old = {v for v in mine if v.name not in needed}
    return docker_commands.remove_versions(old) + "\n" if old else ""


def _secrets_in_use(cluster: Cluster) -> set[str]:
    return {
        name
        for service in cluster.services
        for name in docker_commands.versions_in_use(service.template)
    }
