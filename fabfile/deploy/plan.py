"""What a deploy would change: wanted specifications against the live ones. Pure; no I/O."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fabfile.deploy.service_spec import specification
from fabfile.deploy.spec_fields import fields, order
from fabfile.deploy.stacks import Wanted
from fabfile.swarm.docker_commands import IMAGE_LABEL
from fabfile.swarm.placement import LabelChange
from fabfile.swarm.state import Cluster, Service

_CAN_WAIT = "PostgreSQL reads this secret only when it makes a new cluster: the restart can wait"
_ASKED = "image: its digest is asked from the registry at each deploy"
# These change without a new task (swarmkit: the task template and the endpoint make one).
_WITHOUT_RESTART = ("placement", "update_config", "rollback_config", "replicas", "deploy.labels")


@dataclass(frozen=True)
class Field:
    """One field that differs; None means that it is not there on that side."""

    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class ServicePlan:
    """What would happen to one service: create, update, remove, unchanged or left.

    `left` is a service that the compose file no longer has and that stays.
    `unknown` are things that cannot be compared: the service then counts as changed.
    """

    name: str
    action: str
    fields: tuple[Field, ...] = ()
    unknown: tuple[str, ...] = ()
    restarts: bool = False
    note: str = ""
    """What else people should know of it."""

    @property
    def perhaps(self) -> bool:
        """Whether a restart depends on nothing but what cannot be compared."""
        return bool(self.unknown) and self.restarts and not any(map(_restarting, self.fields))


@dataclass(frozen=True)
class Plan:
    """What a deploy of one stack would change."""

    stack: str
    role: str
    labels: tuple[LabelChange, ...]
    network: str
    """The network's name if it would be made, else ""."""
    secrets: tuple[str, ...]
    """Secrets, by name without version, that would get another version."""
    services: tuple[ServicePlan, ...]
    resolve_image: str = "changed"
    """Whether `docker stack deploy` asks the registry for digests: always, changed or never."""
    labels_after: tuple[LabelChange, ...] = ()
    """Those that are changed once the stack has converged."""
    configs: tuple[str, ...] = ()
    """Configs of files, by name without version, that would get another version."""
    databases: tuple[str, ...] = ()
    """What would be made in PostgreSQL: "role kinto", "database kinto"."""

    @property
    def deploys(self) -> bool:
        """Whether `docker stack deploy` has something to do."""
        return any(service.action in ("create", "update") for service in self.services)

    @property
    def removes(self) -> tuple[str, ...]:
        """The services that would be removed."""
        return tuple(service.name for service in self.services if service.action == "remove")

    @property
    def actions(self) -> tuple[str, ...]:
        """What happens to services, a line each."""
        return tuple(
            f"{service.name}: {service.action}"
            for service in self.services
            if service.action in ("create", "update", "remove")
        )

    @property
    def changes(self) -> bool:
        """Whether anything would be changed."""
        around = self.labels or self.labels_after or self.network or self.secrets or self.configs
        return bool(around or self.databases or self.deploys or self.removes)

    @property
    def interrupts(self) -> tuple[str, ...]:
        """The existing services whose tasks would or may be restarted, moved or removed."""
        return tuple(service.name for service in self.services if service.restarts)

    @property
    def touches_database(self) -> bool:
        """Whether the database that runs would or may be restarted, moved or removed."""
        moved = any(change.loses == "db" for change in self.labels)
        return moved or (self.role == "db" and bool(self.interrupts))


def make(
    wanted: Wanted,
    cluster: Cluster,
    labels: Sequence[LabelChange],
    *,
    network: str,
    resolve_image: str,
    prune: bool,
    labels_after: Sequence[LabelChange] = (),
    databases: Sequence[str] = (),
) -> Plan:
    """Given what is wanted and what is there, return what a deploy would change."""
    present = {version.name for version in cluster.secrets}
    new = [s.version for s in wanted.secrets if s.version.name not in present]
    moved = any(change.loses == wanted.role for change in labels)
    services = []
    drifted, reordered = set(), set()
    for key in wanted.compose["services"]:
        name = f"{wanted.name}_{key}"
        service = cluster.service(name)
        spec, unknown = specification(wanted.compose, key, wanted.name)
        if service is None:
            new_fields = _concealed(_compared({}, spec, {}), wanted.shown.get(key))
            services.append(ServicePlan(name, "create", new_fields, unknown))
            continue
        if resolve_image == "always":
            unknown += (_ASKED,)
        if _image_drifted(spec, service):
            drifted.add(name)
        if order(service.spec, cluster.networks) != order(spec, {}):
            reordered.add(name)
        one = _update_plan(service, spec, unknown, cluster, moved=moved)
        only_secret = bool(one.fields) and all(f.name.startswith("secrets.") for f in one.fields)
        if wanted.role == "db" and only_secret and not one.unknown:
            one = replace(one, note=_CAN_WAIT)
        services.append(replace(one, fields=_concealed(one.fields, wanted.shown.get(key))))
    if resolve_image != "always" and drifted:
        # Docker would keep an image that was changed by hand unless told otherwise.
        resolve_image = "always"
        services = [_asked_again(one, drifted) for one in services]
    if any(one.action in ("create", "update") for one in services):
        # Docker is given every service then, and compares lists as they are.
        services = [
            replace(one, action="update", restarts=True) if one.name in reordered else one
            for one in services
        ]
    for service in cluster.stack(wanted.name):
        if service.name not in wanted.services:
            action = "remove" if prune else "left"
            services.append(ServicePlan(service.name, action, restarts=prune))
    return Plan(
        wanted.name,
        wanted.role,
        tuple(labels),
        network if cluster.network is None else "",
        tuple(version.base for version in new if version.kind == "secret"),
        tuple(services),
        resolve_image,
        tuple(labels_after),
        tuple(version.base for version in new if version.kind == "config"),
        tuple(databases),
    )


