"""An app after a pause: as many tasks as before, converged, and answering from its database."""

from __future__ import annotations

import time
from collections.abc import Callable

from fabfile.base.errors import SwarmkeepError
from fabfile.deploy.observation import observe
from fabfile.restore import app_pause
from fabfile.ssh.fleet import Fleet, Host
from fabfile.swarm import convergence
from fabfile.swarm.app_health import await_works
from fabfile.swarm.state import Cluster, Service

POLL_SECONDS = 0.5


def await_resumed(
    fleet: Fleet,
    manager: Host,
    before: Cluster,
    say: Callable[[str], None],
    failed: Cluster | None = None,
    role: str = "app",
) -> None:
    """Wait until the app of a role (NocoDB, or one beside it) has as many tasks as `before`, has
    converged, and answers from its database. What has `failed` until then (default: before) does
    not count.

    Raises SwarmkeepError with the failing task, or after deploy.timeout.
    """
    inventory = fleet.inventory
    service = inventory.app_service(role)
    other = inventory.other_app(role)
    stack = other.stack if other else inventory.app.stack
    baseline = convergence.baseline(failed or before)
    was = before.service(service)
    wanted = replicas_of(was) if was else None
    end = time.monotonic() + inventory.deploy_timeout
    cluster = None
    while True:
        cluster = observe(manager, cluster)
        progress = convergence.judge(cluster, stack, baseline)
        late = sorted((one for one in progress if not one.done), key=lambda one: not one.failure)
        app = cluster.service(service)
        if not late and app and app.replicas == wanted:
            break
        if (late and late[0].failure) or time.monotonic() > end:
            again = f"inv deploy-app {other.name if other else ''}".rstrip()
            raise _not_up(late[0]) if late else _not_as_before(service, app, wanted, again)
        time.sleep(POLL_SECONDS)
    say(f"{stack}: {await_works(fleet, role, cluster)}")


def replicas_of(service: Service) -> int | None:
    """How many tasks the service has when no guard, not even that of a lost client, has stopped
    it.
    """
    noted = str((service.spec.get("Labels") or {}).get(app_pause.LABEL, ""))
    return int(noted) if noted.isdecimal() else service.replicas


def _not_as_before(
    name: str, app: Service | None, wanted: int | None, again: str
) -> SwarmkeepError:
    now = "is gone" if app is None else f"is scaled to {app.replicas}, it was {wanted}"
    return SwarmkeepError(f"{name}: {now}", hint=f"see inv status; {again} starts it")


def _not_up(one: convergence.Progress) -> SwarmkeepError:
    why = one.failure or f"{one.running}/{one.wanted} running ({one.doing})"
    return SwarmkeepError(
        f"{one.service.name}: {why}",
        hint=f"look at: docker service logs {one.service.name}",
    )
