"""A backup that stops raises an alarm, and a good one resolves it: node_exporter on the db node, a
real Prometheus, a real Alertmanager, a receiver on loopback.
"""

from __future__ import annotations

import email
import json
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import docker as lab_docker
from lab import images
from lab.progress import Progress
from tests.e2e.live import eventually

RULES = Path(__file__).parents[2] / "monitoring"
TEXTFILES = "/var/lib/prometheus/node-exporter"
TOO_OLD = 25
"""Seconds instead of 26 hours."""


@pytest.fixture(scope="module")
def image(lab) -> str:
    with Progress(print) as progress:
        images.ensure(progress, (images.MONITORING,))
    return images.MONITORING.tag


def promtool(image: str, *args: str, files: Path = RULES, stdin: bytes = b"") -> str:
    return lab_docker.run(
        "run", "--rm", "--interactive", "--network", "none", "--volume", f"{files}:/files:ro",
        "--workdir", "/files", image, "promtool", *args, input=stdin,
    )  # fmt: skip


def test_rules_and_their_own_tests(image):
    assert "SUCCESS" in promtool(image, "check", "rules", "swarmkeep.rules.yml")
    assert "SUCCESS" in promtool(image, "test", "rules", "swarmkeep.rules.test.yml")


def test_every_alarm_has_a_test_a_summary_and_a_next_step():
    rules = yaml.safe_load((RULES / "swarmkeep.rules.yml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((RULES / "swarmkeep.rules.test.yml").read_text())["tests"]
    raised = {
        case["alertname"]
        for test in tests
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert raised == {rule["alert"] for rule in rules}
    assert all({"summary", "next"} <= set(rule["annotations"]) for rule in rules)


class Receiver(ThreadingHTTPServer):
    """What Alertmanager has delivered: status and name of each alarm."""

    daemon_threads = True

    def __init__(self) -> None:
        self.alarms: list[tuple[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = [(one["status"], one["labels"]["alertname"]) for one in said["alerts"]]
        self.server.alarms += found
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


EXPORTER = "/usr/local/bin/prometheus-node-exporter"


@pytest.fixture(scope="module")
def exporter(lab, deployed, image) -> Iterator[str]:
    """The address of node_exporter on db1, which reads the folder that the scripts write to."""
    made = lab.exec("db1", "mkdir", "-p", TEXTFILES)
    assert made.returncode == 0
    binary = lab_docker.attempt("run", "--rm", image, "cat", "/usr/bin/prometheus-node-exporter")
    lab.exec("db1", "sh", "-c", f"cat >{EXPORTER} && chmod 755 {EXPORTER}", input=binary.stdout)
    flags = (
        "--collector.disable-defaults --collector.textfile --web.listen-address=:9100 "
        f"--collector.textfile.directory={TEXTFILES}"
    )
    script = f"setsid {EXPORTER} {flags} >/tmp/exporter.log 2>&1 & echo $!"
    started = lab.exec("db1", "sh", "-c", script)
    yield f"{lab.addresses['db1']}:9100"
    lab.exec("db1", "kill", started.stdout.decode().strip())
    lab.exec("db1", "rm", "-rf", EXPORTER, TEXTFILES, "/tmp/exporter.log")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def prometheus(lab, image, exporter, receiver, tmp_path_factory) -> Iterator[str]:
    """The URL of a Prometheus with our rules, whose times are shortened, and an Alertmanager."""
    folder = tmp_path_factory.mktemp("prometheus")
    folder.chmod(0o755)
    ports = free_port(), free_port()
    rules = (RULES / "swarmkeep.rules.yml").read_text()
    rules = re.sub(r"for: \d+\w", "for: 0s", rules).replace("26 * 3600", str(TOO_OLD))
    (folder / "rules.yml").write_text(rules)
    config: dict[str, Any] = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{ports[1]}"]}]}]
        },
        "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": [exporter]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    hook = {"url": f"http://127.0.0.1:{receiver.server_port}/", "send_resolved": True}
    route = {"receiver": "test", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
    alerts = {"route": route, "receivers": [{"name": "test", "webhook_configs": [hook]}]}
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(alerts))
    script = f"prometheus-alertmanager --config.file=/files/alertmanager.yml --storage.path=/tmp/a \
        --cluster.listen-address= --web.listen-address=127.0.0.1:{ports[1]} & \
        exec prometheus --config.file=/files/prometheus.yml --storage.tsdb.path=/tmp/p \
        --web.listen-address=127.0.0.1:{ports[0]}"
    container = lab_docker.run(
        "run", "--detach", "--init", "--network", "host", "--volume", f"{folder}:/files:ro", image,
        "sh", "-c", script,
    ).strip()  # fmt: skip
    yield f"http://127.0.0.1:{ports[0]}"
    lab_docker.run("rm", "--force", "--volumes", container)


def query(prometheus: str, expression: str) -> list[dict[str, Any]]:
    words = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query?{words}", timeout=10) as answer:
        said = json.load(answer)
    assert said["status"] == "success"
    return list(said["data"]["result"])


def value(prometheus: str, expression: str) -> float | None:
    try:
        found = query(prometheus, expression)
    except OSError:
        return None
    return float(found[0]["value"][1]) if found else None


def test_what_a_run_says_is_what_prometheus_wants(product, lab, image, exporter):
    product.ok("backup.install")
    product.ok("backup.run")
    product.ok("backup.drill")
    text = ""
    for job in ("backup", "drill"):
        file = lab.exec("db1", "cat", f"{TEXTFILES}/swarmkeep-{job}.nocodb.prom").stdout
        promtool(image, "check", "metrics", stdin=file)
        text += file.decode()
    assert "swarmkeep_backup_last_run_exit_code" in text
    assert "swarmkeep_drill_last_success_duration_seconds" in text


def test_a_backup_that_stops_raises_an_alarm_and_a_good_one_resolves_it(
    product, lab, prometheus, receiver
):
    product.ok("backup.run")
    good = "swarmkeep_backup_last_success_timestamp_seconds"
    eventually(lambda: value(prometheus, good) is not None, 60)
    too_old = "SwarmkeepBackupTooOld"
    # Nobody makes a backup: that is all it takes.
    eventually(lambda: ("firing", too_old) in receiver.alarms, 90)
    assert ("resolved", too_old) not in receiver.alarms
    product.ok("backup.run")
    eventually(lambda: ("resolved", too_old) in receiver.alarms, 60)
    assert not [name for _, name in receiver.alarms if name == "SwarmkeepBackupFailed"]


def test_a_run_that_fails_raises_one_at_once(product, lab, prometheus, receiver, variant):
    """With a wrong key on the node: the dump waits for its upload."""
    lab.exec("db1", "cp", "-p", "/etc/backup-pg.aws", "/etc/backup-pg.aws.kept")
    lab.exec(
        "db1",
        "sh",
        "-c",
        "sed -i 's/^aws_secret_access_key.*/aws_secret_access_key = x/' /etc/backup-pg.aws",
    )
    try:
        assert product.inv("backup.run").code == 18
    finally:
        lab.exec("db1", "mv", "/etc/backup-pg.aws.kept", "/etc/backup-pg.aws")
    for name in ("SwarmkeepBackupFailed", "SwarmkeepUploadsPending"):
        eventually(lambda name=name: ("firing", name) in receiver.alarms, 30)
    product.ok("backup.run")
    for name in ("SwarmkeepBackupFailed", "SwarmkeepUploadsPending"):
        eventually(lambda name=name: ("resolved", name) in receiver.alarms, 30)


def test_every_expression_of_the_dashboard_finds_something(product, lab, prometheus, tmp_path):
    verify, status = tmp_path / "verify.prom", tmp_path / "status.prom"
    product.ok("backup.verify", "--prom", str(verify))
    product.ok("status", "--prom", str(status))
    for file in (verify, status):
        lab.exec(
            "db1", "sh", "-c", f"cat >{TEXTFILES}/swarmkeep-{file.name}", input=file.read_bytes()
        )
    # The attachments' are on app1, which has no node_exporter here.
    lab.exec("app1", "mkdir", "-p", TEXTFILES)
    product.ok("backup.run")
    files = lab.exec("app1", "sh", "-c", f"cat {TEXTFILES}/*.prom; rm -r {TEXTFILES}").stdout
    lab.exec("db1", "sh", "-c", f"cat >{TEXTFILES}/app1.prom", input=files)
    eventually(lambda: value(prometheus, "swarmkeep_files_last_run_exit_code") is not None, 30)
    eventually(lambda: value(prometheus, "swarmkeep_service_tasks_wanted") is not None, 30)
    dashboard = json.loads((RULES / "grafana-dashboard.json").read_text())
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    assert len(expressions) > 10
    for expression in expressions:
        assert query(prometheus, expression.replace("$project", ".*")), expression


@pytest.fixture
def mails(image) -> Iterator[tuple[int, Callable[[], list[str]]]]:
    """The port of an SMTP server on loopback, and how to see what it took."""
    port = free_port()
    server = f"python3 -m aiosmtpd -n -l 127.0.0.1:{port} -c aiosmtpd.handlers.Mailbox /tmp/mail"
    container = lab_docker.run(
        "run", "--detach", "--init", "--network", "host", image, "sh", "-c", server
    ).strip()

    def look() -> list[str]:
        script = "cd /tmp/mail/new && for file in $(ls -tr); do cat $file; echo END-OF-MAIL; done"
        listed = lab_docker.exec(container, "sh", "-c", script).stdout.decode(errors="replace")
        mails = listed.split("END-OF-MAIL\n")[:-1]
        return [str(email.message_from_string(mail)["Subject"]) for mail in mails]

    eventually(lambda: answers(port), 30)
    yield port, look
    lab_docker.run("rm", "--force", "--volumes", container)


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_a_mail_when_verify_fails_and_one_when_it_is_good_again(
    product, lab, stamp, mails, variant, tmp_path
):
    port, look = mails
    vault = Path(yaml.safe_load(lab.hosts_file.read_text())["vault"]["file"])
    copy = tmp_path / "vault.yml"
    copy.write_bytes((lab.hosts_file.parent / vault).read_bytes())
    notify = {"notify": {"on": ["failure", "recovered"]}, "vault": {"file": str(copy)}}
    bad = variant({**notify, "backup": {"min_size": "1GB"}})
    good = variant(notify)
    url = f"mailto://127.0.0.1:{port}/?from=lab@example.com&to=ops@example.com"
    product.ok("secrets.set", "vault_notify_urls", stdin=url, hosts=good)
    try:
        assert product.inv("backup.verify", hosts=bad).code == 4
        assert look() == []  # only with --notify
        assert product.inv("backup.verify", "--notify", hosts=bad).code == 4
        for _ in range(2):
            product.ok("backup.verify", "--notify", hosts=good)
        said = look()
        assert len(said) == 2
        assert "backup.verify: failure" in said[0]
        assert "backup.verify: recovered" in said[1]
        product.ok("notify.test", hosts=good)
        assert len(look()) == 5
    finally:
        lab.exec("manager1", "sh", "-c", "rm -f /var/log/swarmkeep-notify.*")


def test_the_report_says_what_is_so(product, lab, stamp, tmp_path):
    file = tmp_path / "report.html"
    product.ok("report", "--out", str(file), "--upload")
    page = file.read_text()
    assert "All is well" in page
    assert f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}" in page
    assert "appstack_nocodb" in page
    assert "backup.install" in page  # the audit log
