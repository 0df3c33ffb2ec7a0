"""What a person sees of a source before it is moved; what hosts.yaml and the vault must have."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.terminal.command import ask_secret, read_vault
from fabfile.terminal.deploy_dialog import say
from fabfile.terminal.upgrade_dialog import hosts_file

if TYPE_CHECKING:
    from fabfile.adopt.adoption import Note
    from fabfile.adopt.attachments import Attachments
    from fabfile.adopt.inspection import Found
    from fabfile.adopt.server import Server
    from fabfile.adopt.stopping import Switch
    from fabfile.config.inventory import Inventory
    from fabfile.ssh.fleet import Fleet, Host

DRY = "dry run, nothing was changed"


@dataclass(frozen=True)
class Looked:
    """The source and what its server has; `target` is the new one."""

    found: Found
    source: Server
    facts: Mapping[str, Any]
    contents: Mapping[str, Mapping[str, Any]]
    _target: Server | None = None

    @property
    def target(self) -> Server:
        """The new server."""
        assert self._target
        return self._target


def app_host(fleet: Fleet) -> Host:
    """The host that gets NocoDB. Raises ConfigError if hosts.yaml has none."""
    entries = fleet.inventory.with_role("app")
    if len(entries) != 1:
        raise ConfigError(
            f"{fleet.inventory.path}: {len(entries) or 'no'} hosts have role app, and attachments "
            "are moved to one",
            hint="name one for the move: docs/hosts.md",
        )
    return fleet.host(entries[0])


def live_server(fleet: Fleet) -> Server:
    """The new PostgreSQL. Raises SwarmkeepError if it does not run."""
    from fabfile.adopt.server import Server
    from fabfile.deploy.observation import observe_any
    from fabfile.swarm import postgres

    host, container = postgres.running(fleet, observe_any(fleet)[1])
    return Server(host, container, fleet.inventory.postgres.user)


def examine(found: Found, server: Server) -> Looked:
    """Look at what the source's server has; change nothing.

    Raises SwarmkeepError, ConfigError for what cannot be moved.
    """
    from fabfile.adopt import checks

    facts = server.facts()
    contents = {}
    if facts["superuser"]:
        names = [*checks.databases_of(facts), "postgres"]
        contents = {name: server.content(name) for name in names}
        if not contents["postgres"]["relations"]:
            del contents["postgres"]
    checks.check_source(found, facts, contents)
    return Looked(found, server, facts, contents)


def with_target(fleet: Fleet, looked: Looked) -> Looked:
    """Look at the new server, too; change nothing. Raises SwarmkeepError if it cannot take it."""
    from fabfile.adopt import checks, database_names, rehearsal
    from fabfile.deploy.observation import observe_any

    inventory, facts = fleet.inventory, looked.facts
    target = live_server(fleet)
    app = f"{inventory.app.stack}_nocodb"
    if observe_any(fleet)[1].service(app):
        raise ConfigError(
            f"{app}: is deployed already; nothing was changed",
            hint="a NocoDB takes no other one's data in; if it is empty: docker stack rm "
            f"{inventory.app.stack}, and make its database anew: docs/adopt.md",
        )
    theirs = target.facts()
    there = {one["name"] for one in theirs["databases"]}
    names = [name for name in inventory.postgres.databases if name in there]
    checks.check_target(
        inventory,
        facts,
        looked.contents,
        theirs,
        {name: target.content(name) for name in names},
        database_names.unfinished(target),
    )
    checks.check_space(inventory, facts, rehearsal.free_bytes(target.host))
    files = attachments_of(fleet, looked.found)
    files.check()
    if looked.found.data:
        checks.check_space_for_files(
            files.target.name, files.size()[1], rehearsal.free_bytes(files.target)
        )
    return replace(looked, _target=target)


def print_plan(fleet: Fleet, looked: Looked) -> None:
    """Tell what there is, what comes along and what does not."""
    from fabfile.adopt import checks
    from fabfile.base.units import format_size

    found, facts = looked.found, looked.facts
    files, taken = attachments_of(fleet, found).size() if found.data else (0, 0)
    version = f" (says it is {found.version})" if found.version else ""
    print(f"{found.source}")
    image = f"{found.app.image} {found.app.image_id}"
    say(f"NocoDB: {found.app.what} on {found.app.host.name}, {image}{version}")
    for port in found.app.ports:
        say(f"is published at port {port}; app.port in hosts.yaml is {fleet.inventory.app.port}")
    say(f"attachments: {files} files, {format_size(taken)}, in {found.data or 'no volume'}")
    one = found.database
    image = f"{one.image} {one.image_id}" if one else "reached by its address"
    say(f"PostgreSQL: {found.server_name}, {image}, {facts['version']}")
    for one in facts["databases"]:
        if one["name"] in looked.contents:
            tables = looked.contents[one["name"]]["tables"]
            own = ", NocoDB's" if one["name"] == found.connection.database else ""
            size = format_size(one["bytes"])
            say(f"database {one['name']}{own}: {tables} tables, {size}, sorts as {one['collate']}")
    say(f"roles: {', '.join(facts['roles'])}")
    if found.settings:
        say(f"comes along, through the vault: {', '.join(found.settings)}")
    if found.left:
        say(f"is not taken: {', '.join(found.left)} (one NocoDB works without)")
    if facts["settings"]:
        say(f"is not taken: PostgreSQL's settings {', '.join(facts['settings'])}")
    if found.workers:
        say(f"is stopped with NocoDB, not taken: {', '.join(one.what for one in found.workers)}")
    if found.others:
        names = ", ".join(sorted({f"{one.what} ({one.image})" for one in found.others}))
        say(f"goes on as it is, not taken: {names}")
    say(f"the copy takes about {format_size(checks.needed(fleet.inventory, facts))} on the db host")
    left = set(looked.contents) - set(fleet.inventory.postgres.databases)
    left -= {found.connection.database}
    if left:
        say(f"is not taken, as hosts.yaml does not name it: database {', '.join(sorted(left))}")


def check_hosts_file(inventory: Inventory, looked: Looked) -> None:
    """Raise ConfigError unless hosts.yaml says what the source needs."""
    from fabfile.adopt import checks

    lacking = checks.differences(looked.found, looked.facts, inventory)
    if lacking:
        said = ", ".join(
            f"{'.'.join(filter(None, key))}: {value}" for key, value in lacking.items()
        )
        raise ConfigError(
            f"{inventory.path}: does not fit {looked.found.source}; nothing was changed",
            hint=f"write into it: {said}; or: inv adopt --from {looked.found.source} --plan "
            "--write",
        )


def write_hosts_file(inventory: Inventory, looked: Looked, *, write: bool) -> None:
    """Have hosts.yaml say what the source needs, or tell what it is."""
    from fabfile.adopt import checks

    lacking = checks.differences(looked.found, looked.facts, inventory)
    if lacking:
        hosts_file(inventory, lacking, write=write, until_then="or run it with --write")
    else:
        print(f"{inventory.path}: fits; next: inv adopt --from {looked.found.source} --rehearse")


def put_settings(inventory: Inventory, found: Found) -> None:
    """Put NocoDB's own settings into the vault, unless they are there. Nothing of them is shown.

    Raises ConfigError where the vault has others.
    """
    from fabfile.deploy import app_environment
    from fabfile.vault import editing
    from fabfile.vault.reading import NOCODB_ENVIRONMENT

    wanted = {name: value.reveal() for name, value in found.settings.items()}
    there = app_environment.of(read_vault(inventory))
    if not wanted or {**there, **wanted} == there:
        return
    if any(name in there and there[name] != value for name, value in wanted.items()):
        names = ", ".join(name for name in wanted if there.get(name, wanted[name]) != wanted[name])
        raise ConfigError(
            f"{inventory.vault.file}: {NOCODB_ENVIRONMENT} has other values of {names} than "
            f"{found.source}; nothing was changed",
            hint="remove what is wrong there: inv secrets.edit",
        )
    ask = ask_secret if sys.stdin.isatty() else None
    document = editing.open_document(inventory.vault, ask=ask)
    text = json.dumps({**there, **wanted}, sort_keys=True)
    document.save(editing.set_entry(document, NOCODB_ENVIRONMENT, text))
    say(f"{inventory.vault.file}: {NOCODB_ENVIRONMENT} has {', '.join(sorted(wanted))}")


def attachments_of(fleet: Fleet, found: Found) -> Attachments:
    """The way of the attachments into the new volume."""
    from fabfile.adopt.attachments import Attachments

    inventory = fleet.inventory
    host = fleet.host(found.app.host)
    return Attachments(host, found.data, app_host(fleet), inventory.app.stack)


def switches_of(fleet: Fleet, looked: Looked) -> tuple[Host, tuple[Switch, ...], Switch | None]:
    """Where the source is stopped and started, how its NocoDBs are, and how its PostgreSQL is.

    None where that has other databases than those that are taken: then it goes on.
    """
    from fabfile.adopt.stopping import container_switch, service_switch

    found = looked.found
    by_service = bool(found.app.service)
    control = fleet.first_manager() if by_service else fleet.host(found.app.host)
    apps = tuple(
        service_switch(control, one.service) if one.service else container_switch(one)
        for one in {one.what: one for one in (found.app, *found.workers)}.values()
    )
    left = set(looked.contents) - set(fleet.inventory.postgres.databases)
    one = found.database
    if one is None or left:
        return control, apps, None
    elsewhere = not one.service if by_service else one.host != found.app.host
    if elsewhere:
        return control, apps, None
    service = one.service
    stop = service_switch(control, service) if service else container_switch(one, database=True)
    return control, apps, stop


def first_backup(fleet: Fleet) -> None:
    """Back up what was adopted, and restore it as a proof. What fails is said; the move stands."""
    from fabfile.backup import host_run
    from fabfile.restore.restore_script import drill_command
    from fabfile.terminal.command import open_bucket
    from fabfile.terminal.identity_dialog import identity_for
    from fabfile.terminal.restore_dialog import run_script

    inventory = fleet.inventory
    host = host_run.find_host(fleet, inventory)
    apps = [fleet.host(entry) for entry in inventory.with_role("app")]
    print("first backup of it", flush=True)
    try:
        codes = host_run.run_all(fleet, host, apps if inventory.backup.files else [], say)
        if any(codes):
            raise SwarmkeepError("the backup failed", hint="inv backup.run, then inv backup.drill")
        bucket = open_bucket(inventory)
        for name in inventory.postgres.databases:
            newest = next(iter(bucket.newest(name, datetime.now(UTC)).backups), None)
            if newest is None:
                raise SwarmkeepError(f"{name}: there is no set", hint="inv backup.list")
            private = identity_for(inventory, newest.recipients, "", f"set {newest.stamp}")
            done = run_script(host, drill_command(name, newest.stamp, ""), private)
            say(f"drilled: set {newest.stamp} of {name}, {done.tables} tables, {done.rows} rows")
    except SwarmkeepError as error:
        print(f"warning: {error.message}; next: {error.hint or 'inv backup.run, inv backup.drill'}")


def since_then(target: Server, note: Note) -> str:
    """What was written into a copy since it was made, in words. Raises SwarmkeepError."""
    from fabfile.adopt import adoption

    if note.phase == adoption.UNDOING:
        return "what was written since"
    pairs = zip(target.written(note.databases), note.written, strict=True)
    inserted, updated, deleted = (now - then for now, then in pairs)
    return f"{inserted} inserted, {updated} updated, {deleted} deleted rows"


def on_record(host: str, note: Note | None) -> Note:
    """The note that a host has of a move. Raises SwarmkeepError if there is none."""
    if note is None:
        raise SwarmkeepError(
            f"{host}: no move is on record", hint="it may have been finished, or undone: inv audit"
        )
    return note
