"""The command tree, nothing else."""

from invoke.collection import Collection

from fabfile.commands import deploy, status, swarm

namespace = Collection(
    deploy.deploy_db,
    deploy.deploy_app,
    deploy.deploy,
    status.status,
    Collection.from_module(swarm),
)
