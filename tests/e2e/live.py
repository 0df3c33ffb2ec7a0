"""The lab's Swarm, database and NocoDB, looked at from outside the product."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from fabfile.base.errors import SwarmkeepError
from lab import demo
from lab.model import Lab

DB, APP = "dbstack_root_db", "appstack_nocodb"


def docker(lab: Lab, node: str, *args: str) -> str:
    """Run docker on a node and return its output."""
    done = lab.exec(node, "docker", *args)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def container_of(lab: Lab, node: str, service: str) -> str:
    """The id of the service's running container on a node, "" if there is none."""
    label = f"label=com.docker.swarm.service.name={service}"
    return docker(lab, node, "ps", "-q", "--no-trunc", "--filter", label)


def cluster_state(lab: Lab) -> dict[str, Any]:
    """Everything in the Swarm that a command could change, for comparing before and after."""
    ask = lambda *args: docker(lab, "manager1", *args)  # noqa: E731
    nodes = json.loads(ask("node", "inspect", *ask("node", "ls", "-q").split()))
    services = ask("service", "ls", "-q").split()
    found = json.loads(ask("service", "inspect", *services)) if services else []
    return {
        "nodes": {n["Description"]["Hostname"]: n["Spec"] for n in nodes},
        "services": {s["Spec"]["Name"]: s["Spec"] for s in found},
        "secrets": sorted(ask("secret", "ls", "--format", "{{.Name}}").split()),
        "networks": sorted(ask("network", "ls", "--format", "{{.Name}} {{.Driver}}").splitlines()),
        "tasks": sorted(
            ask("service", "ps", "-q", "--no-trunc", *services).split() if services else []
        ),
    }


_GONE = 97
# $1 is the first process of container $2, whose PATH is $3.
_ENTER = f"""grep -q "$2" "/proc/$1/cgroup" 2>/dev/null || exit {_GONE}
process=$1 path=$3; shift 3
exec nsenter --all --target "$process" env PATH="$path" "$@"
"""
_servers: dict[str, tuple[str, str, str]] = {}


def sql(lab: Lab, text: str, database: str = "postgres") -> str:
    """Run SQL in the live server and return what it answers.

    As `docker exec` would, which takes twenty times as much CPU time.
    """
    psql = ("psql", "-XAtq", "-U", "nocodb", "-d", database, "-c", text)
    for server in (_servers.get(lab.name), None):
        found = server or _server(lab)
        done = lab.exec("db1", "sh", "-c", _ENTER, "sh", *found, *psql)
        if done.returncode != _GONE:
            break
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def _server(lab: Lab) -> tuple[str, str, str]:
    """The live server's first process on its node, its container, and its PATH."""
    container = container_of(lab, "db1", DB)
    assert container, "no server runs"
    asked = "{{.State.Pid}}{{range .Config.Env}}\n{{.}}{{end}}"
    process, *variables = docker(lab, "db1", "inspect", "-f", asked, container).splitlines()
    path = next(one for one in variables if one.startswith("PATH="))
    _servers[lab.name] = (process, container, path.removeprefix("PATH="))
    return _servers[lab.name]


def databases(lab: Lab) -> set[str]:
    """The databases that are not PostgreSQL's own."""
    found = sql(lab, "SELECT datname FROM pg_database WHERE NOT datistemplate")
    return set(found.split()) - {"postgres"}


def named(lab: Lab, start: str) -> list[str]:
    """The databases whose names begin like this."""
    return sorted(name for name in databases(lab) if name.startswith(start))


_HOURS_AGO = datetime.now(UTC) - timedelta(hours=6)
QUIET = {"schedule": f"{_HOURS_AGO.minute} {_HOURS_AGO.hour} * * *"}
"""When backups are made by themselves in the tests' labs: hours after every test has ended. At the
product's own hour they would, in runs at night, come in between. Earlier versions read it, too.
"""


def eventually(what: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is so, for at most so long."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.5)


def nocodb_shows(lab: Lab, rows: list[dict[str, Any]], url: str | None = None) -> bool:
    """Whether NocoDB's own API shows these rows, at its own address or at another."""
    try:
        return bool(demo.records(lab, url) == rows)
    except (SwarmkeepError, OSError):
        return False


def key(stamp: str, part: str) -> str:
    """The key of a part of a set of NocoDB's database, such as "dump.gz"."""
    return f"postgres/nocodb/backup_{stamp}.{part}"


def outcome(lab: Lab, bucket: Any, stamp: str) -> dict[str, Any]:
    """What the last drill of a set has left beside it."""
    body = bucket.get_object(Bucket=lab.bucket, Key=key(stamp, "drill.json"))["Body"].read()
    return dict(json.loads(body))
