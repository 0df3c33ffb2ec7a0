"""Caddy with the configuration that a deploy gives it, in front of a small app and beside an ACME
server: on a network of Docker's own, without a Swarm.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabfile.config import hosts_file
from fabfile.deploy import proxy_stack
from fabfile.ssh import tunnel
from fabfile.ssh.tunnel import CHECK_HEADER
from lab import docker, engine, images
from lab.progress import Progress
from tests.e2e import proxied_app
from tests.e2e.live import eventually
from tests.unit.certificate_files import self_signed

DOMAIN = "noco.test"
NAME = f"swarmkeep-test-proxy-{os.getpid()}"
LIMITED = ("--read-only", "--cap-drop=ALL", "--cap-add=NET_BIND_SERVICE")
"""As compose/compose-proxy.yml has it."""


@dataclass
class Front:
    """A network with an app in it, and whatever proxies a test starts."""

    folder: Path
    number: int = 0

    def start(self, role: str, image: str, *words: str, alias: str = "") -> str:
        """Start a container and return its name."""
        self.number += 1
        name = f"{NAME}-{role}-{self.number}"
        flags = ("--network-alias", alias) if alias else ()
        docker.run("run", "--detach", "--name", name, "--network", NAME, *flags, *words[:-1],
                   image, *words[-1].split())  # fmt: skip
        return name

    def caddy(
        self,
        more: str = "",
        certificate: tuple[str, str] | None = None,
        apps: dict[str, Any] | None = None,
        **proxy: Any,
    ) -> str:
        """Start Caddy as a deploy configures it, with more global options; return its name."""
        data = {
            "hosts": {
                "m": {"address": "192.0.2.1", "swarm": "manager"},
                "d": {"address": "192.0.2.2", "role": "db"},
                "a": {"address": "192.0.2.3", "role": "app"},
            },
            "s3_bucket_name": "test-bucket",
            "app": {"domain": DOMAIN},
            "apps": apps or {},
            "proxy": proxy,
        }
        text = proxy_stack.caddyfile(hosts_file.parse(yaml.safe_dump(data), Path("hosts.yaml")))
        if more:
            text = text.replace("\tadmin off\n", f"\tadmin off\n\t{more}\n", 1)
        folder = self.folder / f"caddy-{self.number}"
        folder.mkdir()
        (folder / "Caddyfile").write_text(text)
        (folder / "acme-root.pem").write_text(self.root)
        mounts = ["--volume", f"{folder}:/etc/caddy:ro"]
        if certificate:
            for name, content in zip(
                ("certificate.pem", "certificate-key.pem"), certificate, strict=True
            ):
                (folder / name).write_text(content)
            mounts += ["--volume", f"{folder}:/run/secrets:ro"]
        return self.start("caddy", images.CADDY.tag, *LIMITED, "--tmpfs=/config", "--tmpfs=/data",
                          *mounts, "", alias=DOMAIN)  # fmt: skip

    def app(self, alias: str) -> str:
        """Start an app under the name that its service would have."""
        file = f"{Path(proxied_app.__file__)}:/app.py:ro"
        return self.start("app", images.NODE.tag, "--volume", file, "--entrypoint", "python3",
                          "/app.py", alias=alias)  # fmt: skip

    @property
    def root(self) -> str:
        """The ACME server's own certificate."""
        return (self.folder / "pebble.pem").read_text()

    def stop(self, name: str) -> None:
        docker.run("rm", "--force", "--volumes", name)


@pytest.fixture(scope="module")
def front(tmp_path_factory) -> Iterator[Front]:
    with Progress(print) as progress:
        engine.ensure(progress)
        images.ensure(progress, (images.NODE, images.CADDY, images.ACME))
    folder = tmp_path_factory.mktemp("proxy")
    folder.chmod(0o755)
    docker.run("network", "create", NAME)
    made = Front(folder)
    certificate, key = self_signed("pebble")
    (folder / "pebble.pem").write_text(certificate)
    (folder / "pebble-key.pem").write_text(key)
    try:
        made.app("appstack_nocodb")
        yield made
    finally:
        for container in docker.run("ps", "-aq", "--filter", f"name={NAME}-").split():
            made.stop(container)
        docker.run("network", "rm", NAME)


