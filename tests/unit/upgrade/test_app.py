"""Which NocoDB runs, and which is next."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.upgrade import app

INVENTORY = SimpleNamespace(app=SimpleNamespace(stack="appstack"))
LIVE = "reg:5000/nocodb/nocodb:0.265.1"


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("0.301.3", "reg:5000/nocodb/nocodb:0.301.3"),
        ("other/nocodb:1", "other/nocodb:1"),
    ],
)
def test_the_next_image(target, wanted):
    assert app.next_image(LIVE, target) == wanted


@pytest.mark.parametrize("target", ["latest", "", "-x", "nocodb/nocodb", "a:latest", "a:"])
def test_what_names_no_version_is_refused(target):
    with pytest.raises(ConfigError, match="names no version"):
        app.next_image(LIVE, target)


def test_what_runs_is_known_without_its_digest():
    service = SimpleNamespace(image=f"{LIVE}@sha256:{'0' * 64}")
    cluster = SimpleNamespace(service=lambda name: service if name == "appstack_nocodb" else None)
    assert app.live_image(INVENTORY, cluster) == LIVE  # type: ignore[arg-type]
    nothing = SimpleNamespace(service=lambda _name: None)
    with pytest.raises(SwarmkeepError, match="is not deployed"):
        app.live_image(INVENTORY, nothing)  # type: ignore[arg-type]


def test_the_question_about_its_tables_is_one_line():
    """It is passed on as one."""
    assert "\n" not in app._TABLES.strip()
