"""A plan as a table for people and as plain data for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fabfile.deploy.plan import Plan, ServicePlan
from fabfile.terminal.tables import plain, table

_SIGNS = {
    "create": "[green]+[/]",
    "update": "[yellow]~[/]",
    "remove": "[red]-[/]",
    "left": "[dim]![/]",
    "unchanged": "[dim]=[/]",
}


def to_text(plans: Sequence[Plan], redact: Callable[[str], str], *, all_services: bool) -> str:
    """Given plans, return a table, "" if it would be empty.

    `all_services` lists unchanged services too. `redact` takes our secrets out of values
    that somebody may have put into an environment variable.
    """

    def cell(text: str) -> str:
        return plain(redact(text))

    rows: list[list[str]] = []
    for change in _labels(plans):
        rows.append([_SIGNS["update"], cell(f"node {change.node}"), "", cell(str(change))])
    rows += [
        [_SIGNS["create"], cell(f"network {name}"), "", "overlay, attachable"]
        for name in _networks(plans)
    ]
    for plan in plans:
        for one in plan.databases:
            rows.append([_SIGNS["create"], cell(one), "", "in PostgreSQL"])
        for secret in plan.secrets:
            rows.append([_SIGNS["create"], cell(f"secret {secret}"), "", "a new version"])
        for config in plan.configs:
            rows.append([_SIGNS["create"], cell(f"config {config}"), "", "a new version"])
        for service in plan.services:
            if all_services or service.action != "unchanged":
                rows += _service_rows(service, cell)
    return table(["", "change", "now", "wanted"], rows) if rows else ""


def summary(plans: Sequence[Plan]) -> str:
    """One line: how many changes, and what they interrupt."""
    if not any(plan.changes for plan in plans):
        return "nothing to do"
    services = [s for plan in plans for s in plan.services]
    parts = [
        f"{sum(s.action == action for s in services)} to {action}"
        for action in ("create", "update", "remove")
        if any(s.action == action for s in services)
    ]
    touched = [service for service in services if service.restarts]
    for words, perhaps in (("restarts or stops", False), ("may restart or stop", True)):
        names = [service.name for service in touched if service.perhaps is perhaps]
        if names:
            parts.append(f"{words} {', '.join(names)}")
    return "; ".join(parts) or "no service changes; labels, network or secrets do"


def to_data(plans: Sequence[Plan], redact: Callable[[str], str]) -> dict[str, Any]:
    """Given plans, return {"changes", "swarm", "stacks"} of plain values."""
    return {
        "changes": any(plan.changes for plan in plans),
        "swarm": {
            "labels": [
                {"node": c.node, "add": dict(c.add), "remove": list(c.remove)}
                for c in _labels(plans)
            ],
            "networks": _networks(plans),
        },
        "stacks": [
            {
                "stack": plan.stack,
                "changes": plan.changes,
                "touches_database": plan.touches_database,
                "new_secrets": list(plan.secrets),
                "new_configs": list(plan.configs),
                "new_in_postgresql": list(plan.databases),
                "services": [_service_data(service, redact) for service in plan.services],
            }
            for plan in plans
        ],
    }


def _service_rows(service: ServicePlan, cell: Callable[[str], str]) -> list[list[str]]:
    what = {
        "create": "a new service",
        "update": _update_text(service),
        "remove": "removed, it is not in the compose file",
        "left": "not in the compose file; stays (--prune removes it)",
        "unchanged": "its tasks move" if service.restarts else "unchanged",
    }[service.action]
    rows = [[_SIGNS[service.action], cell(service.name), "", what]]
    if service.note:
        rows.append(["", "", "", cell(service.note)])
    # Of a new service its image says enough; --json has all of it.
    shown = [f for f in service.fields if service.action != "create" or f.name == "image"]
    rows += [["", cell(f"  {f.name}"), _side(f.old, cell), _side(f.new, cell)] for f in shown]
    if service.action != "create":
        rows += [
            ["", cell(f"  {key}"), "", f"[yellow]{_why_unknown(key)}[/]"] for key in service.unknown
        ]
    return rows


def _update_text(service: ServicePlan) -> str:
    if not service.restarts:
        return "update without a restart"
    return f"update; its tasks {'may ' if service.perhaps else ''}restart"


def _why_unknown(key: str) -> str:
    """Why a key cannot be compared, and what would make it comparable."""
    if key.startswith("environment."):
        return "the manager's own value counts: write its value to have it compared"
    if key.startswith("volumes."):
        return "the manager completes the path: write an absolute one to have it compared"
    return "cannot be compared: counts as changed"


def _side(value: str | None, cell: Callable[[str], str]) -> str:
    return "[dim]-[/]" if value is None else cell(value)


def _service_data(service: ServicePlan, redact: Callable[[str], str]) -> dict[str, Any]:
    return {
        "name": service.name,
        "action": service.action,
        "restarts": service.restarts,
        "note": service.note,
        "fields": [
            {
                "name": field.name,
                "old": None if field.old is None else redact(field.old),
                "new": None if field.new is None else redact(field.new),
            }
            for field in service.fields
        ],
        "cannot_compare": list(service.unknown),
    }


def _labels(plans: Sequence[Plan]) -> list[Any]:
    """Both stacks may want the same labels set: each once."""
    seen: dict[str, Any] = {}
    for plan in plans:
        for change in (*plan.labels, *plan.labels_after):
            seen.setdefault(f"{change.node} {change}", change)
    return list(seen.values())


def _networks(plans: Sequence[Plan]) -> list[str]:
    return list(dict.fromkeys(plan.network for plan in plans if plan.network))
