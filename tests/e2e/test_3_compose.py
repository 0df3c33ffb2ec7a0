"""A compose file that people have edited."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import ROOT
from tests.e2e.live import APP, cluster_state, container_of, docker

# A service that fails three times and several deploys take their time.
pytestmark = pytest.mark.timeout(600)

NEW = "appstack_helper"


@pytest.fixture
def checkout(deployed, tmp_path) -> Path:
    """A copy of the repository whose compose files a test may edit."""
    for name in ("fabfile", "compose", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "tasks.py", tmp_path)
    return tmp_path


def edit(checkout: Path, change) -> None:
    """Change the app's compose file, as data."""
    path = checkout / "compose/compose-app.yml"
    path.write_text(yaml.safe_dump(change(yaml.safe_load(path.read_text())), sort_keys=False))


def reversed_keys(value):
    """The same mapping, every key in the opposite order."""
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return value


def test_another_order_of_everything_is_no_change(product, lab, checkout):
    before = cluster_state(lab)
    edit(checkout, reversed_keys)
    assert product.ok("plan", root=checkout).out.endswith("plan: nothing to do\n")
    assert "nothing to change" in product.ok("deploy-app", root=checkout).out
    assert cluster_state(lab) == before


def with_helper(data):
    """The app's compose file with a second service."""
    nocodb = data["services"]["nocodb"]
    helper = {
        "image": nocodb["image"],
        "entrypoint": ["sleep", "86400"],
        "deploy": {"placement": nocodb["deploy"]["placement"]},
    }
    return data | {"services": data["services"] | {"helper": helper}}


def test_a_new_service_is_shown_and_made_and_goes_with_prune(product, lab, checkout):
    app = container_of(lab, "app1", APP)
    edit(checkout, with_helper)
    ran = product.inv("plan", "--json", root=checkout)
    assert ran.code == 5, ran.text
    services = [s for stack in json.loads(ran.out)["stacks"] for s in stack["services"]]
    changed = {s["name"]: s["action"] for s in services if s["action"] != "unchanged"}
    assert changed == {NEW: "create"}
    ran = product.ok("deploy-app", root=checkout)
    assert f"{NEW}: created" in ran.out
    assert f"{APP}: unchanged" in ran.out
    assert product.ok("plan", root=checkout).out.endswith("plan: nothing to do\n")
    assert container_of(lab, "app1", APP) == app
    # The file as it was: the service stays until it is told to go.
    assert "not in the compose file; stays" in product.ok("plan").out
    assert f"{NEW}: removed" in product.ok("deploy-app", "--prune").out
    assert NEW not in docker(lab, "manager1", "service", "ls", "--format", "{{.Name}}")
    assert container_of(lab, "app1", APP) == app


def test_the_way_back_from_a_new_service(product, lab, checkout):
    app = container_of(lab, "app1", APP)
    edit(checkout, with_helper)
    assert f"{NEW}: created" in product.ok("deploy-app", root=checkout).out
    ran = product.ok("rollback", "app", "--prune")
    assert f"{NEW}: removed" in ran.out
    assert f"{APP}: unchanged" in ran.out
    assert product.ok("plan").out.endswith("plan: nothing to do\n")
    assert NEW not in docker(lab, "manager1", "service", "ls", "--format", "{{.Name}}")
    assert container_of(lab, "app1", APP) == app


def test_a_new_service_that_never_works_is_removed_again(product, lab, checkout):
    before = {k: v for k, v in cluster_state(lab).items() if k not in ("tasks", "networks")}
    app = container_of(lab, "app1", APP)

    def crashing(data):
        data = with_helper(data)
        data["services"]["helper"]["entrypoint"] = ["sh", "-c", "echo no luck at all; exit 3"]
        return data

    edit(checkout, crashing)
    ran = product.fails(1, "deploy-app", root=checkout)
    assert f"{NEW}: its task failed 3 times: task: non-zero exit (3)" in ran.err
    assert "no luck at all" in ran.err
    assert f"{NEW}: removed again, it never worked" in ran.out
    assert {k: v for k, v in cluster_state(lab).items() if k in before} == before
    assert container_of(lab, "app1", APP) == app
    assert product.ok("plan").out.endswith("plan: nothing to do\n")
