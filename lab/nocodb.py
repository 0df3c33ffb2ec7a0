"""The real NocoDB for its image: installed with npm on this machine, cut down to what it needs.

Nothing of NocoDB is in this repository, only the lock file with the hash of every package.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fabfile.errors import SwarmkeepError
from lab import docker, packages
from lab.progress import Progress

SOURCES = ("package.json", "package-lock.json", "server.js", "trace.mjs")
# Where programs behind a proxy with its own CA are told about it; Node only looks at the first.
CA_VARIABLES = (
    "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"
)  # fmt: skip


def ca_bundle() -> Path | None:
    """The CA bundle this machine's environment names, or None."""
    for name in CA_VARIABLES:
        path = Path(os.environ.get(name) or "/nowhere")
        if path.is_file():
            return path
    return None


def build(progress: Progress, sources: Path, work: Path) -> None:
    """Fill `work` with `app` and `bin` for the image; `sources` is lab/images/nocodb.

    Takes 1.6 GB of disk for a while.
    """
    packages.require(progress, {"node": "nodejs", "npm": "npm"}, "NocoDB comes as an npm package")
    install = work / "install"
    install.mkdir()
    for name in SOURCES:
        shutil.copy(sources / name, install)
    shutil.copytree(sources / "sqlite3-stub", install / "sqlite3-stub")
    environment = dict(os.environ)
    if bundle := ca_bundle():
        environment["NODE_EXTRA_CA_CERTS"] = str(bundle)
    with progress.step("NocoDB: npm install") as step:
        fetched = 0

        def count(line: str) -> None:
            nonlocal fetched
            fetched += "http fetch" in line
            step.doing(f"{fetched} packages fetched")

        docker.stream(
            "npm", "--prefix", str(install), "install", "--ignore-scripts", "--no-audit",
            "--no-fund", "--no-update-notifier", "--loglevel=http",
            on_line=count, environment=environment,
        )  # fmt: skip
    with progress.step("NocoDB: tracing what it needs") as step:
        node = next(install.glob("node_modules/node-linux-*/bin/node"), None)
        if node is None:
            raise SwarmkeepError("npm brought no Node for this machine's processor")
        docker.stream(
            "env", "-C", str(install), str(node), "trace.mjs", str(work), on_line=step.doing
        )
    shutil.rmtree(install)
