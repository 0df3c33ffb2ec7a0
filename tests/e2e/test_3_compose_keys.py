"""A compose file with what people write in it: local files, hosts, limits, short forms."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest
import yaml

from tests.e2e.live import APP, container_of, docker
from tests.e2e.test_3_compose import checkout as checkout  # noqa: PLC0414 - a fixture
from tests.e2e.test_3_compose import edit

pytestmark = pytest.mark.timeout(600)

NEW = "appstack_helper"
FILES = {
    "helper.env": "FROM_FILE=env-file-value\nBOTH=file\n",
    "motd": "first\n",
    "token": "token-one\n",
}


def with_helper(data):
    """The app's compose file with a second service that uses most of what can be named."""
    nocodb = data["services"]["nocodb"]
    helper = {
        "image": nocodb["image"],
        "entrypoint": "sleep 86400",
        "env_file": "helper.env",
        "environment": ["BOTH=own", "RATIO=1.50", "LANG=", "SHELL="],
        "extra_hosts": ["ldap:10.0.0.5", "mail:10.0.0.6"],
        "ulimits": {"nofile": 4096, "core": {"soft": 0, "hard": 0}},
        "tmpfs": ["/run:size=1m"],
        "shm_size": "1g",
        "labels": {"y": "text", "n": "1e3"},
        "cap_drop": ["ALL"],
        "init": True,
        "volumes": ["scratch:/scratch:nocopy", "/tmp:/host-tmp:ro"],
        "configs": ["motd"],
        "secrets": [{"source": "token", "target": "token"}],
        "stop_grace_period": "1s",
        "deploy": {
            "placement": nocodb["deploy"]["placement"],
            "resources": {"limits": {"memory": "64M"}},
        },
    }
    return data | {
        "services": data["services"] | {"helper": helper},
        "configs": {"motd": {"file": "motd"}},
        "secrets": data["secrets"] | {"token": {"file": "./token"}},
        "volumes": data["volumes"] | {"scratch": None},
    }


def names(lab, kind: str) -> set[str]:
    listed = docker(lab, "manager1", kind, "ls", "--format", "{{.Name}}").split()
    return {name for name in listed if name.startswith(("appstack_motd_", "appstack_token_"))}


def test_local_files_and_every_kind_of_key(product, lab, checkout: Path):
    app = container_of(lab, "app1", APP)
    edit(checkout, with_helper)
    ran = product.fails(2, "plan", root=checkout)
    assert "helper.env: no such file" in ran.err
    for name, content in FILES.items():
        (checkout / "compose" / name).write_text(content)

    ran = product.ok("deploy-app", root=checkout)
    assert f"{NEW}: created" in ran.out
    assert product.ok("plan", root=checkout).out.endswith("plan: nothing to do\n")
    helper = container_of(lab, "app1", NEW)
    inside = docker(lab, "app1", "exec", helper, "sh", "-c",
                    "cat /motd /run/secrets/token /etc/hosts; ulimit -n; env")  # fmt: skip
    for part in ("first", "token-one", "10.0.0.5\tldap", "4096", "FROM_FILE=env-file-value",
                 "BOTH=own", "RATIO=1.50"):  # fmt: skip
        assert part in inside

    # Another one each time, so that a lab that stays up does not have it already.
    second = f"second {secrets.token_hex(4)}"
    (checkout / "compose/motd").write_text(f"{second}\n")
    before = names(lab, "config"), names(lab, "secret")
    ran = product.inv("plan", "--json", root=checkout)
    assert ran.code == 5, ran.text
    stack = next(s for s in json.loads(ran.out)["stacks"] if s["stack"] == "appstack")
    assert stack["new_configs"] == ["appstack_motd"]
    changed = {s["name"]: s["fields"] for s in stack["services"] if s["action"] != "unchanged"}
    assert [field["name"] for field in changed.pop(NEW)] == ["configs.motd"]
    assert changed == {}
    product.ok("deploy-app", root=checkout)
    new = container_of(lab, "app1", NEW)
    assert docker(lab, "app1", "exec", new, "cat", "/motd") == second
    assert product.ok("plan", root=checkout).out.endswith("plan: nothing to do\n")
    # The first release still needs the old version; going back brings it.
    assert len(names(lab, "config") - before[0]) == 1
    assert names(lab, "config") >= before[0]
    assert names(lab, "secret") == before[1]
    product.ok("rollback", "app", root=checkout)
    again = container_of(lab, "app1", NEW)
    assert docker(lab, "app1", "exec", again, "cat", "/motd") == "first"
    assert container_of(lab, "app1", APP) == app

    # What Docker refuses comes with a next step, and nothing is changed.
    path = checkout / "compose/compose-app.yml"
    wrong = yaml.safe_load(path.read_text())
    wrong["services"]["helper"]["no_such_key"] = 1
    path.write_text(yaml.safe_dump(wrong))
    ran = product.fails(1, "deploy-app", root=checkout)
    assert "Additional property no_such_key is not allowed" in ran.err
    assert "'version:'" in ran.err

    product.ok("deploy-app", "--prune")
    assert container_of(lab, "app1", APP) == app
