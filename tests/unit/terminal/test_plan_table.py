"""A plan as people and programs see it."""

from __future__ import annotations

import json

from fabfile.deploy.plan import Field, Plan, ServicePlan
from fabfile.swarm.placement import LabelChange
from fabfile.terminal import plan_table

LABEL = LabelChange("db1", {"role": "db"})
PLAN = Plan(
    "appstack", "app", (LABEL,), "backend", ("appstack_secret",),
    (
        ServicePlan("appstack_new", "create", (Field("image", None, "n:1"),
                    Field("environment.A", None, "1"))),
        ServicePlan("appstack_web", "update", (Field("image", "w:1", "w:2"),
                    Field("environment.OLD", "hunter2 [bold]", None)), ("env_file",), True),
        ServicePlan("appstack_same", "unchanged"),
        ServicePlan("appstack_gone", "left"),
    ),
)  # fmt: skip


def redact(text: str) -> str:
    return text.replace("hunter2", "[redacted]")


def test_table_shows_old_and_new_side_by_side():
    text = plan_table.to_text([PLAN, PLAN], redact, all_services=False)
    rows = [line.split() for line in text.splitlines()]
    assert ["image", "w:1", "w:2"] in rows
    assert ["image", "-", "n:1"] in rows
    assert text.count("node db1") == 1
    assert text.count("network backend") == 1
    assert "[redacted] [bold]" in text
    assert "env_file" in text
    assert "cannot be compared" in text
    assert "stays (--prune removes it)" in text
    assert "its tasks restart" in text
    assert "appstack_same" not in text
    assert "appstack_same" in plan_table.to_text([PLAN], redact, all_services=True)


def test_summary_names_what_is_interrupted():
    assert plan_table.summary([PLAN]) == (
        "1 to create; 1 to update; restarts or stops appstack_web"
    )
    nothing = Plan("s", "app", (), "", (), (ServicePlan("s_a", "unchanged"),))
    assert plan_table.summary([nothing]) == "nothing to do"
    assert plan_table.to_text([nothing], redact, all_services=False) == ""


def test_data_for_programs():
    data = json.loads(json.dumps(plan_table.to_data([PLAN], redact)))
    assert data["changes"] is True
    assert data["swarm"] == {
        "labels": [{"node": "db1", "add": {"role": "db"}, "remove": []}],
        "networks": ["backend"],
    }
    (stack,) = data["stacks"]
    web = next(s for s in stack["services"] if s["name"] == "appstack_web")
    assert web["action"] == "update"
    assert web["fields"][0] == {"name": "image", "old": "w:1", "new": "w:2"}
    assert web["fields"][1]["old"] == "[redacted] [bold]"
    assert web["cannot_compare"] == ["env_file"]
