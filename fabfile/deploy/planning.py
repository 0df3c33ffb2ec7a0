"""What a deploy would change, after every check that can be made beforehand."""

from __future__ import annotations

from fabfile.config.inventory import Inventory
from fabfile.deploy import app_database
from fabfile.deploy import plan as plans
from fabfile.deploy.observation import Look
from fabfile.deploy.plan import Plan
from fabfile.deploy.preflight import Allowed, check
from fabfile.deploy.stacks import Wanted


def make_plan(
    inventory: Inventory,
    wanted: Wanted,
    seen: Look,
    allowed: Allowed,
    *,
    resolve: str = "",
    prune: bool = False,
) -> Plan:
    """Check what can be checked and return what a deploy would change. Raises SwarmkeepError.

    `resolve` is taken instead of deploy.resolve_image of hosts.yaml unless it is "".
    """
    labels = check(inventory, wanted, seen, allowed)
    app = inventory.other_app(wanted.role)
    return plans.make(
        wanted,
        seen.cluster,
        labels.before,
        labels_after=labels.after,
        network=inventory.network,
        resolve_image=resolve or inventory.resolve_image,
        prune=prune,
        databases=app_database.lacking(app, seen.names) if app else (),
    )
