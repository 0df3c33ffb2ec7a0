"""Where a specification has its data, and what lies in a volume."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from fabfile.swarm import data_volume
from fabfile.swarm.data_volume import DataFolder, Place


def spec(image="postgres:15-bookworm", mounts=(), **env):
    container = {
        "Image": image,
        "Env": [f"{key}={value}" for key, value in env.items()],
        "Mounts": [
            {"Type": kind, "Source": source, "Target": target} for kind, source, target in mounts
        ],
    }
    return {"TaskTemplate": {"ContainerSpec": container}}


DATA = "/var/lib/postgresql/data"
IMAGE_18 = "postgres:18-trixie"


@pytest.mark.parametrize(
    ("given", "place"),
    [
        (spec(mounts=[("volume", "v", DATA)]), Place("v", "")),
        (spec(mounts=[("volume", "v", DATA)], PGDATA=f"{DATA}/pgdata"), Place("v", "pgdata")),
        (spec(mounts=[("bind", "/srv/pg", f"{DATA}/")]), Place("/srv/pg", "")),
        (spec(IMAGE_18, [("volume", "v", "/var/lib/postgresql")]), Place("v", "18/docker")),
        # The image's own volume, which nobody named, goes with the container.
        (spec(IMAGE_18, [("volume", "v", DATA)]), Place("", "/var/lib/postgresql/18/docker")),
        (spec(mounts=[("tmpfs", "", DATA)]), Place("", DATA)),
        (spec(mounts=[("volume", "a", "/var/lib"), ("volume", "b", DATA)]), Place("b", "")),
        (spec(mounts=[("volume", "v", "/var/lib/postgresql/dat")]), Place("", DATA)),
    ],
)  # fmt: skip
def test_place(given, place):
    assert data_volume.place_of(given) == place


@pytest.mark.parametrize(
    ("image", "major"),
    [
        ("postgres:15-bookworm", 15),
        ("postgres:17.2-bookworm@sha256:aa", 17),
        ("registry:5000/team/postgres:9.6", 9),
        ("registry:5000/postgres", 0),
        ("postgres:latest", 0),
    ],
)
def test_major(image, major):
    assert data_volume.major_of(image) == major


def make_cluster(folder: Path, major: str, identifier: int) -> None:
    (folder / "global").mkdir(parents=True)
    (folder / "PG_VERSION").write_text(f"{major}\n")
    (folder / "global/pg_control").write_bytes(struct.pack("=Q", identifier) + bytes(500))


def survey(folder: Path) -> tuple[DataFolder, ...]:
    script = data_volume.survey_script(str(folder))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return data_volume.parse_survey(["image volume", *done.stdout.splitlines()])


def test_every_cluster_of_a_volume_is_found_and_nothing_else(tmp_path):
    volume = tmp_path / "it's here"
    make_cluster(volume / "pgdata", "15", 7312345678901234567)
    make_cluster(volume / "18/docker", "18", 2**64 - 1)
    # Every database has the file, too.
    (volume / "pgdata/base").mkdir()
    (volume / "pgdata/base/PG_VERSION").write_text("15\n")
    assert set(survey(volume)) == {
        DataFolder("pgdata", 15, "7312345678901234567"),
        DataFolder("18/docker", 18, str(2**64 - 1)),
    }


def test_a_cluster_that_is_all_of_a_volume(tmp_path):
    make_cluster(tmp_path / "v", "9.6", 5)
    (found,) = survey(tmp_path / "v")
    assert found == DataFolder("", 9, "5")
    assert data_volume.at([found], Place("v", "")) == found


def test_an_empty_volume_and_none_at_all(tmp_path):
    assert survey(tmp_path) == ()
    assert survey(tmp_path / "gone") == ()


def test_a_volume_is_looked_up_by_its_name():
    assert "docker volume inspect -f '{{.Mountpoint}}' 'a b'" in data_volume.survey_script("a b")