def address(container: str) -> str:
    networks = (docker.inspect("container", container) or {})["NetworkSettings"]["Networks"]
    return str(networks[NAME]["IPAddress"])


def connect(container: str, *, timeout: float = 60) -> ssl.SSLSocket:
    """A TLS connection to a proxy, whose certificate is looked at by the test."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection((address(container), 443), timeout)
    return context.wrap_socket(plain, server_hostname=DOMAIN)


def answers(container: str) -> bool:
    try:
        connect(container, timeout=5).close()
    except OSError:
        return False
    return True


def await_answers(container: str) -> None:
    """Wait until a proxy has a certificate; what it says instead is in the error."""
    end = time.monotonic() + 60
    while not answers(container):
        assert time.monotonic() < end, log_of(container).decode()
        time.sleep(0.2)


def curl(container: str, path: str, *words: str, code: int = 0) -> str:
    """What curl prints; `code` is its exit code."""
    place = f"{DOMAIN}:443:{address(container)}"
    done = subprocess.run(
        ["curl", "-sSk", "--max-time", "120", "--resolve", place, *words, f"https://{DOMAIN}{path}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def proxy(front) -> str:
    """A proxy with an authority of its own."""
    name = front.caddy(certificates="internal", wait="30s")
    await_answers(name)
    return name


def test_http_2_gzip_headers_and_the_clients_address(proxy):
    head = curl(proxy, "/some/page", "--http2", "--compressed", "-D", "-")
    first, _, body = head.replace("\r", "").partition("\n\n")
    assert first.startswith("HTTP/2 200")
    lines = {line.partition(":")[0].lower(): line for line in first.splitlines()}
    assert "content-encoding: gzip" in lines["content-encoding"]
    assert "nosniff" in lines["x-content-type-options"]
    # What would break shared views and embedded forms is not there.
    assert not {"x-frame-options", "content-security-policy", "x-powered-by", "server"} & set(lines)
    said = {name.lower(): value for name, value in json.loads(body)["headers"].items()}
    gateway = (docker.inspect("network", NAME) or {})["IPAM"]["Config"][0]["Gateway"]
    assert said["x-forwarded-for"] == gateway
    assert said["x-forwarded-proto"] == "https"
    assert said["host"] == DOMAIN


def test_plain_http_leads_to_https(proxy):
    with socket.create_connection((address(proxy), 80), 10) as one:
        one.sendall(f"GET /page HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n".encode())
        said = one.recv(4096).decode()
    assert said.startswith("HTTP/1.1 308")
    assert f"Location: https://{DOMAIN}/page" in said


def test_a_check_sees_whether_this_is_the_domains_proxy(proxy):
    """Caddy answers 200 for any name: that alone would be a wrong "ok"."""

    def checked(host: str) -> bytes:
        with connect(proxy) as one:
            lines = ("GET / HTTP/1.1", f"Host: {host}", f"{CHECK_HEADER}: now", "Connection: close")
            one.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
            return one.recv(4096)

    assert tunnel._answer(checked(DOMAIN), b"") == tunnel.Answer(200, b"", DOMAIN)
    assert tunnel._answer(checked("other.test"), b"").checked == ""
    with without_app(proxy):
        assert tunnel._answer(checked(DOMAIN), b"") == tunnel.Answer(503, b"", DOMAIN)


def test_another_app_has_a_domain_of_its_own(front):
    shop = front.app("shopstack_shop")
    apps = {"shop": {"image": "shop:1", "domain": "shop.test"}}
    name = front.caddy(apps=apps, certificates="none", wait="1s")

    def asked(host: str) -> tunnel.Answer:
        try:
            with socket.create_connection((address(name), 80), 10) as one:
                lines = (
                    "GET / HTTP/1.1", f"Host: {host}", f"{CHECK_HEADER}: now", "Connection: close",
                )  # fmt: skip
                one.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
                return tunnel._answer(one.recv(4096), b"")
        except OSError:
            return tunnel.Answer(0, b"")

    try:
        eventually(lambda: asked("shop.test") == tunnel.Answer(200, b"", "shop.test"), 30)
        assert asked(DOMAIN) == tunnel.Answer(200, b"", DOMAIN)
        front.stop(shop)
        eventually(lambda: asked("shop.test") == tunnel.Answer(503, b"", "shop.test"), 30)
        # Each domain leads to its own app only.
        assert asked(DOMAIN) == tunnel.Answer(200, b"", DOMAIN)
    finally:
        front.stop(name)


def test_websocket(proxy):
    with connect(proxy) as one:
        one.sendall(
            f"GET /socket HTTP/1.1\r\nHost: {DOMAIN}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        said = one.recv(4096)
        assert said.startswith(b"HTTP/1.1 101"), said
        text = b"hello"
        one.sendall(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
        frame = said.partition(b"\r\n\r\n")[2]
        while len(frame) < len(text) + 2:
            block = one.recv(4096)
            assert block, frame
            frame += block
    assert frame == bytes([0x81, len(text)]) + text


def test_an_upload_of_a_gigabyte(proxy, tmp_path):
    size = 1 << 30
    file = tmp_path / "large"
    with file.open("wb") as made:
        made.truncate(size)
    said = curl(proxy, "/upload", "-X", "POST", "-T", str(file))
    assert json.loads(said)["got"] == size


@pytest.fixture(scope="module")
def impatient(front) -> str:
    """A proxy that waits for a second only for an app that starts."""
    name: str = front.caddy(certificates="internal", wait="1s")
    await_answers(name)
    return name


def test_a_request_that_takes_its_time(impatient):
    """Longer than it waits for an app that starts."""
    assert json.loads(curl(impatient, "/slow/3"))["slow"] == "/slow/3"


APP = f"{NAME}-app-1"


@contextmanager
def without_app(proxy: str) -> Iterator[None]:
    """Docker's DNS names no app, as for a Swarm's task that does not run or is not healthy yet."""
    docker.run("network", "disconnect", NAME, APP)
    try:
        # What it said last counts for a second.
        eventually(lambda: b" 200" not in first_line(proxy), 10)
        yield
    finally:
        docker.run("network", "connect", "--alias", "appstack_nocodb", NAME, APP)
    eventually(lambda: b" 200" in first_line(proxy), 10)


def first_line(proxy: str) -> bytes:
    """Of the answer to a request; b"" if there is none within a second."""
    try:
        with connect(proxy, timeout=1) as one:
            one.sendall(f"GET / HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n".encode())
            return one.recv(4096).partition(b"\r\n")[0]
    except OSError:
        return b""


def test_requests_wait_for_an_app_that_starts_and_none_fails(proxy):
    """Those with a body, too."""
    codes: list[str] = []

    def client() -> None:
        for number in range(10):
            body = ("-X", "POST", "-d", "x") if number % 2 else ()
            codes.append(curl(proxy, "/", *body, "-w", "%{http_code}", "-o", "/dev/null"))

    threads = [threading.Thread(target=client) for _ in range(4)]
    with without_app(proxy):
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        eventually(lambda: time.monotonic() > begun + 3, 10)
        assert codes == []
    for thread in threads:
        thread.join()
    assert codes == ["200"] * 40


def test_an_app_that_stays_away_is_a_page_that_says_when_to_come_back(impatient):
    with without_app(impatient):
        for words in ((), ("-X", "POST", "-d", "x")):
            said = curl(impatient, "/", "-D", "-", *words).replace("\r", "")
            assert said.startswith("HTTP/2 503")
            assert "retry-after: 10" in said
            assert "Back soon" in said
        # One line for each try of each request would fill the disk.
        assert b"dynamic upstreams" not in log_of(impatient)


def test_a_certificate_from_the_vault(front):
    certificate, key = self_signed(DOMAIN)
    name = front.caddy(certificates="vault", certificate=(certificate, key))
    await_answers(name)
    with connect(name) as one:
        assert ssl.DER_cert_to_PEM_cert(one.getpeercert(binary_form=True) or b"") == certificate
    assert "max-age=86400" in curl(name, "/", "-I")
    front.stop(name)


def test_without_certificates_it_speaks_http_only(front):
    name = front.caddy(certificates="none")
    eventually(lambda: docker.attempt("exec", name, "wget", "-qO-", "http://127.0.0.1:2020/")
               .returncode == 0, 30)  # fmt: skip
    with socket.create_connection((address(name), 80), 10) as one:
        one.sendall(f"GET /page HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n".encode())
        assert one.recv(4096).startswith(b"HTTP/1.1 200")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address(name), 443), 5)
    front.stop(name)


VALID_SECONDS = 24


@pytest.fixture(scope="module")
def names(front) -> str:
    """A DNS server that says that every name is this machine's own: no proxy's."""
    name: str = front.start("names", images.ACME.tag, "pebble-challtestsrv -defaultIPv6 "
                            "-http01 -https01 -tlsalpn01", alias="names")  # fmt: skip
    return name


def point_to(names: str, to: str) -> None:
    """Have the ACME server find the domain at an address."""
    for path, more in (("clear-a", {}), ("add-a", {"addresses": [to]})):
        body = json.dumps({"host": f"{DOMAIN}.", **more})
        with socket.create_connection((address(names), 8055), 10) as one:
            request = (
                f"POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                f"Connection: close\r\n\r\n{body}"
            )
            one.sendall(request.encode())
            assert b" 200 " in one.recv(4096)


@pytest.fixture(scope="module")
def acme(front, names) -> str:
    """An ACME server whose certificates are good for less than a minute."""
    config = {
        "pebble": {
            "listenAddress": "0.0.0.0:14000",
            "managementListenAddress": "0.0.0.0:15000",
            "certificate": "/files/pebble.pem",
            "privateKey": "/files/pebble-key.pem",
            "httpPort": 80,
            "tlsPort": 443,
            "certificateValidityPeriod": VALID_SECONDS,
        }
    }
    (front.folder / "pebble.json").write_text(json.dumps(config))
    name: str = front.start(
        "acme", images.ACME.tag, "--volume", f"{front.folder}:/files:ro",
        "--env=PEBBLE_VA_NOSLEEP=1", "--env=PEBBLE_WFE_NONCEREJECT=0",
        f"pebble -config /files/pebble.json -dnsserver {address(names)}:8053", alias="pebble",
    )  # fmt: skip
    return name


def serial(container: str) -> str:
    """The number of the certificate that a proxy shows, "" if it shows none."""
    try:
        with connect(container, timeout=5) as one:
            raw = one.getpeercert(binary_form=True) or b""
    except OSError:
        return ""
    from cryptography import x509

    return str(x509.load_der_x509_certificate(raw).serial_number)


def test_certificates_by_acme(front, names, acme):
    """None for a name that is not the proxy's; then one, and renewed ones, also when the server
    was away for a while.
    """
    point_to(names, "127.0.0.1")
    name = front.caddy(
        "renew_interval 1s", certificates="acme", acme_directory="https://pebble:14000/dir",
        acme_root="/any", email="ops@noco.test",
    )  # fmt: skip
    eventually(lambda: b"could not get certificate" in log_of(name), 60)
    assert serial(name) == ""
    point_to(names, address(name))
    # As somebody does who has corrected DNS and does not wait for the next try.
    docker.run("restart", name)
    eventually(lambda: serial(name) != "", 60)
    first = serial(name)
    assert json.loads(curl(name, "/page"))["path"] == "/page"
    docker.run("network", "disconnect", NAME, acme)
    assert serial(name) == first
    docker.run("network", "connect", "--alias", "pebble", NAME, acme)
    eventually(lambda: serial(name) not in ("", first), VALID_SECONDS + 60)
    front.stop(name)


def log_of(container: str) -> bytes:
    done = docker.attempt("logs", container)
    return done.stdout + done.stderr
