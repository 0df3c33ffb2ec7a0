"""An installation that an earlier version made goes on under this one: nothing restarts, no set is
lost, no night is missed.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab import demo
from tests.e2e.conftest import ROOT
from tests.e2e.live import APP, DB, container_of, docker, eventually, nocodb_shows
from tests.e2e.test_8_projects import checks, run_cron_line
from tests.e2e.test_8_recover import remove_stacks

EARLIER = "9e1088e"
"""The last version whose labels, files and sets named neither project nor cluster."""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    """A checkout of that version."""
    folder: Path = tmp_path_factory.mktemp("earlier")
    archive = subprocess.run(
        ["git", "archive", EARLIER], cwd=ROOT, capture_output=True, check=False
    )
    assert archive.returncode == 0, (
        f"this checkout's history has no {EARLIER}, which the upgrade begins with: "
        f"git fetch --unshallow; {archive.stderr.decode()}"
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


@pytest.fixture(scope="module")
def installed(earlier, product, deployed, lab) -> dict[str, Any]:
    """Both stacks, data and a backup, made by the earlier version on a Swarm without labels."""
    product.ok("backup.install")
    product.ok("backup.uninstall")
    lab.exec("db1", "rm", "-rf", "/var/backups/postgres")
    remove_stacks(lab)
    for node in ("db1", "app1"):
        found = json.loads(docker(lab, "manager1", "node", "inspect", node))[0]
        ours = [key for key in found["Spec"]["Labels"] if key.startswith("swarmkeep")]
        words = [word for key in ours for word in ("--label-rm", key)]
        docker(lab, "manager1", "node", "update", *words, node)
    product.ok("deploy", root=earlier)
    demo.fill(lab)
    product.ok("backup.install", root=earlier)
    product.ok("backup.run", root=earlier)
    sets = json.loads(product.ok("backup.list", "--json", root=earlier).out)["backups"]
    return {"rows": demo.records(lab), "set": sets[0]["set"], "containers": containers(lab)}


def containers(lab) -> tuple[str, str]:
    return container_of(lab, "db1", DB), container_of(lab, "app1", APP)


def labels(lab, node: str = "db1") -> dict[str, str]:
    found = json.loads(docker(lab, "manager1", "node", "inspect", node))[0]
    return dict(found["Spec"]["Labels"])


def test_the_earlier_installation_is_what_it_should_be(installed, lab):
    assert labels(lab)["swarmkeep.pgdata"] == "dbstack"
    config = lab.exec("db1", "cat", "/etc/backup-pg.conf").stdout.decode()
    assert "PROJECT" not in config


def test_the_plan_restarts_nothing_and_neither_does_the_deploy(installed, product, lab):
    ran = product.inv("plan")
    assert ran.code == 5
    assert "restarts" not in ran.out
    # Nobody is asked: the database is not interrupted.
    product.ok("deploy")
    assert containers(lab) == installed["containers"]
    assert "nothing to do" in product.ok("plan").out
    now = labels(lab)
    assert "swarmkeep.pgdata" not in now
    assert now["swarmkeep.pgdata.dbstack"] == "true"
    assert now["swarmkeep.cluster.dbstack"].isdecimal()


def test_a_night_between_the_deploy_and_the_installation_is_not_missed(installed, product, lab):
    run_cron_line(lab, "db1", "backup-pg")
    run_cron_line(lab, "app1", "backup-files")
    found = checks(product)
    assert all(check["ok"] for check in found.values())
    assert "made by an earlier version" in found["project"]["detail"]


def test_the_installation_is_carried_over_and_the_nights_go_on(installed, product, lab):
    assert "/etc/backup-pg.conf" in product.ok("backup.install").out
    assert "nothing to change" in product.ok("backup.install").out
    run_cron_line(lab, "db1", "backup-pg")
    run_cron_line(lab, "app1", "backup-files")
    found = checks(product)
    assert all(check["ok"] for check in found.values())
    assert "without a name" in found["project"]["detail"]
    assert labels(lab)["swarmkeep.cluster.dbstack"] in found["cluster"]["detail"]


def test_no_set_is_lost_and_the_oldest_can_still_be_restored(installed, product, lab):
    sets = [one["set"] for one in json.loads(product.ok("backup.list", "--json").out)["backups"]]
    assert len(sets) >= 3
    assert installed["set"] in sets
    product.ok("backup.drill", "--key", installed["set"])


def test_a_release_of_the_earlier_version_can_be_gone_back_to(installed, product, lab):
    """It names the label that is gone: with that, Swarm would find no node for PostgreSQL."""
    number = next(
        one["number"]
        for one in json.loads(product.ok("releases", "--json").out)["stacks"]["dbstack"][::-1]
        if "swarmkeep.pgdata == dbstack" in json.dumps(one["compose"])
    )
    product.ok("rollback", "db", "--to", str(number), "--yes")
    product.ok("deploy")
    assert containers(lab) == installed["containers"]
    eventually(lambda: nocodb_shows(lab, installed["rows"]))
