"""restore-pg.sh as it is called and understood from here."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from fabfile.backup.selection import check_name, new_name, set_of, time_of, usable
from fabfile.base.errors import CheckFailedError, ConfigError, SwarmkeepError, UnreachableError
from fabfile.restore import restore_script
from fabfile.restore.restore_script import Restored, Step
from fabfile.ssh.remote_command import Result

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
STAMP = "20261122T021500Z"
LOG = "2026-11-22T02:15:01Z {} run=20261122T021500Z-7 {}"


class FakeHost:
    """Says what the script would say."""

    def __init__(self, lines: list[str], code: int = 0, project: str = "") -> None:
        self.entry = SimpleNamespace(role="db")
        self.inventory = SimpleNamespace(
            project=project,
            postgres=SimpleNamespace(service="dbstack_root_db"),
            backup=SimpleNamespace(mode="host"),
        )
        self.lines, self.code, self.ran = lines, code, ""

    def run(self, command, *, timeout, on_line):
        self.ran = command.script
        for line in self.lines:
            on_line(line)
        return Result("db1", self.code, "\n".join(self.lines), "")


def test_the_commands_are_quoted():
    assert restore_script.restore_command("nocodb", ("--set", STAMP), "a.b-c", 3) == (
        f"restore --database nocodb --set {STAMP} --into a.b-c --jobs 3 --progress"
    )
    assert "--jobs" not in restore_script.restore_command("nocodb", ("--set", STAMP), "x", 0)
    live = restore_script.restore_command("nocodb", ("--set", STAMP), "x", 0, goes_live=True)
    assert live.endswith("--into x --analyze --progress")
    assert restore_script.drill_command("n", STAMP, ["--app", "img:1; rm"]).endswith(
        "--app 'img:1; rm' --progress"
    )
    assert restore_script.swap_command("a", "b", "c").endswith(
        "swap --database a --with b --keep-as c"
    )


def test_log_progress_and_result_are_told_apart():
    host = FakeHost(
        [
            "progress downloading 5 10",
            LOG.format("INFO", "restoring set=x"),
            "progress restoring ? 10",
            LOG.format("WARNING", "not compared"),
            LOG.format("INFO", "restore complete tables=105 rows=349 seconds=4"),
        ]
    )
    said: list[str] = []
    steps: list[Step] = []
    done = restore_script.run(host, "line", said.append, steps.append)
    assert done == Restored(105, 349, 4)
    assert said[0] == "restoring set=x"
    assert said[1] == "warning: not compared"
    assert steps == [Step("downloading", 5, 10), Step("restoring", 0, 10)]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (18, UnreachableError),
        (20, CheckFailedError),
        (21, CheckFailedError),
        (25, CheckFailedError),
        (28, UnreachableError),
        (24, SwarmkeepError),
    ],
)
def test_its_reason_and_advice_are_ours(code, kind):
    lines = [
        LOG.format("ERROR", "pg_restore: said this"),
        LOG.format("ERROR", "the set is damaged; next: use another"),
    ]
    with pytest.raises(kind) as caught:
        restore_script.run(FakeHost(lines, code), "line", print)
    assert type(caught.value) is kind
    assert caught.value.message == "db1: the set is damaged"
    assert caught.value.hint == "use another"
    assert caught.value.details == ("pg_restore: said this",)


@pytest.mark.parametrize("project", ["", "staging"])
def test_it_runs_with_the_projects_own_settings_or_not_at_all(project):
    """Settings of another project name another database: a restore would go into that."""
    host = FakeHost([LOG.format("INFO", "restore complete tables=1 rows=1 seconds=1")], 0, project)
    restore_script.run(host, "restore --set x", print)
    config = f"/etc/backup-pg{'-staging' if project else ''}.conf"
    assert f"exec /usr/local/bin/restore-pg.sh restore --set x --config {config}" in host.ran
    assert host.ran.startswith(
        f"if [ -e {config} ] && ! grep -qxF DB_SERVICE_NAME=dbstack_root_db {config}; then"
    )
    with pytest.raises(ConfigError, match=f"{config} is of another project"):
        restore_script.run(FakeHost(["DB_SERVICE_NAME=x"], 96, project), "restore", print)


def test_not_installed_and_silent():
    with pytest.raises(SwarmkeepError, match="is not installed"):
        restore_script.run(FakeHost([], 127), "line", print)
    with pytest.raises(SwarmkeepError, match="it said nothing"):
        restore_script.run(FakeHost([], 1), "line", print)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2026-11-22", datetime(2026, 11, 22, tzinfo=UTC)),
        ("2026-11-22T02:15Z", datetime(2026, 11, 22, 2, 15, tzinfo=UTC)),
        ("2026-11-22T02:15+02:00", datetime(2026, 11, 22, 0, 15, tzinfo=UTC)),
        ("3d", datetime(2026, 11, 19, 9, tzinfo=UTC)),
    ],
)
def test_times(text, found):
    assert time_of(text, NOW) == found


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "-3d", "99999999d"])
def test_no_times(text):
    with pytest.raises(ConfigError, match="want a time such as"):
        time_of(text, NOW)


@pytest.mark.parametrize(
    "text",
    [
        STAMP,
        f"backup_{STAMP}",
        f"backup_{STAMP}.dump.gz",
        f"postgres/nocodb/backup_{STAMP}.manifest.json",
        f"s3://some-bucket/postgres/nocodb/backup_{STAMP}.globals.sql.gz",
    ],
)
def test_a_set_by_any_of_its_names(text):
    assert set_of(text, "nocodb") == datetime(2026, 11, 22, 2, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "latest", f"postgres/other/backup_{STAMP}.dump.gz", f"backup_{STAMP}.zip"]
)
def test_what_names_no_set(text):
    with pytest.raises(ConfigError, match="is no backup of database nocodb"):
        set_of(text, "nocodb")


def test_nothing_found():
    with pytest.raises(CheckFailedError, match="s3://b/ has no backup made before then"):
        usable(None, "s3://b/", "made before then")


def test_new_names_fit_and_show_what_they_are():
    assert new_name("nocodb", "", NOW) == "nocodb_20261122t090000z"
    long = new_name("n" * 63, "replaced", NOW)
    assert len(long) == 63
    assert long.endswith("_replaced_20261122t090000z")


@pytest.mark.parametrize("name", ["", "1a", "a b", "a;b", "ü", "a" * 64, "postgres", "template1"])
def test_names_that_are_refused(name):
    with pytest.raises(ConfigError):
        check_name("--into", name)
