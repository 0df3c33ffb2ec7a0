"""The report page: what it tells, and that nothing from outside becomes HTML."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from invoke.collection import Collection

from fabfile.backup.bucket import Bucket
from fabfile.base.check import Check
from fabfile.base.errors import SwarmkeepError
from fabfile.commands import report as command
from fabfile.config import hosts_file
from fabfile.monitoring import report_charts
from fabfile.monitoring.report_data import History, gather
from fabfile.monitoring.report_page import Report, Section, render
from tests.unit.command_line import runner
from tests.unit.s3_server import write_hosts

NOW = datetime.now(UTC).replace(microsecond=0)
HOSTILE = "\"'><script>window.hacked=1</script><img src=x onerror=hacked()>&amp;{{ 1234*5678 }}"
DUMP = b"x" * 20_000


@pytest.fixture
def inventory(server, tmp_path):
    return hosts_file.load(write_hosts(tmp_path, server.url, min_size="1KB"))


@pytest.fixture
def history(server, inventory) -> History:
    """Sixty daily sets; night 30 is missing, that of 10 days ago is a tenth, two were drilled."""
    for day in range(60):
        if day == 30:
            continue
        when = NOW - timedelta(hours=1, days=day)
        key = server.put(when, DUMP[:2000] if day == 10 else DUMP, rows={"a": 100 - day})
        if day in (0, 7):
            drill = {"format": 1, "outcome": "ok", "finished": f"{when:%Y-%m-%dT%H:%M:%SZ}",
                     "seconds": 8, "reason": ""}  # fmt: skip
            for at in (key.replace("manifest", "drill"), "postgres/nocodb/drill.json"):
                server.put_object(at, json.dumps(drill).encode())
    return gather(inventory, Bucket(inventory.backup), "nocodb")


def page_of(history: History, **changes: Any) -> str:
    base: dict[str, Any] = {
        "project": "dbstack", "bucket": "b", "now": NOW, "who": "ann@laptop",
        "histories": [history], "sections": [Section("backup", history.verdict.checks)],
    }  # fmt: skip
    return render(Report(**(base | changes)))


class Elements(HTMLParser):
    """Names and attributes of all elements, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def test_history_has_every_set_and_which_shrank(history):
    assert len(history.sets) == 59
    assert [f"{when:%F}" for when in history.shrunk] == [f"{NOW - timedelta(hours=1, days=10):%F}"]
    assert [one.rows for one in history.read[-2:]] == [99, 100]
    assert [one.timestamp for one in history.sets] == sorted(o.timestamp for o in history.sets)


def test_what_is_kept_and_until_when(history):
    kept = {(NOW - one.backup.timestamp).days: one for one in history.kept}
    # 7 daily ones: the newest goes when seven others have come, unless it is more than daily.
    assert kept[1].until is not None
    daily = [one for one in history.kept if one.reasons == ("daily",)]
    for one in daily:
        assert one.until is not None
        assert timedelta(days=6) <= one.until - one.backup.timestamp <= timedelta(days=8)
    assert len(history.kept) + len(history.going) == 59


def test_the_page_answers_at_a_glance(history):
    page = Elements(page_of(history)).text
    assert "All is well" in page
    assert "can go back to any backup since" in page
    assert "restoring took 8.0s in the last drill" in page
    assert "1 shrank" in page
    assert page_of(history).count("<svg") == 4
    assert "no backup is left" in page_of(history)


def test_what_is_wrong_stands_on_top_with_the_next_step(history):
    checks = [Check("fresh", False, "made 3d ago", "inv backup.run")]
    problem = Section("services", problem="db1 does not answer")
    page = Elements(page_of(history, sections=[Section("backup", checks), problem])).text
    assert "Something is wrong" in page
    assert page.index("backup, fresh") < page.index("Database nocodb")
    assert "next: inv backup.run" in page
    assert "could not be asked: db1 does not answer" in page


def test_a_failed_check_of_the_history_is_never_all_is_well(server, inventory):
    server.put(NOW - timedelta(days=3), DUMP)
    old = gather(inventory, Bucket(inventory.backup), "nocodb")
    assert "All is well" not in page_of(old)
    assert "do not rely on it" in page_of(old)


def test_an_empty_bucket_makes_a_page_too(server, inventory):
    empty = gather(inventory, Bucket(inventory.backup), "nocodb")
    text = Elements(page_of(empty)).text
    assert "never drilled" in text
    assert "<svg" not in page_of(empty)


