"""The stacks as they should be: compose file, secret versions, images. Reads files only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabfile.base.errors import ConfigError
from fabfile.config.inventory import ROLE_LABEL
from fabfile.config.project import Project
from fabfile.deploy import app_environment, behind_proxy, compose_keys, local_files
from fabfile.deploy import compose_file as compose
from fabfile.deploy.secret_versions import SecretContent, versioned, versioned_file
from fabfile.swarm.docker_commands import OLD_DATA_LABEL, PROJECT_LABEL, data_label
from fabfile.vault.project_identity import project_of

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.vault.reading import Secrets

COMPOSE_FOLDER = Path(__file__).resolve().parents[2] / "compose"


@dataclass(frozen=True)
class Wanted:
    """A stack as hosts.yaml, the vault and its compose file want it."""

    name: str
    role: str
    image: str
    """Of its main service."""
    compose: dict[str, Any]
    secrets: tuple[SecretContent, ...]
    hidden: tuple[str, ...]
    """Texts that must never be shown, whatever a container logs."""
    project: Project = field(default_factory=lambda: Project("", ""))
    name_key: bytes = field(default=b"", repr=False)
    """What the hashes in names of secret versions are made with."""
    password: str = field(default="", repr=False)
    """The database's."""
    role_password: str = field(default="", repr=False)
    """Of an app beside NocoDB: its own role's in PostgreSQL."""
    shown: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Of services that read environment files: the only variables whose values may be shown."""

    @property
    def services(self) -> tuple[str, ...]:
        """Full names of its services."""
        return tuple(f"{self.name}_{key}" for key in self.compose["services"])

    @property
    def stack_input(self) -> str:
        """What `docker stack deploy` reads."""
        return compose.to_stack_input(self.compose)

    @property
    def empty_variables(self) -> tuple[str, ...]:
        """Variables that a service wants empty, but for what Docker itself cannot do without."""
        empty: set[str] = set()
        bare = {"", "HOME", "PATH"}
        for service in self.compose["services"].values():
            for name, value in compose.environment(service).items():
                (bare if value is None else empty if value == "" else set()).add(name)
        return tuple(sorted(empty - bare))

    def with_replicas(self, service: str, replicas: int) -> Wanted:
        """The same stack with another number of tasks for one service (name without stack)."""
        services = dict(self.compose["services"])
        one = dict(services[service])
        one["deploy"] = {**one.get("deploy", {}), "replicas": replicas}
        services[service] = one
        return replace(self, compose={**self.compose, "services": services})

    def redact(self, text: str) -> str:
        """Given a text from outside, return it without our secrets."""
        for hidden in self.hidden:
            text = text.replace(hidden, "[redacted]")
        return text


def main_service(inventory: Inventory, role: str) -> str:
    """The service that a stack is there for, by its name in the compose file."""
    if app := inventory.other_app(role):
        return app.service
    if role != "db":
        return {"app": "nocodb", "backup": "database", "proxy": "caddy"}[role]
    return inventory.postgres.service.removeprefix(f"{inventory.postgres.stack}_")


def database(inventory: Inventory, secrets: Secrets, folder: Path = COMPOSE_FOLDER) -> Wanted:
    """The database stack. Raises ConfigError for a missing vault entry or a broken compose file."""
    postgres = inventory.postgres
    password = secrets.require("vault_postgres_password").reveal()
    secret = versioned(secrets.name_key(), postgres.stack, "postgres_password", password.encode())
    # From PostgreSQL 18 on the image keeps its data below /var/lib/postgresql by major
    # version; before, it declares a volume one level down that would hide ours.
    old = postgres.major < 18
    target = "/var/lib/postgresql/data" if old else "/var/lib/postgresql"
    names: dict[str, compose.Value] = {
        "db_stack": postgres.stack,
        "db_service": main_service(inventory, "db"),
        "db_endpoint_mode": postgres.endpoint_mode,
        "role_label": inventory.role_label,
        "postgres_image": postgres.image,
        "pg_db": postgres.database,
        "pg_user": postgres.user,
        "pg_volume": postgres.volume_name,
        "pg_volume_target": target,
        "pgdata": f"{target}/pgdata" if old else f"{target}/{postgres.major}/docker",
        "network": inventory.network,
        "secret_postgres_password": secret.version.name,
    }
    path = folder / "compose-db.yml"
    key = secrets.name_key()
    wanted = wanted_of(postgres.stack, "db", postgres.image, path, names, key, [secret], [password])
    volumes = (wanted.compose.get("volumes") or {}).values()
    if postgres.volume != "pgdata" and postgres.volume_name not in [
        (volume or {}).get("name") for volume in volumes
    ]:
        raise ConfigError(
            f"{path}: has no volume called {postgres.volume_name}, which db.volume names",
            hint="in its 'volumes:' section write: name: ${pg_volume}",
        )
    return labelled(wanted, inventory, secrets)


def application(inventory: Inventory, secrets: Secrets, folder: Path = COMPOSE_FOLDER) -> Wanted:
    """The NocoDB stack. Raises ConfigError for a missing vault entry or a broken compose file."""
    app, postgres = inventory.app, inventory.postgres
    password = secrets.require("vault_postgres_password").reveal()
    connection = {
        "client": "pg",
        "connection": {
            "host": postgres.service,
            "port": 5432,
            "user": postgres.user,
            "password": password,
            "database": postgres.database,
        },
    }
    content = json.dumps(connection, sort_keys=True).encode()
    secret = versioned(secrets.name_key(), app.stack, "nocodb_database", content)
    names: dict[str, compose.Value] = {
        "app_stack": app.stack,
        "nocodb_image": app.image,
        "app_replicas": app.replicas,
        "app_port": app.port,
        "app_port_mode": app.port_mode,
        "app_endpoint_mode": app.endpoint_mode,
        "app_public_url": app.public_url or None,
        "role_label": inventory.role_label,
        "network": inventory.network,
        "secret_nocodb_database": secret.version.name,
    }
    path = folder / "compose-app.yml"
    key = secrets.name_key()
    wanted = wanted_of(app.stack, "app", app.image, path, names, key, [secret], [password])
    settings = app_environment.of(secrets)
    if settings:
        more = versioned(key, app.stack, app_environment.NAME, app_environment.script(settings))
        wanted = replace(
            wanted,
            compose=app_environment.added(wanted.compose, more.version.name),
            secrets=(*wanted.secrets, more),
            hidden=(*wanted.hidden, *app_environment.hidden(settings)),
        )
    main = main_service(inventory, "app")
    if inventory.proxy.hosts and main in wanted.compose["services"]:
        compose_file = behind_proxy.behind(wanted.compose, main, inventory.proxy)
        wanted = replace(wanted, compose=compose_file)
    return labelled(wanted, inventory, secrets)


def labelled(wanted: Wanted, inventory: Inventory, secrets: Secrets) -> Wanted:
    """The stack with its project on every service, and pinned by the node labels of today.

    A compose file of somebody's own, or a release, may be older than those labels.
    """
    project = project_of(inventory, secrets)
    services = {
        key: {
            **service,
            "deploy": _labelled(service.get("deploy") or {}, wanted, inventory, project),
        }
        for key, service in wanted.compose["services"].items()
    }
    return replace(
        wanted,
        compose={**wanted.compose, "services": services},
        project=project,
        name_key=secrets.name_key(),
        password=secrets.require("vault_postgres_password").reveal(),
    )


def _labelled(
    deploy: dict[str, Any], wanted: Wanted, inventory: Inventory, project: Project
) -> dict[str, Any]:
    labels = deploy.get("labels") or {}
    if isinstance(labels, list):
        labels = dict(str(label).partition("=")[::2] for label in labels)
    deploy = {**deploy, "labels": {**labels, PROJECT_LABEL: project.label}}
    placement = deploy.get("placement") or {}
    if placement.get("constraints"):
        today = {
            f"node.labels.{ROLE_LABEL}=={wanted.role}": f"node.labels.{inventory.role_label} == "
            f"{wanted.role}",
            f"node.labels.{OLD_DATA_LABEL}=={wanted.name}": f"node.labels."
            f"{data_label(wanted.name)} == true",
        }
        constraints = [today.get(str(c).replace(" ", ""), c) for c in placement["constraints"]]
        deploy["placement"] = {**placement, "constraints": constraints}
    return deploy


def wanted_of(
    stack: str,
    role: str,
    image: str,
    path: Path,
    names: dict[str, compose.Value],
    key: bytes,
    secrets: Sequence[SecretContent],
    hidden: Sequence[str],
) -> Wanted:
    """A stack from its compose file, filled in with `names`; `hidden` is never shown.

    Raises ConfigError for a broken compose file, or one that lacks one of the `secrets`.
    """
    data = compose.fill(compose.load(path), names, path.name)
    compose_keys.check_version(data, path.name)
    for one in (s.version for s in secrets):
        entries = (data.get(f"{one.kind}s") or {}).values()
        if one.name not in [str(entry.get("name")) for entry in entries if entry]:
            raise ConfigError(
                f"{path}: does not declare the {one.kind} {one.base}",
                hint=f"restore its '{one.kind}s:' section: git diff compose/",
            )
    found = local_files.resolve(
        data, path, stack, lambda file: versioned_file(key, stack, file).version.name
    )
    contents = [versioned_file(key, stack, file) for file in found.files]
    everything = (*secrets, *contents)
    texts = (*hidden, *_texts(contents))
    return Wanted(stack, role, image, found.compose, everything, texts, shown=found.shown)


def _texts(contents: Sequence[SecretContent]) -> list[str]:
    """Secrets from files as they may come up in a log: without the line's end."""
    found = [
        c.content.decode(errors="ignore").strip() for c in contents if c.version.kind == "secret"
    ]
    # Shorter ones would take words out of everything that is shown.
    return [text for text in found if len(text) >= 4]
