"""Releases: what each successful deploy put into the Swarm, kept in the Swarm, to go back to
(inv rollback: commands/rollback.py).

Each is a Docker config: every manager has it, a number is given only once, and it is gone
with the Swarm it describes. It holds no secret, only the names of secret versions.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fabfile.base import json_text
from fabfile.base.errors import SwarmkeepError
from fabfile.deploy.secret_versions import SecretContent
from fabfile.deploy.stacks import Wanted
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command
from fabfile.swarm.docker_commands import RECORD_LABEL
from fabfile.swarm.state import Cluster

KEPT = 10
"""Releases kept of each stack, the current one among them."""
_STACK, _NUMBER, _DIGEST, _SECRETS = (
    f"{RECORD_LABEL}.{key}" for key in ("stack", "number", "digest", "secrets")
)


@dataclass(frozen=True)
class Mark:
    """What every look at a cluster tells about a release, without reading it."""

    id: str
    number: int
    digest: str
    secrets: tuple[str, ...]


@dataclass(frozen=True)
class Release:
    """One successful deploy of a stack. `at` is RFC 3339, the Swarm leader's time.

    `images` maps services (without the stack's name) to what really ran, with its
    digest where a registry gave one. `origin` is the release it goes back to, or 0.
    """

    number: int
    stack: str
    role: str
    at: str
    who: str
    commit: str
    command: str
    compose: Mapping[str, Any]
    images: Mapping[str, str]
    secrets: tuple[str, ...]
    origin: int
    shown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """See `Wanted.shown`."""


def digest(wanted: Wanted, images: Mapping[str, str]) -> str:
    """What identifies a stack's content, its secret versions and the images that really run."""
    text = json.dumps([wanted.compose, dict(images)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def marks(cluster: Cluster, stack: str) -> tuple[Mark, ...]:
    """The stack's releases, the oldest first."""
    found = [
        Mark(
            record.id,
            int(record.labels[_NUMBER]),
            record.labels.get(_DIGEST, ""),
            tuple(filter(None, record.labels.get(_SECRETS, "").split(":"))),
        )
        for record in cluster.records
        if record.labels.get(_STACK) == stack
    ]
    return tuple(sorted(found, key=lambda mark: mark.number))


def is_recorded(wanted: Wanted, cluster: Cluster) -> bool:
    """Whether the newest release is this content with the images that run now."""
    there = marks(cluster, wanted.name)
    return bool(there) and there[-1].digest == digest(wanted, running_images(cluster, wanted))


def secrets_to_keep(kept: Sequence[Mark]) -> set[str]:
    """The secret versions that a way back may need."""
    return {name for mark in kept for name in mark.secrets}


def running_images(cluster: Cluster, wanted: Wanted) -> dict[str, str]:
    """What each service really runs."""
    prefix = f"{wanted.name}_"
    return {
        service.name.removeprefix(prefix): service.image
        for service in cluster.stack(wanted.name)
        if service.name in wanted.services
    }


def record_script(
    wanted: Wanted, after: Cluster, *, who: str, commit: str, command: str, origin: int
) -> tuple[int, str, bytes]:
    """The release's number, the script that keeps it and lets the oldest go, and its stdin."""
    there = marks(after, wanted.name)
    number = there[-1].number + 1 if there else 1
    there_secrets = {version.name for version in after.secrets}
    versions = sorted(_declared_secrets(wanted) & there_secrets)
    images = running_images(after, wanted)
    content = {
        "role": wanted.role,
        "who": who,
        "commit": commit,
        "command": command,
        "origin": origin,
        "compose": wanted.compose,
        "images": images,
    }
    if wanted.shown:
        content["shown"] = {key: sorted(names) for key, names in wanted.shown.items()}
    labels = {
        RECORD_LABEL: "release",
        _STACK: wanted.name,
        _NUMBER: str(number),
        _DIGEST: digest(wanted, images),
        _SECRETS: ":".join(versions),
    }
    words = " ".join(f"--label {key}={value}" for key, value in labels.items())
    script = (
        f"docker config create {words} {_name(wanted.name, number)} - >/dev/null && echo kept\n"
    )
    old = [mark.id for mark in there[: -(KEPT - 1)]]
    if old:
        script += f"docker config rm {' '.join(old)} >/dev/null 2>&1 || :\n"
    return number, script, json.dumps(content, sort_keys=True).encode()


def read(manager: Host, stack: str) -> list[Release]:
    """The stack's releases, the oldest first."""
    script = (
        f"c=$(docker config ls -q --filter label={_STACK}={stack}) || exit 1\n"
        '[ -z "$c" ] || docker config inspect $c'
    )
    result = manager.check(
        Command(script, changes=False),
        "reading the releases",
        hint="is it a manager of a healthy Swarm? try: docker node ls",
    )
    try:
        items = json_text.parse(result.stdout) if result.stdout.strip() else []
        found = [_release(item) for item in items]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SwarmkeepError(
            f"{result.host}: the releases of {stack} cannot be read: {error}",
            hint=f"a config that is named swarmkeep-release-{stack}-NUMBER is damaged: "
            "docker config inspect shows which; remove it: docker config rm NAME",
        ) from None
    return sorted(found, key=lambda release: release.number)


def _release(item: Mapping[str, Any]) -> Release:
    labels = item["Spec"]["Labels"]
    content = json_text.parse(base64.b64decode(item["Spec"]["Data"]))
    return Release(
        number=int(labels[_NUMBER]),
        stack=labels[_STACK],
        role=content["role"],
        at=item["CreatedAt"],
        who=content["who"],
        commit=content["commit"],
        command=content["command"],
        compose=content["compose"],
        images=content["images"],
        secrets=tuple(filter(None, labels[_SECRETS].split(":"))),
        origin=content["origin"],
        shown=content.get("shown", {}),
    )


def choose(releases: Sequence[Release], stack: str, number: int | None) -> Release:
    """The release to go back to: the numbered one, else the one before the current one.

    What came before a release that itself went back to an earlier one is what came before
    that: going back twice goes back two steps. Raises SwarmkeepError.
    """
    if not releases:
        raise SwarmkeepError(
            f"{stack}: no release is kept, so there is nothing to go back to",
            hint="each successful 'inv deploy' keeps one",
        )
    known = ", ".join(str(release.number) for release in releases)
    if number is not None:
        found = next((r for r in releases if r.number == number), None)
        if found is None:
            raise SwarmkeepError(
                f"{stack}: there is no release {number}", hint=f"kept are: {known} (inv releases)"
            )
        return found
    current = releases[-1]
    earlier = [r for r in releases if r.number < (current.origin or current.number)]
    if not earlier:
        raise SwarmkeepError(
            f"{stack}: no release before the current one is kept",
            hint=f"kept are: {known}; name one with --to",
        )
    return earlier[-1]


def as_wanted(release: Release, main: str, hidden: tuple[str, ...]) -> Wanted:
    """The release as a stack to deploy, its images pinned to what really ran.

    `main` is the stack's main service; should the release not have it, it went by another name.
    """
    services = {
        key: {**service, "image": release.images.get(key, service["image"])}
        for key, service in release.compose["services"].items()
    }
    compose = {**release.compose, "services": services}
    image = (services.get(main) or next(iter(services.values())))["image"]
    shown = {key: frozenset(names) for key, names in release.shown.items()}
    return Wanted(release.stack, release.role, image, compose, (), hidden, shown=shown)


def with_shown(wanted: Wanted, present: Wanted) -> Wanted:
    """The same stack, of which nothing is shown either that the present one keeps to itself."""
    both = wanted.shown.keys() & present.shown.keys()
    common = {key: wanted.shown[key] & present.shown[key] for key in both}
    return replace(wanted, shown={**wanted.shown, **present.shown, **common})


def with_secrets(wanted: Wanted, release: Release, current: Sequence[SecretContent]) -> Wanted:
    """The same stack with the vault's secrets of today in the place of the release's versions."""
    today = {s.version.base: s for s in current if s.version.kind == "secret"}
    replaced = {
        version: today[base]
        for version in release.secrets
        if (base := version.rpartition("_")[0]) in today
    }
    declared = {
        key: {**entry, "name": replaced[entry["name"]].version.name}
        if entry and entry.get("name") in replaced
        else entry
        for key, entry in (wanted.compose.get("secrets") or {}).items()
    }
    compose = {**wanted.compose, "secrets": declared}
    return replace(wanted, compose=compose, secrets=tuple(replaced.values()))


def check_secrets(wanted: Wanted, release: Release, cluster: Cluster) -> None:
    """Raise SwarmkeepError if a secret version that a way back needs is gone."""
    there = {version.name for version in cluster.secrets}
    gone = sorted((set(release.secrets) & _declared_secrets(wanted)) - there)
    if not gone:
        return
    what = f"{release.stack}: release {release.number} needs the"
    if gone[0] in _names(wanted, "configs"):
        raise SwarmkeepError(
            f"{what} config {gone[0]}, which is gone",
            hint="go back to another one (inv releases), or bring its file back and run inv deploy",
        )
    raise SwarmkeepError(
        f"{what} secret {gone[0]}, which is gone",
        hint="use today's secrets from the vault instead: --with-current-secrets",
    )


def _declared_secrets(wanted: Wanted) -> set[str]:
    """Names of configs, too: some of them are versions as well."""
    return _names(wanted, "secrets") | _names(wanted, "configs")


def _names(wanted: Wanted, kind: str) -> set[str]:
    entries = (wanted.compose.get(kind) or {}).values()
    return {str(entry["name"]) for entry in entries if entry and entry.get("name")}


def _name(stack: str, number: int) -> str:
    """A config's name has at most 64 characters."""
    short = stack
    if len(stack) > 32:
        short = f"{stack[:20].rstrip('._-')}-{hashlib.sha256(stack.encode()).hexdigest()[:10]}"
    return f"swarmkeep-release-{short}-{number}"