def unpinned(wanted: Wanted, plan: Plan, after: Cluster) -> list[str]:
    """A line for each image that Docker should have pinned by its digest, and could not.

    Docker goes on without, and says so only for services that were there already.
    """
    if not plan.deploys or plan.resolve_image == "never":
        return []
    return [
        f"{service.name}: no registry told the digest of {service.image}: nodes may run different "
        "images under that name"
        for service in after.stack(wanted.name)
        if service.name in wanted.services and "@" not in service.image
    ]


def _update_plan(
    service: Service,
    spec: Mapping[str, Any],
    unknown: tuple[str, ...],
    cluster: Cluster,
    *,
    moved: bool,
) -> ServicePlan:
    found = _compared(service.spec, _with_live_image(spec, service), cluster.networks)
    # What only the manager knows is no difference by itself.
    found = tuple(field for field in found if field.name not in unknown)
    action = "update" if found or unknown else "unchanged"
    restarts = bool(unknown) or any(map(_restarting, found))
    return ServicePlan(service.name, action, found, unknown, restarts or moved)


def _restarting(field: Field) -> bool:
    return not field.name.startswith(_WITHOUT_RESTART)


def _asked_again(one: ServicePlan, drifted: Collection[str]) -> ServicePlan:
    """A service beside one whose image drifted: its own digest is asked for, too."""
    if one.action == "create" or one.name in drifted:
        return one
    return replace(one, action="update", unknown=(*one.unknown, _ASKED), restarts=True)


def _with_live_image(spec: Mapping[str, Any], service: Service) -> Mapping[str, Any]:
    """The wanted spec, with the digest that Docker found for the same image earlier.

    Docker keeps the resolved image as long as the compose file names the same one; what
    it named then is in a label.
    """
    container = spec["TaskTemplate"]["ContainerSpec"]
    image = container["Image"]
    named = (service.spec.get("Labels") or {}).get(IMAGE_LABEL, image)
    if named != image or _tagged(service.image) != _tagged(image):
        return spec
    template = {**spec["TaskTemplate"], "ContainerSpec": {**container, "Image": service.image}}
    return {**spec, "TaskTemplate": template}


def _image_drifted(spec: Mapping[str, Any], service: Service) -> bool:
    """Whether the image was changed by hand: Docker would then keep it (its label says no news)."""
    image = spec["TaskTemplate"]["ContainerSpec"]["Image"]
    named = (service.spec.get("Labels") or {}).get(IMAGE_LABEL)
    return bool(named == image and _tagged(service.image) != _tagged(image))


def _tagged(image: str) -> str:
    """An image as Docker's client writes it down, without its digest: "redis" is redis:latest."""
    name = image.partition("@")[0].removeprefix("docker.io/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _compared(
    old: Mapping[str, Any], new: Mapping[str, Any], networks: Mapping[str, str]
) -> tuple[Field, ...]:
    before, after = (fields(spec, networks) if spec else {} for spec in (old, new))
    names = sorted(set(before) | set(after))
    return tuple(
        _field(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    )


def _field(name: str, old: str | None, new: str | None) -> Field:
    field = Field(name, old, new)
    if name.startswith("secrets."):
        return _nameless(field, "version")
    if name.startswith("configs.") and old and new:
        # Where only the config is another one, its name says enough.
        (old_name, old_file), (new_name, new_file) = json.loads(old), json.loads(new)
        return Field(name, old_name, new_name) if old_file == new_file else field
    return field


def _concealed(fields: tuple[Field, ...], shown: Collection[str] | None) -> tuple[Field, ...]:
    """The same without values from environment files, where a service reads any."""
    if shown is None:
        return fields
    start = "environment."
    return tuple(
        _nameless(field, "value")
        if field.name.startswith(start) and field.name.removeprefix(start) not in shown
        else field
        for field in fields
    )


def _nameless(field: Field, what: str) -> Field:
    if field.old is not None and field.new is not None:
        return Field(field.name, f"a {what}", f"another {what}")
    return Field(field.name, field.old and f"a {what}", field.new and f"a {what}")
