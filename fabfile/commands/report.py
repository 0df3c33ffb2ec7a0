"""inv report: one page that says whether everything is well."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.context import Context

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.terminal.command import command, connected, open_bucket, read_inventory

if TYPE_CHECKING:
    from collections.abc import Callable

    from fabfile.config.backup import Retention
    from fabfile.config.inventory import Inventory
    from fabfile.monitoring.report_page import Report, Section
    from fabfile.ssh.fleet import Fleet

AUDIT_LINES = 40
RELEASES = 20
PORT = 8090


@command(
    help={
        "out": "the file to write, such as report.html",
        "serve": f"show it at http://127.0.0.1:{PORT}/, rebuilt at every request",
        "port": f"another port for --serve (default {PORT})",
        "upload": "put it into the bucket, as postgres/report.html of the project",
    }
)
def report(
    ctx: Context,
    hosts: str | None = None,
    out: str = "",
    serve: bool = False,
    port: int = PORT,
    upload: bool = False,
) -> None:
    """Make a page: is all well, and the history of the backups."""
    if not (out or serve or upload):
        raise ConfigError("say where the report goes", hint="--out report.html, --upload, --serve")
    file = _target(out)
    inventory = read_inventory(hosts)
    if serve:
        _serve(lambda: _page(ctx, inventory), port)
        return
    page = _page(ctx, inventory)
    if file:
        try:
            file.write_text(page, encoding="utf-8")
        except OSError as error:
            raise SwarmkeepError(f"--out {out}: cannot be written: {error.strerror}") from None
        print(f"written: {file} ({len(page.encode()) // 1024} KiB)")
    if upload:
        bucket = open_bucket(inventory)
        key = f"{inventory.backup.prefix}postgres/report.html"
        bucket.put_text(key, page.encode(), "text/html; charset=utf-8")
        print(f"uploaded: s3://{bucket.name}/{key}")


def _target(out: str) -> Path | None:
    if not out:
        return None
    path = Path(out).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"--out {out}: want a file in a folder that is there")
    return path


def _page(ctx: Context, inventory: Inventory) -> str:
    from fabfile.monitoring.report_page import render

    return render(_gather(ctx, inventory))


def _gather(ctx: Context, inventory: Inventory) -> Report:
    """Ask everybody. Who cannot be asked is told on the page: it is for bad days, too."""
    from fabfile.monitoring.report_data import gather
    from fabfile.monitoring.report_page import Report, Section
    from fabfile.swarm import operator

    bucket = open_bucket(inventory)
    histories, sections = [], []
    for name in inventory.postgres.databases:
        try:
            history = gather(inventory, bucket, name)
        except SwarmkeepError as error:
            sections.append(Section(f"backup of {name}", problem=error.message))
            continue
        histories.append(history)
        sections.append(Section(f"backup of {name}", history.verdict.checks))
    swarm: dict[str, Any] = {}
    try:
        with connected(ctx, inventory) as fleet:
            swarm = _swarm(fleet, inventory)
            sections.append(_status(swarm["summary"]))
    except SwarmkeepError as error:
        sections.append(Section("services", problem=error.message))
    sections += _doctor(ctx, inventory)
    return Report(
        project=inventory.project or inventory.postgres.stack,
        bucket=bucket.name,
        now=datetime.now(UTC),
        who=operator.find().who,
        histories=histories,
        sections=sections,
        services=swarm["summary"]["services"] if swarm else (),
        releases=swarm.get("releases", ()),
        audit=swarm.get("audit", ()),
        policy=_policy(inventory.backup.retention),
    )


def _swarm(fleet: Fleet, inventory: Inventory) -> dict[str, Any]:
    from fabfile.deploy import releases
    from fabfile.deploy.observation import observe_any
    from fabfile.swarm import audit_log
    from fabfile.swarm.status import summarise

    manager, cluster = observe_any(fleet)
    found = [
        {
            "at": one.at,
            "stack": stack,
            "number": one.number,
            "who": one.who,
            "commit": one.commit or "",
            "images": sorted(set(one.images.values())),
        }
        for stack in inventory.data_stacks
        for one in releases.read(manager, stack)
    ]
    entries = [
        {
            "time": str(entry.get("time", "")),
            "who": str(entry.get("who", "")),
            "command": str(entry.get("command", "")),
            "outcome": str(entry.get("outcome", "")),
            "text": str(entry.get("error") or "; ".join(map(str, entry.get("changes", [])))),
        }
        for entry in audit_log.read(fleet, AUDIT_LINES).entries
    ]
    return {
        "summary": summarise(inventory, cluster),
        "releases": sorted(found, key=lambda one: str(one["at"]), reverse=True)[:RELEASES],
        "audit": entries[::-1],
    }


def _status(summary: dict[str, Any]) -> Section:
    from fabfile.base.check import Check
    from fabfile.monitoring.report_page import Section

    checks = [
        Check(s["name"], s["converged"], f"{s['running']} of {s['wanted']} tasks run", "inv status")
        for s in summary["services"]
    ]
    missing = summary["missing_stacks"]
    checks += [Check(stack, False, "is not deployed", "inv deploy") for stack in missing]
    return Section("services", checks)


def _doctor(ctx: Context, inventory: Inventory) -> list[Section]:
    from fabfile.commands.doctor import examine
    from fabfile.monitoring.report_page import Section

    try:
        findings = examine(ctx, inventory)
    except SwarmkeepError as error:
        return [Section("doctor", problem=error.message)]
    groups = dict.fromkeys(finding.group for finding in findings)
    return [
        Section(f"doctor: {group}", [f.check for f in findings if f.group == group])
        for group in groups
    ]


def _policy(policy: Retention) -> str:
    counts = {
        "daily": policy.daily,
        "weekly": policy.weekly,
        "monthly": policy.monthly,
        "yearly": policy.yearly,
    }
    words = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"hosts.yaml keeps {words}, and at least {policy.minimum}; inv backup.prune deletes"


def _serve(make: Callable[[], str], port: int) -> None:
    """Answer on loopback until Ctrl-C; the page is made at each look."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/":
                self.send_error(404)
                return
            try:
                status, kind, body = 200, "text/html", make()
            except SwarmkeepError as error:
                status, kind = 503, "text/plain"
                body = f"error: {error.message}\nnext: {error.hint}\n"
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_words: Any) -> None:
            pass

    try:
        server = HTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--port {port}: cannot be used: {error}", hint="--port OTHER") from None
    with server:
        print(f"http://127.0.0.1:{server.server_port}/ until Ctrl-C", flush=True)
        server.serve_forever()
