"""inv doctor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.terminal.command import command, connected, known_project, read_inventory, read_vault

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.doctor.finding import Finding


@command(help={"json": "print one JSON document for programs"})
def doctor(ctx: Context, hosts: str | None = None, json: bool = False) -> None:
    """Check what can go wrong, before it does. Changes nothing."""
    inventory = read_inventory(hosts)
    findings = examine(ctx, inventory)
    print(_as_json(findings) if json else _text(findings), flush=True)
    judge(findings)


def judge(findings: Sequence[Finding]) -> None:
    """Raise what gives the exit code: 1 if any check failed, 3 if all that failed only say
    that something could not be asked.
    """
    failed = [finding for finding in findings if not finding.check.ok]
    if failed:
        names = ", ".join(f"{finding.group}: {finding.check.name}" for finding in failed)
        kind = UnreachableError if all(f.unreachable for f in failed) else SwarmkeepError
        raise kind(
            f"{len(failed)} of {len(findings)} checks failed: {names}", hint=failed[0].check.hint
        )


def examine(ctx: Context, inventory: Inventory) -> list[Finding]:
    """Ask this machine, every host and the bucket, and return every check."""
    from concurrent.futures import ThreadPoolExecutor

    from fabfile.doctor import local_checks, proxy_checks
    from fabfile.doctor.facts import ask
    from fabfile.doctor.finding import failure
    from fabfile.doctor.host_checks import Expected, judge_host
    from fabfile.doctor.swarm_checks import judge_swarm

    # The vault first: its password may have to be typed.
    here = local_checks.look(inventory, lambda: read_vault(inventory))
    with ThreadPoolExecutor(1) as pool, connected(ctx, inventory) as fleet:
        asking = pool.submit(local_checks.bucket, inventory, known_project(inventory))
        outcomes = fleet.fan_out(inventory.hosts, ask)
        proxy = proxy_checks.look(fleet)
        bucket, newest = asking.result()
    facts = {outcome.entry.name: outcome.value for outcome in outcomes if outcome.value}
    nodes = {fact.node_address for fact in facts.values()}
    expected = Expected(inventory, here.files, newest, nodes)
    findings = [*here.findings, bucket]
    for outcome in outcomes:
        if outcome.error:
            findings.append(failure(outcome.entry.name, "ssh", outcome.error))
        elif outcome.value:
            findings += judge_host(expected, outcome.entry, outcome.value)
    return [*findings, *judge_swarm(inventory, facts, here.wanted), *proxy]


def _text(findings: Sequence[Finding]) -> str:
    from fabfile.terminal import tables

    parts = []
    for group in dict.fromkeys(finding.group for finding in findings):
        checks = [finding.check for finding in findings if finding.group == group]
        parts.append(f"{tables.plain(group)}\n{tables.checks(checks)}")
    good = sum(finding.check.ok for finding in findings)
    parts.append(f"{good} of {len(findings)} checks ok")
    return "\n\n".join(parts)


def _as_json(findings: Sequence[Finding]) -> str:
    from fabfile.terminal import tables

    return tables.to_json(
        {
            "ok": all(finding.check.ok for finding in findings),
            "checks": [
                {
                    "group": finding.group,
                    "name": finding.check.name,
                    "ok": finding.check.ok,
                    "detail": finding.check.detail,
                    "hint": "" if finding.check.ok else finding.check.hint,
                    "unreachable": finding.unreachable and not finding.check.ok,
                }
                for finding in findings
            ],
        }
    )
