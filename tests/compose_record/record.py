"""Records what real Docker makes of made-up compose services.

Needs a container that is a manager of a Swarm of its own, with nothing else in it; one of the lab's
node image will do (`docker swarm init` in it). The services have no node that could run them, so
nothing starts. Usage:

    python -m tests.compose_record.record CONTAINER FILE [--client docker] [--newer] [--count 80]
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from fabfile.deploy.compose_file import to_stack_input
from tests.compose_record.services import TOP, generate

STACK = "rec"


def docker(container: str, *args: str, stdin: str = "") -> str:
    """Run something in the container and return what it prints."""
    argv = ["docker", "exec", "--interactive", "--env", "HOME=/root", container, *args]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(args)}: {done.stderr}")
    return done.stdout


def prepare(container: str) -> None:
    """Make the external things that the services name; there already is fine, too."""
    for kind in ("config", "secret"):
        for name in ("far1", "a-far2"):
            if name not in docker(container, "docker", kind, "ls", "--format", "{{.Name}}").split():
                docker(container, "docker", kind, "create", name, "-", stdin="x")
    if "far" not in docker(container, "docker", "network", "ls", "--format", "{{.Name}}").split():
        docker(container, "docker", "network", "create", "--driver", "overlay", "far")


def record(container: str, client: str, services: dict[str, Any], version: str) -> dict[str, Any]:
    """What each service became, with the names of networks by id; those refused are told."""
    found: dict[str, Any] = {}
    for name, service in services.items():
        compose = {"version": version, **TOP, "services": {name: service}}
        try:
            docker(container, client, "stack", "deploy", "--compose-file", "-", "--resolve-image",
                   "never", STACK, stdin=to_stack_input(compose))  # fmt: skip
        except RuntimeError as error:
            print(name, str(error).strip().splitlines()[-1], json.dumps(service))
            continue
        shown = docker(container, "docker", "service", "inspect", f"{STACK}_{name}")
        found[name] = json.loads(shown)[0]["Spec"]
        docker(container, "docker", "service", "rm", f"{STACK}_{name}")
    listed = docker(container, "docker", "network", "ls", "--no-trunc", "--filter", "scope=swarm",
                    "--format", "{{.ID}} {{.Name}}")  # fmt: skip
    return {
        "client": docker(container, client, "version", "--format", "{{.Client.Version}}").strip(),
        "version": version,
        "networks": dict(line.split(" ", 1) for line in listed.splitlines()),
        "services": {name: services[name] for name in found},
        "live": found,
    }


def main() -> None:
    """Record and write the file, a line for each service."""
    parser = argparse.ArgumentParser()
    parser.add_argument("container")
    parser.add_argument("file", type=Path)
    parser.add_argument("--client", default="docker")
    parser.add_argument("--newer", action="store_true")
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--seed", type=int, default=9)
    args = parser.parse_args()
    prepare(args.container)
    services = generate(args.seed, args.count, newer=args.newer)
    data = record(args.container, args.client, services, "3.13" if args.newer else "3.9")
    lines = [json.dumps({k: v for k, v in data.items() if k not in ("services", "live")})]
    lines += [json.dumps([n, data["services"][n], data["live"][n]]) for n in data["services"]]
    args.file.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