def test_nothing_from_outside_becomes_html(history):
    newest = history.read[-1]
    failed = replace(newest.proofs["drill"], ok=False, reason=HOSTILE)
    read = (*history.read[:-1], replace(newest, proofs={"drill": failed}))
    verdict = replace(history.verdict, database=HOSTILE)
    hostile = replace(history, read=read, verdict=verdict)
    entry = {"time": HOSTILE, "who": HOSTILE, "command": HOSTILE, "outcome": HOSTILE,
             "text": HOSTILE}  # fmt: skip
    service = {"name": HOSTILE, "converged": True, "running": 1, "wanted": 1, "image": HOSTILE,
               "nodes": [HOSTILE], "last_error": HOSTILE}  # fmt: skip
    release = {"at": HOSTILE, "stack": HOSTILE, "number": 1, "who": HOSTILE, "commit": HOSTILE,
               "images": [HOSTILE]}  # fmt: skip
    page = page_of(
        hostile, project=HOSTILE, bucket=HOSTILE, who=HOSTILE, audit=[entry], services=[service],
        releases=[release], policy=HOSTILE, notes=[HOSTILE],
        sections=[Section(HOSTILE, [Check(HOSTILE, False, HOSTILE, HOSTILE)], HOSTILE)],
    )  # fmt: skip
    found = Elements(page)
    assert "script" not in found.names
    assert "img" not in found.names
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "7006652" not in found.text
    assert found.text.count("window.hacked=1") > 20


def test_no_request_to_anywhere(history):
    page = page_of(history)
    found = Elements(page)
    assert not [value for name, value in found.attributes if name in ("src", "href", "xlink:href")]
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert "script" not in found.names


def test_charts_have_a_bounded_number_of_points():
    many = [(NOW + timedelta(days=n), float(n)) for n in range(2000)]
    thin = report_charts.thinned(many)
    assert len(thin) <= report_charts.MOST + 1
    assert (thin[0], thin[-1]) == (many[0], many[-1])
    assert len(report_charts.size(many, many[::100])) < 120_000


def test_gaps_are_peaks_of_the_age():
    times = [NOW - timedelta(days=n) for n in (5, 4, 1)]
    assert "3d" in report_charts.age(times, NOW)
    assert report_charts.age([], NOW) == ""


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def inv(capsys, monkeypatch, server, inventory):
    monkeypatch.setenv("SWARMKEEP_HOSTS", str(inventory.path))
    return runner(Collection(command.report), capsys)


def test_hosts_that_cannot_be_asked_are_on_the_page(inv, history, tmp_path):
    file = tmp_path / "r.html"
    code, out, err = inv("report", "--out", str(file))
    assert (code, err) == (0, "")
    assert str(file) in out
    text = Elements(file.read_text()).text
    assert "Something is wrong" in text
    assert "services: could not be asked" in text


def test_upload_puts_it_into_the_bucket(inv, server, history):
    code, out, _ = inv("report", "--upload")
    assert code == 0
    assert "s3://test-bucket/postgres/report.html" in out
    assert b"Database nocodb" in server.get_object("postgres/report.html")


def test_without_a_place_to_go_it_is_refused(inv, tmp_path):
    assert inv("report")[0] == 2
    assert inv("report", "--out", str(tmp_path))[0] == 2
    assert inv("report", "--out", str(tmp_path / "no" / "r.html"))[0] == 2


def test_serving_answers_on_loopback_only(monkeypatch):
    import threading
    import urllib.error
    import urllib.request
    from http.server import HTTPServer

    made: list[HTTPServer] = []
    real = HTTPServer.serve_forever

    def serve(self: HTTPServer, *args: Any) -> None:
        made.append(self)
        ready.set()
        real(self, 0.02)

    ready = threading.Event()
    monkeypatch.setattr(HTTPServer, "serve_forever", serve)
    pages = iter(["<p>one</p>", SwarmkeepError("gone", hint="look")])

    def make() -> str:
        page = next(pages)
        if isinstance(page, SwarmkeepError):
            raise page
        return page

    thread = threading.Thread(target=command._serve, args=(make, 0))
    thread.start()
    assert ready.wait(10)
    assert made[0].server_address[0] == "127.0.0.1"
    url = f"http://127.0.0.1:{made[0].server_port}"
    assert urllib.request.urlopen(f"{url}/", timeout=10).read() == b"<p>one</p>"
    for path, status in (("/", 503), ("/x", 404)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url + path, timeout=10)
        assert refused.value.code == status
    made[0].shutdown()
    thread.join(10)
