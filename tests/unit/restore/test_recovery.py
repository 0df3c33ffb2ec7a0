"""What a recovery finds and refuses, and what it does not let get in its way."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from fabfile.backup import host_install, host_run
from fabfile.base.errors import CheckFailedError, ConfigError, SwarmkeepError, UnreachableError
from fabfile.base.secret import Secret
from fabfile.commands import recover
from fabfile.config import hosts_file
from fabfile.config.apps import OtherApp
from fabfile.deploy import observation
from fabfile.deploy.observation import Look, Survey
from fabfile.restore import recovery
from fabfile.ssh.fleet import Outcome
from fabfile.ssh.remote_command import Result
from fabfile.terminal.recover_dialog import ends_of_wal, named
from fabfile.terminal.restore_dialog import Source
from fabfile.wal.chain import Window
from tests.unit import clusters
from tests.unit.backup.test_verify import NOW, landed

DB, APP = clusters.service(), clusters.service("appstack_nocodb")
HOSTS = {
    "manager1": {"address": "192.0.2.1", "swarm": "manager"},
    "db1": {"address": "192.0.2.2", "role": "db"},
    "app1": {"address": "192.0.2.3", "role": "app"},
}


@pytest.fixture
def make(tmp_path):
    """An inventory with these changes, and hosts beside the usual ones."""

    def inventory(hosts=None, **changes):
        data = {"hosts": HOSTS | (hosts or {}), "s3_bucket_name": "test-bucket"} | changes
        path = tmp_path / "hosts.yaml"
        path.write_text(yaml.safe_dump(data))
        return hosts_file.load(path)

    return inventory


class Server:
    """PostgreSQL, as far as it is asked: how many tables and users each database has."""

    def __init__(self, inventory, tables: dict[str, int], users: dict[str, int] | None = None):
        self.inventory, self.tables, self.users = inventory, tables, users or {}
        self.name = "db1"

    def host(self, entry: Any) -> Server:
        return self

    def check(self, command: Any, what: str) -> Result:
        where = what.rpartition(" ")[2]
        sql = command.stdin.decode().splitlines()[0]
        if sql == recovery._DATABASES:
            said = "\n".join(["postgres", *self.tables])
        elif sql == recovery._TABLES:
            said = str(self.tables[where])
        elif sql == recovery._USERS:
            said = str(self.users[where])
        else:
            said = "t" if where in self.users else "f"
        return Result("db1", 0, f"swarmkeep: asked for a password\n{said}\n", "")


def seen(*tasks, services=(DB,), volume=(), nodes=None):
    changes = {"nodes": nodes} if nodes else {}
    survey = tuple(
        Outcome(SimpleNamespace(name=name, node=name), Survey(True, name in volume))
        for name in ("db1",)
    )
    found = clusters.cluster(services, tasks, **changes)
    return Look(SimpleNamespace(), found, {"db": survey})  # type: ignore[arg-type]


def survey(server, look):
    return recovery.survey(server, look, [Secret("geheim")])


class TestSurvey:
    def test_data_is_left_alone(self, make):
        server = Server(make(), {"nocodb": 105}, {"nocodb": 1})
        with pytest.raises(SwarmkeepError) as caught:
            survey(server, seen(clusters.task(DB)))
        assert caught.value.message == (
            "db1: dbstack has its data (nocodb with 105 tables): there is nothing to recover, "
            "and nothing was changed"
        )
        assert "inv deploy-app backup.get-files" in caught.value.hint

    @pytest.mark.parametrize(
        ("tables", "users", "replaced"),
        [
            ({}, {}, set()),
            ({"nocodb": 0}, {}, set()),
            ({"nocodb": 105}, {"nocodb": 0}, {"nocodb"}),
        ],
    )
    def test_nothing_or_a_nocodb_begun_anew_is_in_nobodys_way(self, make, tables, users, replaced):
        site = survey(Server(make(), tables, users), seen(clusters.task(DB)))
        assert (site.moves, site.replaced, site.kept) == (False, replaced, {})

    def test_what_nocodb_uses_is_exchanged(self, make):
        look = seen(clusters.task(DB), services=(DB, APP))
        assert survey(Server(make(), {"nocodb": 0}), look).replaced == {"nocodb"}

    def test_of_two_databases_the_one_that_is_there_stays(self, make):
        inventory = make(pg_db=["nocodb", "second"])
        tables, users = {"nocodb": 105}, {"nocodb": 1}
        site = survey(Server(inventory, tables, users), seen(clusters.task(DB)))
        assert (site.kept, site.replaced) == ({"nocodb": 105}, set())
        with pytest.raises(SwarmkeepError, match="nocodb with 105 tables, second with 2 tables"):
            survey(Server(inventory, tables | {"second": 2}, users), seen(clusters.task(DB)))

    def test_no_task_and_no_volume(self, make):
        site = survey(Server(make(), {}), seen(services=()))
        assert (site.moves, site.replaced) == (True, set())

    def test_volume_whose_data_cannot_be_seen(self, make):
        with pytest.raises(SwarmkeepError, match="its volume is on db1"):
            survey(Server(make(), {}), seen(volume=("db1",)))

    def test_node_that_is_down_is_named_with_the_steps(self, make):
        """Swarm goes on to say of its task that it runs."""
        nodes = (clusters.node("manager1"), clusters.node("db1", "db", "dbstack", state="down"))
        heard_last = clusters.task(DB, desired="shutdown")
        waiting = clusters.task(DB, "pending", node_id="")
        with pytest.raises(SwarmkeepError) as caught:
            survey(Server(make(), {}), seen(heard_last, waiting, nodes=nodes))
        assert caught.value.message == (
            "dbstack: is to run on db1, whose node db1 is down; nothing was changed"
        )
        for step in ("docker node rm --force db1", "db.data_host", "inv swarm.init"):
            assert step in caught.value.hint

    def test_node_that_is_down_hinders_nobody_once_another_is_to_hold_the_data(self, make):
        nodes = (
            clusters.node("manager1"),
            clusters.node("db1", "db", "dbstack", state="down"),
            clusters.node("db2", "db"),
        )
        inventory = make({"db2": {"address": "192.0.2.4", "role": "db"}}, db={"data_host": "db2"})
        look = seen(clusters.task(DB, desired="shutdown"), nodes=nodes)
        assert survey(Server(inventory, {}), look).moves


def test_a_task_of_a_node_that_is_down_is_not_waited_for_nor_taken_for_one_that_runs(
    make, monkeypatch
):
    looks = iter(
        [
            seen(clusters.task(DB, desired="shutdown"), clusters.task(DB, "starting")),
            seen(clusters.task(DB, desired="shutdown"), clusters.task(DB, slot=2)),
        ]
    )
    monkeypatch.setattr(observation, "look", lambda *args: next(looks))
    monkeypatch.setattr(observation, "POLL_SECONDS", 0)
    fleet = SimpleNamespace(inventory=make())
    found = recovery.look(fleet, [])  # type: ignore[arg-type]
    assert {task.slot for task in found.cluster.tasks if task.desired == "running"} == {2}


def test_a_set_that_is_too_new_for_the_image_is_refused_before_anything(make):
    one = landed(timedelta(hours=1))
    assert one.manifest
    newer = replace(one, manifest=replace(one.manifest, major=16))
    inventory = make(images={"postgres": "postgres:15-bookworm"})
    recovery.check_versions(inventory, {"nocodb": one})
    with pytest.raises(ConfigError, match="is of PostgreSQL 16") as caught:
        recovery.check_versions(inventory, {"nocodb": one, "second": newer})
    assert "images.postgres in hosts.yaml is 15, which cannot read it" in caught.value.message
    assert "set images.postgres to 16 or newer" in caught.value.hint


def test_what_comes_back_is_named_with_what_is_in_it_and_what_stays_as_it_is(capsys):
    sets = {name: landed(timedelta(hours=7)) for name in ("nocodb", "second")}
    site = recovery.Site(moves=False, replaced=frozenset(), kept={"nocodb": 105})
    left = recover._without_kept(sets, site)
    assert list(left) == ["second"]
    assert "nocodb is there, with 105 tables, and stays as it is" in capsys.readouterr().out
    assert named(left, {}) == (
        "second as it was at 2026-11-22 02:00:00 UTC (4 rows, dump 976.6 KiB)"
    )
    end = Source(("--at", "end"), datetime(2026, 11, 22, 8, 30, tzinfo=UTC), compared=True)
    assert named(left, {"second": end}) == "second with every commit up to 2026-11-22 08:30:00 UTC"
    assert sets["second"].manifest
    uncounted = replace(sets["second"], manifest=replace(sets["second"].manifest, rows=None))
    assert "(rows not counted, dump 976.6 KiB)" in named({"second": uncounted}, {})


@pytest.mark.parametrize(
    ("doubtful", "major", "end", "used"),
    [
        ((), 15, 4, True),
        ((), 15, 8, False),  # the set is younger
        ((), 14, 4, False),
        (("nocodb",), 15, 4, False),
    ],
)
def test_the_wal_is_used_where_it_brings_more_and_nothing_speaks_against_it(
    doubtful, major, end, used, monkeypatch, capsys
):
    """`end`: hours ago. What made a set doubtful may be in the WAL, too."""
    until = NOW - timedelta(hours=end)
    window = Window(NOW - timedelta(days=1), until)
    base = SimpleNamespace(major=major)
    history = SimpleNamespace(
        windows=lambda: [window],
        newest_base=base,
        keys_for=lambda _when: (frozenset(), False),
        cluster="7",
    )
    monkeypatch.setattr("fabfile.backup.verdict.wal_history", lambda *_: history)
    monkeypatch.setattr("fabfile.terminal.recover_dialog.open_bucket", lambda _: None)
    inventory = SimpleNamespace(
        backup=SimpleNamespace(pitr=True), postgres=SimpleNamespace(major=15)
    )
    sets = {"nocodb": landed(timedelta(hours=7))}
    ends = ends_of_wal(inventory, sets, frozenset(doubtful))
    assert (list(ends) == ["nocodb"]) is used
    said = capsys.readouterr().out
    if used:
        assert ends["nocodb"].words == ("--at", "end", "--cluster", "7")
        assert "leads on from there" in said
    elif end < 7:
        assert "is not used: " in said
        assert "inv backup.restore --at '" in said
    inventory.backup.pitr = False
    assert ends_of_wal(inventory, sets, frozenset()) == {}


KINTO = OtherApp(
    "kinto", "kintostack", Path("kinto.yml"), "kinto", "kinto:1", 1, 8888, ("kinto",), "kinto",
    ("data", "more"),
)  # fmt: skip


class TestFiles:
    @pytest.fixture
    def restore(self, make, monkeypatch):
        """Each app host's script ends with its code; one without is not to be reached."""

        def run(**codes: int | None):
            hosts = {
                name: {"address": f"192.0.2.{i}", "role": "app"} for i, name in enumerate(codes, 9)
            }
            inventory = make({"app1": hosts.pop("app1", {"address": "192.0.2.3"}), **hosts})
            asked = []

            def host(entry):
                if codes[entry.name] is None:
                    raise UnreachableError(f"{entry.name}: no route")
                return SimpleNamespace(name=entry.name)

            def script(host, on_line, options, stdin):
                assert (options, stdin) == ("--restore", b"")
                asked.append(host.name)
                return codes[host.name]

            monkeypatch.setattr(host_run, "run", script)
            fleet = SimpleNamespace(inventory=inventory, host=host)
            try:
                recovery.restore_files(fleet, print)  # type: ignore[arg-type]
            except SwarmkeepError as error:
                return asked, error
            return asked, None

        return run

    def test_each_volume_by_itself_where_other_apps_have_some(self, make, monkeypatch):
        """One that no host has is told, with what to do, and keeps the others from nothing."""
        inventory = make({"app1": {"address": "192.0.2.3", "role": "app"}})
        inventory = replace(inventory, apps=(KINTO,))
        codes = {"appstack_data": 0, "kintostack_data": 11, "kintostack_more": 0}
        asked = []

        def script(host, on_line, options, stdin):
            asked.append(options.removeprefix("--restore --volume "))
            return codes[asked[-1]]

        monkeypatch.setattr(host_run, "run", script)
        fleet = SimpleNamespace(inventory=inventory, host=lambda entry: entry)
        with pytest.raises(SwarmkeepError) as caught:
            recovery.restore_files(fleet, print, None, ["kintostack_data", "kintostack_more"])  # type: ignore[arg-type]
        assert asked == list(codes)
        assert "kintostack: no app host has the volume kintostack_data" in caught.value.message
        assert "inv deploy-app kinto; then: inv backup.get-files" in caught.value.hint

    def test_a_standby_host_without_the_volume_is_fine(self, restore):
        assert restore(app1=11, app2=0) == (["app1", "app2"], None)

    def test_no_host_with_the_volume_is_a_failure(self, restore):
        _, error = restore(app1=11, app2=11)
        assert "appstack: no app host has the volume appstack_data" in error.message
        assert (error.exit_code, "inv deploy-app" in error.hint) == (1, True)

    @pytest.mark.parametrize(
        ("code", "kind"), [(19, CheckFailedError), (18, UnreachableError), (1, SwarmkeepError)]
    )
    def test_failures(self, restore, code, kind):
        _, error = restore(app1=code)
        assert type(error) is kind
        assert "app1: the attachments did not all come back" in error.message

    def test_a_host_that_is_gone_keeps_no_other_from_having_them(self, restore):
        asked, error = restore(app1=None, app2=0)
        assert asked == ["app2"]
        assert type(error) is UnreachableError
        assert error.message == "app1: no route"


