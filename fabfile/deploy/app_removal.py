"""Removing the stack of an app beside NocoDB; its databases and volumes stay."""

from __future__ import annotations

from fabfile.config.apps import OtherApp
from fabfile.deploy.finish_script import Options
from fabfile.deploy.observation import observe_any
from fabfile.deploy.preflight_project import check_removal
from fabfile.deploy.stack_removal import Say, carry_out, has_remains, removal_script
from fabfile.ssh.fleet import Fleet
from fabfile.swarm.postgres import quoted_name


def remove(fleet: Fleet, app: OtherApp, options: Options, project: str, say: Say) -> bool:
    """Remove the app's stack; return whether there was one. `project` is this one's identity.

    Raises ConfigError where the stack is somebody else's.
    """
    manager, cluster = observe_any(fleet)
    stacks = fleet.inventory.every_stack
    if not cluster.stack(app.stack) and not has_remains(app.stack, cluster, stacks):
        return False
    check_removal(cluster, app.stack, project, app.name)
    script = removal_script(app.stack, cluster, stacks)
    if not carry_out(fleet, manager, app.stack, script, options, say):
        return True
    say(f"removed stack {app.stack} with its secrets and releases")
    volumes = "".join(f", volume {app.volume_name(one)}" for one in app.volumes)
    say(f"left in place: database {', '.join(app.databases)}, role {app.user}{volumes}")
    drops = [f"DROP DATABASE {quoted_name(name)}" for name in app.databases]
    say(f"if they may go: {'; '.join(drops)}; DROP ROLE {quoted_name(app.user)}")
    return True
