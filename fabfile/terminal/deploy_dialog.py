"""What deploys and rollbacks share at the terminal: plan, question, progress, verdict."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from fabfile.base.errors import ConfigError, SwarmkeepError, UnreachableError

if TYPE_CHECKING:
    from fabfile.deploy.deployment import Deployment
    from fabfile.deploy.finish_script import Options, Report
    from fabfile.deploy.observation import Look
    from fabfile.deploy.plan import Plan
    from fabfile.deploy.stacks import Wanted
    from fabfile.ssh.fleet import Fleet, Outcome
    from fabfile.swarm.state import Cluster

T = TypeVar("T")

YES_HELP = "do not ask before something restarts the database"
WAIT_HELP = "wait while another deploy is running"


def carry_out(
    fleet: Fleet, wanted: Wanted, options: Options, *, yes: bool, seen: Look | None = None
) -> Report:
    """Deploy one stack, with everything a person sees of it."""
    start = time.monotonic()
    print(f"{wanted.name}: checking", flush=True)
    report = deployment_of(fleet, wanted, options, yes=yes).run(seen)
    if report.changed and not fleet.dry:
        _note_images(fleet, report)
    _print_report(report, time.monotonic() - start, fleet.dry)
    return report


def deployment_of(fleet: Fleet, wanted: Wanted, options: Options, *, yes: bool) -> Deployment:
    """The deployment of a stack, which shows and asks at the terminal."""
    from fabfile.deploy.deployment import Deployment

    return Deployment(
        fleet,
        wanted,
        options,
        say=say,
        show=lambda plan: _show(plan, wanted),
        confirm=lambda plan: _confirm(fleet, plan, wanted, yes=yes),
        verify=_verifier(fleet, wanted),
    )


def say(line: str) -> None:
    """Print a line of progress."""
    print(f"  {line}", flush=True)


def ask(question: str, *, yes: bool, refusal: str) -> None:
    """Ask on a terminal; `yes` answers beforehand.

    Raises ConfigError with `refusal` where nobody can be asked, SwarmkeepError for a no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(refusal, hint="there is no terminal to ask on: run again with --yes")
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:  # Ctrl-D leaves the cursor behind the question
        print()
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise SwarmkeepError("not confirmed: nothing was changed")


def hosts_on_record(
    fleet: Fleet,
    name: str,
    act: Callable[[], Sequence[Outcome[T]]],
    changes: Callable[[T | None], Sequence[str]],
) -> Sequence[Outcome[T]]:
    """What every host did, after putting it on record; `changes` tells what that changed there."""
    from fabfile.deploy.finish_script import Options
    from fabfile.deploy.locked_change import Record, on_record
    from fabfile.swarm import operator

    record = Record()
    with on_record(fleet, Options(name, operator.find()), record):
        outcomes = act()
        for outcome in outcomes:
            if outcome.error is None:
                said = changes(outcome.value)
                record.changes += [f"{outcome.entry.name}: {change}" for change in said]
        errors = [outcome.error for outcome in outcomes if outcome.error]
        # A dead host beside those that need nothing costs no second round trip.
        if record.changes or not all(isinstance(error, UnreachableError) for error in errors):
            record.error = "; ".join(error.message for error in errors)
    return outcomes


def show_round_trips(fleet: Fleet) -> None:
    """With SWARMKEEP_DEBUG set, tell what the command cost in round trips."""
    if os.environ.get("SWARMKEEP_DEBUG"):
        print(f"round trips: {fleet.round_trips}", file=sys.stderr)


def _show(plan: Plan, wanted: Wanted) -> None:
    from fabfile.terminal import plan_table

    text = plan_table.to_text([plan], wanted.redact, all_services=False)
    if text:
        print(text, flush=True)
        print(f"  plan: {plan_table.summary([plan])}", flush=True)


def _confirm(fleet: Fleet, plan: Plan, wanted: Wanted, *, yes: bool) -> None:
    if plan.touches_database:
        names = ", ".join(plan.interrupts) or "the database"
        ask(
            f"This interrupts the database ({names}) for a moment. Go on?",
            yes=yes,
            refusal=f"{plan.stack}: this would interrupt the database ({names})",
        )
    is_app = wanted.role == "app" or fleet.inventory.other_app(wanted.role)
    if is_app and fleet.inventory.backup.pitr:
        from fabfile.terminal.mark_dialog import set_mark

        # A new version of an app may change its tables.
        set_mark(fleet, "deploy-app", say)


def _verifier(fleet: Fleet, wanted: Wanted) -> Callable[[Cluster], None]:
    def verify(cluster: Cluster) -> None:
        if wanted.role == "proxy" and not fleet.dry:
            _verify_proxy(fleet, cluster)
        other = fleet.inventory.other_app(wanted.role)
        if (wanted.role != "app" and not other) or fleet.dry:
            return
        from fabfile.deploy import behind_proxy
        from fabfile.swarm.app_health import await_works
        from fabfile.swarm.proxy_health import await_proxy

        say(f"{wanted.name}: {await_works(fleet, wanted.role, cluster)}")
        if behind_proxy.is_behind(wanted.compose, fleet.inventory.proxy):
            domain = (other or fleet.inventory.app).domain
            for name in await_proxy(fleet, cluster, domain, reaches_app=True):
                who = other.name if other else "NocoDB"
                say(f"{wanted.name}: {who} answers for {domain} on {name}")

    return verify


def _verify_proxy(fleet: Fleet, cluster: Cluster) -> None:
    """Raise SwarmkeepError unless the proxy answers for the domain; what is behind is told."""
    from fabfile.swarm.proxy_health import await_proxy, working

    for entry in set(fleet.inventory.with_role("proxy")) - set(working(fleet.inventory, cluster)):
        say(f"warning: {entry.name}: its node does not work, and no proxy runs there")
    stack = fleet.inventory.proxy.stack
    for domain in fleet.inventory.domains:
        for name, found in await_proxy(fleet, cluster, domain).items():
            certificate = (
                f", certificate of {found.issuer}, {found.days_left:.0f} days left"
                if found.days_left is not None
                else ""
            )
            behind = "" if found.reaches_app else "; the app does not answer behind it yet"
            say(f"{stack}: {name} answers for {domain}{certificate}{behind}")


def _note_images(fleet: Fleet, report: Report) -> None:
    """Tell the db hosts what runs now: it belongs into the manifests of the backups."""
    from fabfile.backup import host_run

    host_run.note_images(fleet, report.images)


def _print_report(report: Report, seconds: float, dry: bool) -> None:
    from fabfile.base.units import format_duration

    for name, outcome in report.services.items():
        away = f", no task ran for {report.away[name]:.1f} s" if name in report.away else ""
        say(f"{name}: {outcome}{away}")
    if report.release:
        say(f"kept as release {report.release}")
    if dry:
        verdict = "dry run, nothing was changed"
    elif report.changed:
        verdict = "converged"
    else:
        verdict = "converged, nothing to change"
    print(f"{report.stack}: {verdict} ({format_duration(seconds)})", flush=True)