class TestInstalling:
    @pytest.fixture
    def outcomes(self, make, monkeypatch):
        """The command's steps around the restore, on hosts of which some fail."""
        inventory = make()
        by_name = {entry.name: entry for entry in inventory.hosts}
        failures: dict[str, SwarmkeepError] = {}
        checks = []

        def install(fleet, inventory, secrets, apps, *, check=True):
            checks.append(check)
            return [
                Outcome(by_name[name], host_install.Installed(["a file"]), failures.get(name))
                for name in ("db1", "app1")
            ]

        monkeypatch.setattr(host_install, "install", install)
        host = SimpleNamespace(name="db1", entry=by_name["db1"])
        monkeypatch.setattr(host_run, "find_host", lambda *args: host)
        monkeypatch.setattr(recover, "bring_files", lambda fleet, identity: None)
        return SimpleNamespace(inventory=inventory, failures=failures, checks=checks)

    def test_nothing_is_checked_before_there_is_a_database(self, outcomes):
        recover._install(None, outcomes.inventory, None)  # type: ignore[arg-type]
        assert outcomes.checks == [False]
        assert recover._bring_the_rest(None, outcomes.inventory, None, "") == []  # type: ignore[arg-type]
        assert outcomes.checks == [False, True]

    def test_only_the_databases_host_is_insisted_on(self, outcomes, capsys):
        outcomes.failures["app1"] = UnreachableError("app1: no route")
        recover._install(None, outcomes.inventory, None)  # type: ignore[arg-type]
        assert "warning: app1: no route" in capsys.readouterr().out
        assert recover._bring_the_rest(None, outcomes.inventory, None, "") == []  # type: ignore[arg-type]
        outcomes.failures["db1"] = SwarmkeepError("db1: no space")
        with pytest.raises(SwarmkeepError, match="db1: no space"):
            recover._install(None, outcomes.inventory, None)  # type: ignore[arg-type]

    def test_what_fails_once_the_data_is_back_is_told_after_that(
        self, outcomes, monkeypatch, capsys
    ):
        def fail(fleet, identity):
            raise UnreachableError("app1: the attachments did not all come back")

        monkeypatch.setattr(recover, "bring_files", fail)
        outcomes.failures["db1"] = SwarmkeepError("db1: cannot work")
        failures = recover._bring_the_rest(None, outcomes.inventory, None, "")  # type: ignore[arg-type]
        with pytest.raises(SwarmkeepError, match="db1: cannot work"):
            recover._print_result({}, frozenset(), 1.0, failures, pitr=False)
        captured = capsys.readouterr()
        assert "recovery complete" not in captured.out
        assert "the data is restored, but these steps failed" in captured.out
        assert "error: app1: the attachments did not all come back" in captured.err
