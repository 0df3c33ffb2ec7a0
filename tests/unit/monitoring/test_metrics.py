"""Metrics as Prometheus reads them: parsed by its own library."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fabfile.backup.sets import Proof
from fabfile.base.check import Check
from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.monitoring import metrics
from fabfile.swarm.proxy_health import Found

NOW = datetime(2026, 11, 26, 10, tzinfo=UTC)
INVENTORY: Any = SimpleNamespace(
    project="staging",
    postgres=SimpleNamespace(stack="dbstack"),
    running_stacks=("dbstack", "appstack"),
)


def samples(path) -> dict[tuple[str, ...], float]:
    return {
        (
            s.name,
            *(v for k, v in sorted(s.labels.items()) if k not in ("project", "stack")),
        ): s.value
        for family in text_string_to_metric_families(path.read_text())
        for s in family.samples
    }


def verdict(**changes: Any) -> Any:
    newest = SimpleNamespace(timestamp=NOW.replace(hour=2), size=1000, rows=54)
    drill = Proof(True, "2026-11-20T03:00:00Z", 8.0)
    checks = [Check("fresh", True, ""), Check("size", False, "")]
    base = {"database": 'noco"db\\\n', "checks": checks, "newest": newest, "drill": drill}
    return SimpleNamespace(**(base | {"now": NOW, "wal": None} | changes))


def test_every_check_and_what_the_bucket_holds(tmp_path):
    file = tmp_path / "v.prom"
    metrics.write_verify(file, INVENTORY, [verdict(), verdict(database="other", newest=None)])
    found = samples(file)
    assert not [key for key in found if "newest_commit" in key[0]]
    name = 'noco"db\\\n'
    assert found["swarmkeep_verify_check", "fresh", name] == 1
    assert found["swarmkeep_verify_check", "size", name] == 0
    assert found["swarmkeep_verify_timestamp_seconds", "other"] == NOW.timestamp()
    assert found["swarmkeep_bucket_last_backup_rows", name] == 54
    assert found["swarmkeep_bucket_last_drill_duration_seconds", name] == 8
    assert ("swarmkeep_bucket_last_backup_rows", "other") not in found
    assert file.read_text().endswith("\n")
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [file]


def test_the_newest_commit_that_the_wal_has(tmp_path):
    file = tmp_path / "v.prom"
    wal = SimpleNamespace(until=NOW)
    metrics.write_verify(file, INVENTORY, [verdict(database="nocodb", wal=wal)])
    found = samples(file)
    assert found["swarmkeep_bucket_newest_commit_timestamp_seconds", "nocodb"] == NOW.timestamp()


def test_status_of_each_service(tmp_path):
    file = tmp_path / "s.prom"
    service = {"name": "dbstack_root_db", "wanted": 1, "running": 0, "update": "paused"}
    summary = {"missing_stacks": ["appstack"], "services": [service]}
    proxies = {
        "app1": Found("", 200, 30.0, 90.0, "an authority"),
        "app2": Found("", 503, 30.0, 90.0, "an authority"),
        "app3": Found("port 443: connection refused"),
    }
    domains = {"db.example.com": proxies}
    metrics.write_status(file, INVENTORY, summary, "2026-11-26T10:00:00.123456789Z", domains)
    text = file.read_text()
    found = samples(file)
    assert found["swarmkeep_service_tasks_wanted", "dbstack_root_db"] == 1
    answers = {host: found["swarmkeep_proxy_answers", "db.example.com", host] for host in proxies}
    assert answers == {"app1": 1, "app2": 0, "app3": 0}
    expiry = "swarmkeep_proxy_certificate_expiry_timestamp_seconds"
    assert found[expiry, "db.example.com", "app1"] == NOW.timestamp() + 30 * 86400
    assert (expiry, "db.example.com", "app3") not in found
    assert found[
        "swarmkeep_proxy_certificate_left_ratio", "db.example.com", "app1"
    ] == pytest.approx(1 / 3)
    assert found["swarmkeep_service_tasks_running", "dbstack_root_db"] == 0
    assert found["swarmkeep_service_update_state", "dbstack_root_db", "paused"] == 1
    assert found["swarmkeep_service_update_state", "dbstack_root_db", "completed"] == 0
    assert re.search(r'stack_deployed\{.*stack="appstack"\} 0\.0', text)
    assert "1.7642" not in text  # no sample times


@pytest.mark.parametrize("name", ["", "x.txt", "/nowhere/x.prom"])
def test_a_file_that_cannot_work_is_refused_beforehand(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"ends in \.prom"):
        metrics.target(name)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "x.prom").mkdir()
    with pytest.raises(SwarmkeepError, match="could not be written"):
        metrics.write_verify(tmp_path / "x.prom", INVENTORY, [verdict()])
