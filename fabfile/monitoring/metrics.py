"""What verify and status have found, as a textfile for node_exporter (or a pushgateway).

Names and units follow https://prometheus.io/docs/practices/naming/: base units, times as seconds
since 1970. Time series without a sample time: node_exporter refuses those that have one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabfile.base.errors import ConfigError, SwarmkeepError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from fabfile.backup.verdict import Verdict
    from fabfile.config.inventory import Inventory
    from fabfile.swarm.proxy_health import Found

UPDATE_STATES = (
    "updating", "paused", "completed", "rollback_started", "rollback_paused", "rollback_completed",
)  # fmt: skip
"""https://docs.docker.com/reference/api/engine/ : ServiceUpdateStatus."""


def target(name: str) -> Path:
    """Given the --prom flag, return the file to write. ConfigError if that cannot work.

    node_exporter reads only files that end in ".prom".
    """
    path = Path(name).expanduser()
    if path.suffix != ".prom" or not path.parent.is_dir():
        raise ConfigError(
            f"--prom {name}: want a file that ends in .prom, in a folder that is there",
            hint="such as --prom /var/lib/prometheus/node-exporter/swarmkeep-verify.prom",
        )
    return path


def write_verify(path: Path, inventory: Inventory, verdicts: Sequence[Verdict]) -> None:
    """Replace a file by what verify says of each database. Raises SwarmkeepError."""
    registry = _registry()
    of_database = {"project": inventory.project, "stack": inventory.postgres.stack}
    gauge = _Gauges(registry, "swarmkeep", [*of_database, "database"])
    checks = _Gauges(registry, "swarmkeep", [*of_database, "database", "check"])
    for verdict in verdicts:
        labels = of_database | {"database": verdict.database}
        gauge.set("verify_timestamp_seconds", "Time of this look into the bucket.",
                  labels, verdict.now.timestamp())  # fmt: skip
        for check in verdict.checks:
            checks.set("verify_check", "Whether a check of the backup passed: 1 or 0.",
                       labels | {"check": check.name}, float(check.ok))  # fmt: skip
        newest = verdict.newest
        if newest is None:
            continue
        for name, about, value in (
            ("timestamp_seconds", "Time of the newest backup in the bucket.",
             newest.timestamp.timestamp()),
            ("size_bytes", "Size of the dump of the newest backup in the bucket.", newest.size),
            ("rows", "Rows of all tables in the newest backup, by its manifest.", newest.rows),
        ):  # fmt: skip
            if value is not None:
                gauge.set(f"bucket_last_backup_{name}", about, labels, value)
        if verdict.wal and verdict.wal.until:
            gauge.set("bucket_newest_commit_timestamp_seconds",
                      "Time up to which every commit is in the bucket, by the WAL.",
                      labels, verdict.wal.until.timestamp())  # fmt: skip
        if verdict.drill and verdict.drill.ok and verdict.drill.finished:
            finished = datetime.fromisoformat(verdict.drill.finished).timestamp()
            gauge.set("bucket_last_drill_timestamp_seconds",
                      "Time of the last good drill, by its record in the bucket.",
                      labels, finished)  # fmt: skip
            gauge.set("bucket_last_drill_duration_seconds", "How long the last good drill took.",
                      labels, verdict.drill.seconds)  # fmt: skip
    _write(path, registry)


def write_status(
    path: Path,
    inventory: Inventory,
    summary: Mapping[str, Any],
    now: str,
    proxies: Mapping[str, Mapping[str, Found]],
) -> None:
    """Replace a file by what status says of each service (`swarm.status.summarise`), and what the
    proxy answers: for each domain, and there on each host.

    `now` is the manager's time, RFC 3339. Raises SwarmkeepError.
    """
    registry = _registry()
    project = {"project": inventory.project}
    stacks = _Gauges(registry, "swarmkeep", ["project", "stack"])
    services = _Gauges(registry, "swarmkeep", ["project", "stack", "service"])
    states = _Gauges(registry, "swarmkeep", ["project", "stack", "service", "state"])
    seconds = datetime.fromisoformat(now[:19] + "+00:00").timestamp()
    for stack in inventory.running_stacks:
        labels = project | {"stack": stack}
        stacks.set("status_timestamp_seconds", "Time of this look at the Swarm.", labels, seconds)
        stacks.set("stack_deployed", "Whether the stack has services: 1 or 0.",
                   labels, float(stack not in summary["missing_stacks"]))  # fmt: skip
        for service in summary["services"]:
            if not service["name"].startswith(f"{stack}_"):
                continue
            one = labels | {"service": service["name"]}
            services.set("service_tasks_wanted", "Tasks that should run.", one, service["wanted"])
            services.set("service_tasks_running", "Tasks that run.", one, service["running"])
            for state in UPDATE_STATES:
                states.set("service_update_state", "The state of the last update: 1 for the one.",
                           one | {"state": state}, float(service["update"] == state))  # fmt: skip
    hosts = _Gauges(registry, "swarmkeep_proxy", ["project", "domain", "host"])
    answers = [(domain, *one) for domain, of_hosts in proxies.items() for one in of_hosts.items()]
    for domain, host, found in answers:
        one = project | {"domain": domain, "host": host}
        hosts.set("answers", "Whether the app answers through the proxy of a host: 1 or 0.",
                  one, float(found.reaches_app))  # fmt: skip
        if found.days_left is not None and found.share_left is not None:
            hosts.set("certificate_left_ratio", "How much of the certificate's time is left.",
                      one, found.share_left)  # fmt: skip
            hosts.set("certificate_expiry_timestamp_seconds", "When the certificate expires.",
                      one, seconds + found.days_left * 86400)  # fmt: skip
    _write(path, registry)


class _Gauges:
    """Gauges with the same labels, made when they are first set."""

    def __init__(self, registry: CollectorRegistry, prefix: str, labels: Sequence[str]) -> None:
        self._registry, self._prefix, self._labels = registry, prefix, labels
        self._made: dict[str, Any] = {}

    def set(self, name: str, about: str, labels: Mapping[str, str], value: float) -> None:
        from prometheus_client import Gauge

        if name not in self._made:
            whole = f"{self._prefix}_{name}"
            self._made[name] = Gauge(whole, about, self._labels, registry=self._registry)
        self._made[name].labels(**labels).set(value)


def _registry() -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    return CollectorRegistry()


def _write(path: Path, registry: CollectorRegistry) -> None:
    """As a whole or not at all: the library writes beside it and renames."""
    from prometheus_client import write_to_textfile

    try:
        write_to_textfile(str(path), registry)
        path.chmod(0o644)
    except OSError as error:
        raise SwarmkeepError(
            f"{path}: the metrics could not be written: {error.strerror}",
            hint="see whether its folder can be written and has room",
        ) from None
