"""Caddy's own check of its configuration, before anything changes."""

from __future__ import annotations

import io
import shlex
import tarfile

from fabfile.base.errors import SwarmkeepError
from fabfile.deploy.secret_versions import SecretContent
from fabfile.deploy.stacks import Wanted
from fabfile.ssh.fleet import Fleet, values
from fabfile.ssh.remote_command import Command

_PLACES = {
    "caddyfile": "etc/caddy/Caddyfile",
    "acme_root": "etc/caddy/acme-root.pem",
    "certificate": "run/secrets/certificate.pem",
    "certificate_key": "run/secrets/certificate-key.pem",
}


def check(fleet: Fleet, wanted: Wanted) -> None:
    """Have Caddy check the configuration on the proxy's hosts, in containers without network.

    What it reads comes through stdin and is only in that container's memory. An earlier release was
    checked when it was deployed: what it consists of is in the Swarm and not here. Raises
    SwarmkeepError with Caddy's words for a configuration that it refuses.
    """
    if not any(_name(one, wanted) == "caddyfile" for one in wanted.secrets):
        return
    script = f"docker run {shlex.join(_words(wanted.image))}"
    command = Command(script, stdin=_archive(wanted), changes=False)
    tried = fleet.fan_out(fleet.inventory.with_role("proxy"), lambda host: host.run(command))
    told = [one.value for one in tried if one.value]
    if not told:
        values(tried)
    result = next((one for one in told if one.exit_code), told[0])
    if result.exit_code == 0:
        return
    said = wanted.redact(result.stderr).strip().splitlines()
    raise SwarmkeepError(
        f"{wanted.name}: Caddy refuses its configuration: {said[-1] if said else 'no answer'}",
        hint="correct compose/Caddyfile.j2 or the section 'proxy' of hosts.yaml; nothing was "
        "changed",
        details=tuple(said[-4:-1]),
    )


def _words(image: str) -> list[str]:
    memory = [f"--tmpfs={place}" for place in ("/etc/caddy", "/run/secrets", "/config", "/data")]
    run = (
        "tar -xC / && exec caddy validate --config /etc/caddy/Caddyfile --adapter caddyfile "
        ">/dev/null"
    )
    return ["--rm", "--interactive", "--network=none", "--read-only", "--cap-drop=ALL",
            "--cap-add=NET_BIND_SERVICE", *memory,
            "--entrypoint=sh", image, "-c", run]  # fmt: skip


def _name(one: SecretContent, wanted: Wanted) -> str:
    """What a config or secret of the stack is called in its compose file."""
    return one.version.base.removeprefix(f"{wanted.name}_")


def _archive(wanted: Wanted) -> bytes:
    """The configuration's files where Caddy looks for them, as a tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for one in wanted.secrets:
            place = _PLACES.get(_name(one, wanted))
            if place:
                entry = tarfile.TarInfo(place)
                entry.size = len(one.content)
                archive.addfile(entry, io.BytesIO(one.content))
    return stream.getvalue()
