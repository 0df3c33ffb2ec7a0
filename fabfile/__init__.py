"""The command tree, nothing else."""

from invoke.collection import Collection

# Under names of their own: as `swarm` or `deploy` they would hide the packages of these names.
from fabfile.commands import adopt as _adopt
from fabfile.commands import apps as _apps
from fabfile.commands import backup as _backup
from fabfile.commands import backup_hosts as _backup_hosts
from fabfile.commands import bucket as _bucket
from fabfile.commands import db as _db
from fabfile.commands import deploy as _deploy
from fabfile.commands import doctor as _doctor
from fabfile.commands import drill as _drill
from fabfile.commands import evidence as _evidence
from fabfile.commands import keys as _keys
from fabfile.commands import lab as _lab
from fabfile.commands import locking as _locking
from fabfile.commands import notify as _notify
from fabfile.commands import plan as _plan
from fabfile.commands import proxy as _proxy
from fabfile.commands import prune as _prune
from fabfile.commands import recover as _recover
from fabfile.commands import registry as _registry
from fabfile.commands import rekey as _rekey
from fabfile.commands import releases as _releases
from fabfile.commands import report as _report
from fabfile.commands import restore as _restore
from fabfile.commands import rollback as _rollback
from fabfile.commands import rotate as _rotate
from fabfile.commands import secrets as _secrets
from fabfile.commands import status as _status
from fabfile.commands import swarm as _swarm
from fabfile.commands import swarm_nodes as _swarm_nodes
from fabfile.commands import upgrade_app as _upgrade_app
from fabfile.commands import upgrade_db as _upgrade_db
from fabfile.commands import wal as _wal
from fabfile.terminal.command import own_usage_errors as _own_usage_errors

_own_usage_errors()

namespace = Collection(
    _deploy.deploy_db,
    _deploy.deploy_app,
    _deploy.deploy_proxy,
    _deploy.deploy,
    _plan.plan,
    _releases.releases,
    _rollback.rollback,
    _adopt.adopt,
    _upgrade_db.upgrade_db,
    _upgrade_app.upgrade_app,
    _recover.recover,
    _locking.unlock,
    _locking.audit_log,
    _status.status,
    _doctor.doctor,
    _report.report,
    Collection(
        "swarm",
        _swarm_nodes.init,
        _swarm.label,
        _swarm.network,
        _swarm_nodes.drain,
        _swarm_nodes.activate,
    ),
    Collection.from_module(_registry, name="registry"),
    Collection(
        "backup",
        _backup_hosts.install,
        _backup_hosts.run,
        _backup_hosts.logs,
        _backup_hosts.uninstall,
        _backup.list_,
        _backup.verify,
        _backup.accept_cluster,
        _prune.prune,
        _evidence.evidence,
        _restore.restore,
        _restore.get_files,
        _restore.swap,
        _drill.drill,
        _keys.keys,
        _rekey.rekey,
        _wal.base,
        _wal.mark,
    ),
    Collection("app", _apps.remove),
    Collection("proxy", _proxy.remove),
    Collection("db", _db.reindex),
    Collection("bucket", _bucket.check, _bucket.setup, _bucket.policies),
    Collection(
        "secrets", _secrets.init, _secrets.view, _secrets.edit, _secrets.set_, _rotate.rotate
    ),
    Collection("notify", _notify.send_one_of_each),
    Collection.from_module(_lab, name="lab"),
)
