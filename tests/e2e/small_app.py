"""Small apps beside NocoDB, for tests of what is done to apps. They run in NocoDB's image, which
has Node and a client for PostgreSQL.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from lab import images
from lab.model import Lab

WRITER = """\
process.on("SIGTERM", () => process.exit(0));
const url = require("fs").readFileSync("/run/secrets/database_url", "utf8");
(async () => {
  const client = new (require("pg").Client)({ connectionString: url });
  await client.connect();
  await client.query("CREATE TABLE IF NOT EXISTS ticks (n serial PRIMARY KEY)");
  for (;;) {
    await client.query("INSERT INTO ticks DEFAULT VALUES");
    await new Promise((done) => setTimeout(done, 100));
  }
})();
"""
"""Writes ten rows a second, and ends as soon as it loses its database."""
ECHO = """\
const server = require("http").createServer((request, answer) => {
  answer.setHeader("X-Setting", process.env.SETTING);
  answer.end(JSON.stringify(request.headers));
});
server.listen(8080);
process.on("SIGTERM", () => server.close(() => process.exit(0)));
"""
"""Answers each request with its headers."""


def compose(name: str, script: str, setting: str = "") -> str:
    """The compose file of an app that is this script."""
    service = {
        "image": "${image}",
        # What Swarmkeep fills in begins with a dollar.
        "command": ["node", "-e", script.replace("$", "$$")],
        "environment": {"SETTING": setting},
        "secrets": ["database_url"],
        "networks": ["backend"],
        "deploy": {
            "replicas": "${replicas}",
            "endpoint_mode": "dnsrr",
            "placement": {"constraints": ["node.labels.${role_label} == app"]},
            "update_config": {"order": "stop-first", "monitor": "5s"},
            "restart_policy": {"condition": "any", "delay": "3s"},
        },
    }
    external = {"external": True}
    file = {
        "version": "3.8",
        "services": {name: service},
        "secrets": {"database_url": external | {"name": "${secret_database_url}"}},
        "networks": {"backend": external | {"name": "${network}"}},
    }
    return yaml.safe_dump(file, sort_keys=False)


def add(lab: Lab, hosts: Path, path: Path, name: str, **settings: Any) -> Path:
    """Add an app, whose compose file is at `path`, to a hosts file; return its copy of the vault,
    in which the app's password will be.
    """
    text = hosts.read_text()
    file = re.search(r"(?m)^( +file: )(.*)$", text)
    assert file
    vault = lab.directory / f"vault-{name}.yml"
    shutil.copy(lab.hosts_file.parent / file[2], vault)
    app = {"compose": str(path), "image": images.NOCODB.tag, **settings}
    text = text.replace(file[0], f"{file[1]}{vault}")
    hosts.write_text(text + yaml.safe_dump({"apps": {name: app}}))
    return vault
