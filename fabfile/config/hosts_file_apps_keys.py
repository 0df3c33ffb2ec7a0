"""The section `apps` of hosts.yaml: the applications beside NocoDB."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fabfile.base.schema import Section
from fabfile.config.apps import HealthRequest, OtherApp
from fabfile.config.hosts_file_keys import IMAGE, NAME, PG_NAME, URL, with_project
from fabfile.config.hosts_file_proxy_keys import DOMAIN, check_domain, public_url
from fabfile.config.inventory import App, Postgres
from fabfile.config.proxy import Proxy

_APP = r"[a-z][a-z0-9-]{0,29}"
RESERVED = (
    "app", "apps", "backup", "db", "nocodb", "proxy",
    "adopt", "audit", "deploy", "deploy-app", "deploy-db", "deploy-proxy", "doctor", "plan",
    "recover", "releases", "report", "rollback", "status", "unlock", "upgrade-app", "upgrade-db",
)  # fmt: skip
"""What commands call the stacks that are always there, and the commands that may follow."""
_PATH = r"/[A-Za-z0-9._~/?=&%-]*"


def read_apps(
    section: Section, postgres: Postgres, app: App, proxy: Proxy, project: str, base: Path
) -> tuple[OtherApp, ...]:
    """The section `apps`: a mapping for each by its name. `base` is the folder of its paths."""
    found = tuple(
        _read(name, entry, proxy, project, base)
        for name, entry in section.sections()
    )  # fmt: skip
    _refuse_shared(section, found, postgres, app)
    return found


def _read(name: str, section: Section, proxy: Proxy, project: str, base: Path) -> OtherApp:
    if not re.fullmatch(_APP, name):
        section.errors.append(
            f"{section.path}: not a valid name: want up to 30 lower-case letters, digits and '-'"
        )
    elif name in RESERVED:
        section.errors.append(f"{section.path}: {name!r} is a stack or a command of ours")
    names = "letters, digits, _ . -"
    databases = section.texts("database", (name,), pattern=PG_NAME, want=names)
    domain = section.text("domain", "", pattern=DOMAIN, want="a domain name in lower case")
    url = section.text("public_url", "", pattern=URL, want="http(s)://host[:port][/path]")
    check_domain(section, domain, url, proxy)
    compose = section.text("compose", f"compose/compose-{name}.yml")
    found = OtherApp(
        name=name,
        stack=section.text("stack", with_project(project, f"{name}stack"), pattern=NAME,
                           want="a stack name"),
        compose=(base / Path(compose)).absolute(),
        service=section.text("service", name, pattern=NAME, want="a service of its compose file"),
        image=section.text("image", pattern=IMAGE, want="an image name"),
        replicas=section.integer("replicas", 1, low=1, high=100),
        port=section.integer("port", 8080, low=1, high=65535),
        databases=databases,
        user=section.text("user", databases[0] if databases else name, pattern=PG_NAME, want=names),
        volumes=section.texts("volumes", (), pattern=NAME, want="volumes of its compose file"),
        health=_read_health(section),
        domain=domain,
        public_url=url or (public_url(domain, proxy) if domain else ""),
    )  # fmt: skip
    section.finish()
    return found


def _read_health(section: Section) -> HealthRequest | None:
    health = section.section("health")
    if "health" not in section:
        return None
    found = HealthRequest(
        path=health.text("path", pattern=_PATH, want="a path such as /health"),
        status=health.integer("status", 200, low=100, high=599),
    )
    health.finish()
    return found


def _refuse_shared(
    section: Section, apps: Sequence[OtherApp], postgres: Postgres, app: App
) -> None:
    """What two apps cannot both have: a stack, a database, a role, a domain."""
    taken = {
        "stack": {postgres.stack: "stacks.db", app.stack: "stacks.app"},
        "database": dict.fromkeys(postgres.databases, "pg_db"),
        "user": {postgres.user: "pg_user"},
        "domain": {app.domain: "app.domain"} if app.domain else {},
    }
    for one in apps:
        values = {"stack": (one.stack,), "database": one.databases, "user": (one.user,),
                  "domain": (one.domain,) if one.domain else ()}  # fmt: skip
        for key, mine in values.items():
            for value in mine:
                where = f"{section.at(one.name)}.{key}"
                first = taken[key].setdefault(value, where)
                if first != where:
                    section.errors.append(f"{where}: {value!r} is already {first}")
