#!/usr/bin/env bash
# The same work as `inv deploy backup.install`, as plain ssh with here-documents.
# usage: deploy.sh WORK    (a folder with ssh_config, compose files and secrets; bench/README.md)
set -euo pipefail
work=$1

secret() { # NAME
  printf %q "$(< "$work/$1.secret")"
}

# shellcheck disable=SC2087 # files and secrets are on this side: it is the one that expands
ssh -F "$work/ssh_config" manager1 'bash -s' << EOF
set -euo pipefail
label() {
  [[ \$(docker node inspect "\$1" --format '{{index .Spec.Labels "role"}}') == "\$2" ]] ||
    docker node update --label-add "role=\$2" "\$1"
}
secret() {
  docker secret inspect "\$1" > /dev/null 2>&1 || printf %s "\$2" | docker secret create "\$1" -
}
label db1 db
label app1 app
docker network inspect backend > /dev/null 2>&1 ||
  docker network create --driver overlay --attachable backend
secret postgres_password_v1 $(secret postgres_password)
secret nocodb_database_v1 $(secret nocodb_database)
docker stack deploy -c - --resolve-image never dbstack << 'COMPOSE'
$(< "$work/compose-db.yml")
COMPOSE
docker stack deploy -c - --resolve-image never appstack << 'COMPOSE'
$(< "$work/compose-app.yml")
COMPOSE
EOF

# shellcheck disable=SC2087 # files and secrets are on this side: it is the one that expands
ssh -F "$work/ssh_config" db1 'bash -s' << EOF
set -euo pipefail
install -m 0755 /dev/stdin /usr/local/bin/backup-pg.sh << 'FILE'
$(< "$work/backup-pg.sh")
FILE
install -m 0644 /dev/stdin /usr/local/lib/backup-common.sh << 'FILE'
$(< "$work/backup-common.sh")
FILE
install -m 0644 /dev/stdin /usr/local/lib/backup-bucket.sh << 'FILE'
$(< "$work/backup-bucket.sh")
FILE
install -m 0644 /dev/stdin /usr/local/lib/backup-report.sh << 'FILE'
$(< "$work/backup-report.sh")
FILE
install -m 0600 /dev/stdin /etc/backup-pg.conf << 'FILE'
$(< "$work/backup-pg.conf")
FILE
install -m 0600 /dev/stdin /etc/backup-pg.aws << 'FILE'
$(< "$work/aws.secret")
FILE
install -m 0644 /dev/stdin /etc/cron.d/backup-pg << 'FILE'
$(< "$work/backup-pg.cron")
FILE
install -m 0644 /dev/stdin /etc/logrotate.d/backup-pg << 'FILE'
$(< "$work/backup-pg.logrotate")
FILE
EOF
