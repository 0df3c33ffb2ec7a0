"""How a drill starts other apps: the file for restore-pg.sh, as bash reads it."""

from __future__ import annotations

import base64
import copy
import subprocess
from typing import Any

import pytest

from fabfile.backup import host_cron, host_files
from fabfile.base.errors import ConfigError
from fabfile.deploy import drilled_apps
from tests.unit.backup.test_host_install import db
from tests.unit.deploy.test_other_app_stack import COMPOSE, PASSWORD, Vault, stack

HEALTH = {"health": {"path": "/v1/up", "status": 204}, "port": 8888}


def made(tmp_path, compose=None, app: Any = None, **backup: Any):
    _, inventory = stack(
        tmp_path,
        compose,
        {**HEALTH, **(app or {})},
        backup={"files": True, "drill_with_app": True, **backup},
    )
    return inventory, drilled_apps.settings(inventory, Vault())


def read(content: bytes, database: str, *names: str) -> list[list[str]]:
    """What bash makes of some of its variables and arrays for a database."""
    script = (
        f"DATABASE={database}; APP_NAME=; APP_OPTIONS=(); APP_CONTENTS=(); source /dev/stdin\n"
        + "".join(f'printf "%s\\0" "${{{name}[@]}}"; printf "\\1\\0"\n' for name in names)
    )
    done = subprocess.run(["bash", "-uc", script], input=content, capture_output=True, check=True)
    lists = done.stdout.decode().split("\1\0")[:-1]
    return [one.split("\0")[:-1] if one != "\0" else [] for one in lists]


def test_the_app_as_docker_runs_it(tmp_path):
    compose = copy.deepcopy(COMPOSE)
    compose["services"]["kinto"] |= {
        "entrypoint": ["tini", "--"],
        "command": "sh -c 'exec kinto \"it''s\"'",
        "user": "1000",
        "working_dir": "/srv/a b",
        "init": True,
        "cap_drop": ["ALL"],
        "volumes": ["data:/data", {"type": "tmpfs", "target": "/tmp"}],
        "configs": [{"source": "settings", "target": "/etc/kinto.ini", "uid": "7", "mode": 0o440}],
    }
    compose["configs"] = {"settings": {"file": "./kinto.ini"}}
    (tmp_path / "kinto.ini").write_text("[app:main]\n$x = `y`\n")
    _, content = made(tmp_path, compose)
    name, image, port, options, words, contents = read(
        content, "kinto", "APP_NAME", "APP", "APP_PORT", "APP_OPTIONS", "APP_WORDS", "APP_CONTENTS"
    )
    assert (name, image, port) == (["kinto"], ["kinto:1"], ["8888"])
    assert options == [
        *("--entrypoint", "tini", "--user", "1000", "--workdir", "/srv/a b", "--init"),
        *("--volume", "/data", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
    ]
    assert words == ["--", "sh", "-c", 'exec kinto "its"']
    files = {
        contents[n]: (*contents[n + 1 : n + 3], base64.b64decode(contents[n + 3]).decode())
        for n in range(0, len(contents), 4)
    }
    assert files == {
        "/environment": ("400", "0:0", "DB=127.0.0.1/kinto/kinto\n"),
        "/etc/kinto.ini": ("440", "7:0", "[app:main]\n$x = `y`\n"),
        "/run/secrets/database_url": (
            "444",
            "0:0",
            "postgresql://kinto:drill@127.0.0.1:5432/kinto",
        ),
    }


def test_nothing_in_it_leads_to_the_live_database(tmp_path):
    _, content = made(tmp_path)
    decoded = content + b"".join(
        base64.b64decode(word) for word in read(content, "kinto", "APP_CONTENTS")[0][3::4]
    )
    assert PASSWORD.encode() not in decoded
    assert b"dbstack" not in decoded


def test_a_database_without_an_app_that_can_be_asked_has_none(tmp_path):
    _, content = made(tmp_path)
    assert read(content, "nocodb", "APP_NAME") == [[]]
    assert made(tmp_path, app={"health": None})[1] == b""
    assert made(tmp_path, app={"database": ["kinto", "more"]})[1] == b""
    assert made(tmp_path, drill_with_app=False)[1] == b""


def test_a_value_of_several_lines_is_refused(tmp_path):
    compose = copy.deepcopy(COMPOSE)
    compose["services"]["kinto"]["environment"] = {"KEY": "one\ntwo"}
    with pytest.raises(ConfigError, match="KEY has several lines") as caught:
        made(tmp_path, compose)
    assert "two" not in caught.value.message
    assert caught.value.hint


def test_the_host_has_it_for_root_alone_and_its_cron_line_uses_it(tmp_path):
    inventory, content = made(tmp_path, drill_schedule="0 4 * * 0")
    files = {f.path: f for f in host_files.files(db(inventory), inventory, Vault(), content)}
    assert files["/etc/backup-pg.apps"].content == content
    assert files["/etc/backup-pg.apps"].mode == 0o600
    cron = files["/etc/cron.d/backup-pg"].content.decode()
    assert "--database nocodb --latest --app " in cron
    assert "--database kinto --latest --with-app" in cron
    without, _ = made(tmp_path, drill_schedule="0 4 * * 0", drill_with_app=False)
    assert host_cron.drilled_app("kinto", without) == ("kinto", ["--with-app"])
    files = {f.path: f for f in host_files.files(db(without), without, Vault())}
    assert "--with-app" not in files["/etc/cron.d/backup-pg"].content.decode()
    assert "/etc/backup-pg.apps" not in files
