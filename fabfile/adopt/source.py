"""What a user names as the source, and what NocoDB's environment says there. Pure.

Names of variables are NocoDB's: https://docs.nocodb.com/self-hosting/environment-variables
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from fabfile.base.errors import ConfigError
from fabfile.base.secret import Secret

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9][A-Za-z0-9_.-]*")
FORMS = "stack:NAME, compose:HOST:/FOLDER or container:HOST:NAME"

DATABASE_VARIABLES = (
    "NC_DB", "NC_DB_JSON", "NC_DB_JSON_FILE", "NC_DB_FILE", "DATABASE_URL", "DATABASE_URL_FILE",
)  # fmt: skip
_LEFT = {
    *DATABASE_VARIABLES,
    "NC_PUBLIC_URL",  # app.public_url of hosts.yaml
    "NC_DISABLE_TELE",  # the compose file's own
    "NC_TOOL_DIR",  # where the image has its data
    "NC_WORKER_CONTAINER",
}
_SERVICES_OF_OTHERS = (
    "NC_REDIS_URL", "NC_REDIS_JOB_URL", "NC_THROTTLER_REDIS", "NC_CACHE_REDIS_URL",
    "NC_JOBS_REDIS_URL", "NC_RATE_LIMIT_REDIS_URL",
)  # fmt: skip
"""Settings that name a redis, which is not taken: one NocoDB works without."""
_PG_SCHEMES = ("pg", "postgres", "postgresql")
_PG_CLIENTS = ("pg", "postgres", "postgresql", "pgbouncer")


@dataclass(frozen=True)
class Source:
    """Where NocoDB runs now. `kind` is stack, compose or container; `host` is "" for a stack."""

    kind: str
    host: str
    name: str

    def __str__(self) -> str:
        return ":".join(part for part in (self.kind, self.host, self.name) if part)


@dataclass(frozen=True)
class Connection:
    """NocoDB's database as it is named to NocoDB: the server's host, port, role, database."""

    host: str
    port: int
    user: str
    database: str
    password: Secret = field(default_factory=lambda: Secret(""), compare=False)


def parse(text: str) -> Source:
    """Given what a user calls the source, return it. Raises ConfigError for what names none."""
    kind, _, rest = text.partition(":")
    if kind == "stack":
        source = Source(kind, "", rest)
        good = bool(_NAME.fullmatch(rest))
    else:
        host, _, name = rest.partition(":")
        source = Source(kind, host, name.rstrip("/") if kind == "compose" else name)
        good = bool(_HOST.fullmatch(host)) and (
            (kind == "compose" and name.startswith("/") and "\n" not in name)
            or (kind == "container" and bool(_NAME.fullmatch(name)))
        )
    if not good:
        raise ConfigError(f"{text!r} is no source", hint=f"say {FORMS}")
    return source


def is_nocodb(image: str, environment: Mapping[str, str]) -> bool:
    """Whether a container of this image with this environment is a NocoDB."""
    name = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return "nocodb" in name or any(
        variable in environment for variable in DATABASE_VARIABLES if variable.startswith("NC_")
    )


def connection_of(
    environment: Mapping[str, str], files: Mapping[str, str] | None = None
) -> Connection | None:
    """Given NocoDB's environment, return its database; None for SQLite, which is its default.

    `files` has the texts of the files that variables ending in _FILE name.
    Raises ConfigError for a database that is not PostgreSQL, or that cannot be read.
    """
    files = files or {}
    found = {name: environment[name] for name in DATABASE_VARIABLES if environment.get(name)}
    for name in [name for name in found if name.endswith("_FILE")]:
        found[name] = files.get(found[name], "").strip()
    # The order in which NocoDB looks.
    for name in ("NC_DB", "NC_DB_FILE", "NC_DB_JSON", "NC_DB_JSON_FILE", "DATABASE_URL",
                 "DATABASE_URL_FILE"):  # fmt: skip
        if name in found:
            try:
                return _from_json(found[name]) if "JSON" in name else _from_url(found[name])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ConfigError(
                    f"NocoDB's {name} cannot be read ({type(error).__name__})",
                    hint="it names no server, or no database",
                ) from None
    return None


def settings_of(environment: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Given NocoDB's environment, return what must come along, and the names of what does not.

    Along come the login secret, the key of encrypted connections, mail, S3 for attachments, limits:
    all of NocoDB's own variables but those that Swarmkeep sets itself.
    """
    taken, left = {}, []
    for name, value in sorted(environment.items()):
        if not value:
            continue
        if name in _SERVICES_OF_OTHERS:
            left.append(name)
        elif name.startswith("NC_") and name not in _LEFT:
            taken[name] = value
    return taken, tuple(left)


def _from_url(text: str) -> Connection | None:
    url = urlsplit(text)
    if url.scheme.startswith("sqlite"):
        return None
    if url.scheme not in _PG_SCHEMES:
        raise _no_postgres(url.scheme)
    query = {key: values[-1] for key, values in parse_qs(url.query).items()}
    user = query.get("u") or query.get("user") or unquote(url.username or "")
    database = query.get("d") or query.get("database") or unquote(url.path.strip("/"))
    password = query.get("p") or query.get("password") or unquote(url.password or "")
    return _checked(url.hostname or "", url.port or 5432, user, database, password)


def _from_json(text: str) -> Connection | None:
    data: dict[str, Any] = json.loads(text)
    client = str(data["client"])
    if client.startswith("sqlite"):
        return None
    if client not in _PG_CLIENTS:
        raise _no_postgres(client)
    connection = data["connection"]
    if isinstance(connection, str):
        return _from_url(connection)
    if isinstance(connection.get("connectionString"), str):
        return _from_url(connection["connectionString"])
    return _checked(
        str(connection["host"]),
        int(connection.get("port") or 5432),
        str(connection["user"]),
        str(connection["database"]),
        str(connection.get("password") or ""),
    )


def _checked(host: str, port: int, user: str, database: str, password: str) -> Connection:
    if not (host and user and database):
        raise ValueError("incomplete")
    return Connection(host, port, user, database, Secret(password))


def _no_postgres(client: str) -> ConfigError:
    # A client's name may be anything somebody has written there, even a password.
    known = client if client in ("mysql", "mysql2", "mssql", "tedious") else "another database"
    return ConfigError(
        f"NocoDB has its tables in {known}, and only PostgreSQL is moved",
        hint="docs/adopt.md tells what can be done",
    )
