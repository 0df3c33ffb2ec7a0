"""Another version of NocoDB: one that works, and one that changes its tables and then fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.live import APP, docker, eventually, nocodb_shows, sql

GOOD, BAD = "0.301.4", "0.301.5"
FAILS = """FROM {image}
RUN printf '%s\\n' 'const fs = require("fs");' \\
  'const {{ Client }} = require("/usr/src/nocodb/node_modules/pg");' \\
  'const c = JSON.parse(fs.readFileSync(process.env.NC_DB_JSON_FILE)).connection;' \\
  'const client = new Client(c);' \\
  'client.connect().then(() => client.query(`ALTER TABLE nc_users_v2 ADD COLUMN IF NOT' \\
  ' EXISTS half_done text`)).then(() => process.exit(1), () => process.exit(1));' >/fails.js
CMD ["node", "/fails.js"]
"""


@pytest.fixture(scope="module", autouse=True)
def versions(deployed, product, lab, rows, stamp) -> Iterator[str]:
    """Two more versions on the app host; the image of today."""
    image = docker(lab, "manager1", "service", "inspect", "-f",
                   "{{.Spec.TaskTemplate.ContainerSpec.Image}}", APP).partition("@")[0]  # fmt: skip
    name = image.rpartition(":")[0]
    docker(lab, "app1", "tag", image, f"{name}:{GOOD}")
    build = ["docker", "build", "--tag", f"{name}:{BAD}", "-"]
    done = lab.exec("app1", *build, input=FAILS.format(image=image).encode())
    assert done.returncode == 0, done.stderr.decode()
    yield image
    product.ok("deploy-app")
    for tag in (GOOD, BAD):
        docker(lab, "app1", "image", "rm", "--force", f"{name}:{tag}")


@pytest.fixture
def hosts(lab) -> Iterator[Path]:
    path = lab.directory / "hosts-upgrade-app.yaml"
    path.write_text(lab.hosts_file.read_text())
    yield path
    path.unlink()


def half_done(lab) -> bool:
    column = "SELECT count(*) FROM pg_attribute WHERE attname = 'half_done'"
    return sql(lab, column, "nocodb") != "0"


def test_another_version_and_the_hosts_file(product, lab, rows, hosts):
    product.fails(2, "upgrade-app", "latest", hosts=hosts)
    ran = product.ok("upgrade-app", GOOD, "--write", hosts=hosts)
    assert f"nocodb:{GOOD}" in hosts.read_text()
    way_back = ran.out.rpartition("inv upgrade-app ")[2].split()
    assert nocodb_shows(lab, rows)
    assert "nothing to change" in product.ok("upgrade-app", GOOD, hosts=hosts).out
    assert "nothing to do" in product.ok("plan", hosts=hosts).out
    # The way back that it tells: both at once, since neither version may see the other's tables.
    sql(lab, "CREATE TABLE later (n int)", "nocodb")
    product.fails(2, "upgrade-app", *way_back, hosts=hosts)
    ran = product.ok("upgrade-app", *way_back, "--yes", "--write", hosts=hosts)
    kept = ran.out.rpartition("is kept as ")[2].split()[0]
    assert way_back[0] in hosts.read_text()
    assert nocodb_shows(lab, rows)
    assert sql(lab, "SELECT to_regclass('later') IS NULL", "nocodb") == "t"
    assert sql(lab, "SELECT to_regclass('later') IS NULL", kept) == "f"
    assert "nothing to do" in product.ok("plan", hosts=hosts).out
    sql(lab, f'DROP DATABASE "{kept}"')


def test_one_that_fails_after_it_has_changed_tables(product, lab, rows, hosts):
    """Nobody can be asked: the version before runs on, and the way back is said. Then: --back."""
    ran = product.fails(1, "upgrade-app", BAD, hosts=hosts)
    assert "it has changed NocoDB's tables before it failed" in ran.err
    assert "inv backup.restore --key 2" in ran.err
    assert half_done(lab)
    sql(lab, "ALTER TABLE nc_users_v2 DROP COLUMN half_done", "nocodb")
    ran = product.fails(1, "upgrade-app", BAD, "--back", "--write", hosts=hosts)
    assert "image and database are as they were at " in ran.err
    assert not half_done(lab)
    assert BAD not in hosts.read_text()
    eventually(lambda: nocodb_shows(lab, rows))
    for name in sql(lab, "SELECT datname FROM pg_database WHERE datname ~ '^nocodb_'").split():
        sql(lab, f'DROP DATABASE "{name}"')
