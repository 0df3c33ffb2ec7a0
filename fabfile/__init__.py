"""The command tree, nothing else."""

from invoke.collection import Collection

# Under names of their own: as `swarm` or `deploy` they would hide the rooms fabfile/swarm.py
# and fabfile/deploy.py from `from fabfile import swarm`.
from fabfile.commands import deploy as _deploy
from fabfile.commands import lab as _lab
from fabfile.commands import secrets as _secrets
from fabfile.commands import status as _status
from fabfile.commands import swarm as _swarm

namespace = Collection(
    _deploy.deploy_db,
    _deploy.deploy_app,
    _deploy.deploy,
    _status.status,
    Collection.from_module(_swarm, name="swarm"),
    Collection.from_module(_secrets, name="secrets"),
    Collection.from_module(_lab, name="lab"),
)
