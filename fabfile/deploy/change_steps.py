"""The steps in which a deploy changes the Swarm, and what each of them changes."""

from __future__ import annotations

from fabfile.config.inventory import Inventory
from fabfile.deploy.change_script import ChangeScript
from fabfile.deploy.plan import Plan
from fabfile.deploy.stacks import Wanted, main_service
from fabfile.swarm.state import Cluster


def steps(inventory: Inventory, wanted: Wanted, cluster: Cluster) -> list[tuple[Wanted, bool]]:
    """Each step, and whether it is the first one.

    There is one, or two: two first starts of an app on an empty database race each other.
    """
    other = inventory.other_app(wanted.role)
    is_app = wanted.role == "app" or other
    if cluster.stack(wanted.name) or not is_app or (other or inventory.app).replicas == 1:
        return [(wanted, True)]
    one = wanted.with_replicas(main_service(inventory, wanted.role), 1)
    return [(one, True), (wanted, False)]


def script(
    inventory: Inventory, step: Wanted, before: Cluster, plan: Plan, *, first: bool
) -> ChangeScript:
    """What one step changes; the `first` one brings labels, the network and secrets, too."""
    script = ChangeScript()
    if first:
        script.labels(plan.labels)
        if plan.network:
            script.network(plan.network)
        present = {version.name for version in before.secrets}
        script.secrets([s for s in step.secrets if s.version.name not in present])
    if plan.deploys:
        script.stack(
            step.name,
            step.stack_input,
            cli_major=before.cli_major,
            resolve_image=plan.resolve_image,
            registry_auth=bool(inventory.registry),
            unset=step.empty_variables,
        )
    return script
