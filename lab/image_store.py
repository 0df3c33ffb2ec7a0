"""What a Docker engine has in its folder once an image is loaded, as a tar file: to unpack that
costs a fifth of what loading the image does.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from fabfile.base.errors import SwarmkeepError
from lab import capabilities, docker, waiting
from lab.progress import Progress

READY_DEADLINE = 60.0  # seconds

# Its metadata, and its layers in the folder of the storage driver.
PACK = """
cd /var/lib/docker
exec tar --xattrs --xattrs-include='*' -cf - image "$(docker info --format '{{.Driver}}')"
"""


def pack(progress: Progress, node: str, image: str, target: Path) -> None:
    """Load `image` into the engine of a container of `node`, and write its folder to `target`.

    Both are tags of this machine's engine. The container is removed again. Whoever calls this has
    the lock on the images: a container of the same name was left by a run that was killed.
    """
    name = "swarmkeep-lab-pack-" + re.sub(r"[^a-z0-9.]", "-", image)
    with progress.step(f"{image}: the folder of an engine that has it") as step:
        docker.attempt("container", "rm", "--force", "--volumes", name)
        flags = capabilities.flags(f"/swarmkeep-lab/{name}")
        docker.run("run", "--detach", "--init", "--name", name, *flags, node, timeout=120)
        try:
            problem = waiting.until(lambda: _look(name), deadline=READY_DEADLINE)
            if problem:
                raise SwarmkeepError(problem, hint=f"docker run {node}: see why")
            step.doing("loading it")
            docker.pipe(("save", image), ("exec", "--interactive", name, "docker", "load"))
            step.doing("packing it")
            with target.open("wb") as file:
                command = ["docker", "exec", name, "sh", "-ec", PACK]
                done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, check=False)
            if done.returncode:
                raise docker.failure(("exec", name), done.returncode, done.stderr.decode())
        finally:
            docker.run("container", "rm", "--force", "--volumes", name)


def _look(name: str) -> str:
    """Return "" if the engine in the container answers, else what it says."""
    done = docker.attempt("exec", name, "docker", "info")
    return done.stderr.decode().strip() if done.returncode else ""
