"""How services and containers are stopped and started again, as a shell's commands."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fabfile.adopt import adoption, stopping
from fabfile.adopt.adoption import Note
from fabfile.adopt.stopping import Switch
from fabfile.base.errors import ConfigError
from fabfile.ssh.remote_command import Result

SPEC = {
    "Mode": {"Replicated": {"Replicas": 2}},
    "EndpointSpec": {
        "Ports": [
            {"Protocol": "tcp", "TargetPort": 8080, "PublishedPort": 80, "PublishMode": "ingress"},
            {"Protocol": "udp", "TargetPort": 99, "PublishMode": "host"},
        ]
    },
}


def host(spec: dict[str, Any]) -> Any:
    said = json.dumps([{"Spec": spec}])
    return SimpleNamespace(check=lambda *_, **__: Result("m", 0, said, ""))


def test_a_service_gives_its_ports_back_while_it_is_stopped():
    switch = stopping.service_switch(host(SPEC), "noco_app")
    assert "--replicas 0 --publish-rm 8080/tcp --publish-rm 99/udp noco_app" in switch.stop
    assert switch.start == (
        "docker service update --detach --replicas 2 "
        "--publish-add mode=ingress,target=8080,protocol=tcp,published=80 "
        "--publish-add mode=host,target=99,protocol=udp noco_app >/dev/null"
    )


def test_a_global_service_is_refused():
    with pytest.raises(ConfigError, match="is a global service"):
        stopping.service_switch(host({"Mode": {"Global": {}}}), "noco_app")


def test_a_container_is_started_by_its_own_policy():
    container = SimpleNamespace(name="noco", restart="on-failure:3")
    switch = stopping.container_switch(container)  # type: ignore[arg-type]
    assert "--restart=no noco" in switch.stop
    assert "--restart=on-failure:3 noco" in switch.start


@pytest.fixture
def guard(tmp_path: Path):
    """Runs the guard of two switches with a text on its stdin; what it did, what it said."""

    def run(stdin: bytes, second: str = "") -> tuple[list[str], str, int]:
        log = tmp_path / "log"
        switches = [
            Switch("a", f"echo stop a >>{log}", f"echo start a >>{log}", "", ""),
            Switch("b", f"{second}echo stop b >>{log}", f"echo start b >>{log}", "", ""),
        ]
        done = subprocess.run(
            ["sh", "-c", stopping._guard(switches)], input=stdin, capture_output=True, check=False,
            timeout=60,
        )  # fmt: skip
        return log.read_text().splitlines(), done.stdout.decode(), done.returncode

    return run


def test_the_guard_starts_again_when_we_are_gone(guard):
    did, said, code = guard(b"...")
    assert did == ["stop a", "stop b", "start a", "start b"]
    assert (said, code) == ("down\n", 0)


def test_the_guard_lets_it_be_when_it_is_told_to(guard):
    did, said, code = guard(b"..k")
    assert did == ["stop a", "stop b"]
    assert (said, code) == ("down\nkept\n", 0)


def test_the_guard_starts_what_it_has_stopped_when_the_rest_cannot_be(guard):
    did, said, code = guard(b"..", "false && ")
    assert did == ["stop a", "start a", "start b"]
    assert (said, code) == ("", 1)


def test_a_note_comes_back_as_it_was_written():
    switch = Switch("a", "stop", "start", "runs", "gone")
    note = Note(
        "stack:noco", "2026-11-29T12:00:00+00:00", adoption.DONE, "m1", (switch,), switch,
        ("nocodb", "other"), (1, 2, 3), ("m1:/x",),
    )  # fmt: skip
    from dataclasses import asdict

    assert adoption.parse_note(json.dumps(asdict(note))) == note
    without = json.dumps(asdict(note) | {"database": None})
    assert adoption.parse_note(without).database is None
    for text in ("", "{}", "[]", "nonsense"):
        assert adoption.parse_note(text) is None
