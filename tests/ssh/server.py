"""A small SSH server in this process: real protocol, real keys, commands run by the real sh."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from pathlib import Path

import paramiko

DEADLINE = 20


class _Session(paramiko.ServerInterface):
    def __init__(self, server: SshServer) -> None:
        self._server = server

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        good = username == self._server.user and key == self._server.client_key
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._server.commands.append(command.decode())
        threading.Thread(target=self._server.execute, args=(channel, command), daemon=True).start()
        return True

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        self._server.forwarded.append(destination)
        self._server.destinations[chanid] = destination
        return paramiko.OPEN_SUCCEEDED


class SshServer:
    """Listens on loopback until closed. `path` is put before PATH for the commands."""

    def __init__(self, client_key: paramiko.PKey, user: str = "root", path: Path | None = None):
        self.host_key = paramiko.ECDSAKey.generate()
        self.client_key = client_key
        self.user = user
        self.path = path
        self.commands: list[str] = []
        self.forwarded: list[tuple[str, int]] = []
        self.destinations: dict[int, tuple[str, int]] = {}
        self.transports: list[paramiko.Transport] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        transport = paramiko.Transport(client)
        transport.add_server_key(self.host_key)
        self.transports.append(transport)
        try:
            transport.start_server(server=_Session(self))
        except (paramiko.SSHException, EOFError):
            return
        while transport.is_active():
            channel = transport.accept(1)
            if channel is not None and channel.chanid in self.destinations:
                self._forward(channel, self.destinations[channel.chanid])

    def _forward(self, channel: paramiko.Channel, destination: tuple[str, int]) -> None:
        try:
            target = socket.create_connection(destination, timeout=DEADLINE)
        except OSError:
            channel.close()
            return
        target.settimeout(None)

        def pump(read, write, close) -> None:
            try:
                while data := read(32768):
                    write(data)
            except OSError:
                pass
            finally:
                # paramiko's own word for a connection that the client has closed is EOFError.
                with contextlib.suppress(OSError, EOFError):
                    close()

        for args in (
            (channel.recv, target.sendall, lambda: target.shutdown(socket.SHUT_WR)),
            (target.recv, channel.sendall, channel.close),
        ):
            threading.Thread(target=pump, args=args, daemon=True).start()

    def execute(self, channel: paramiko.Channel, command: bytes) -> None:
        """Run a command by sh, wired to the channel as sshd does."""
        path = f"{self.path}:{os.environ['PATH']}" if self.path else os.environ["PATH"]
        process = subprocess.Popen(
            ["sh", "-c", command.decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PATH": path},
            start_new_session=True,
        )
        self.processes.append(process)

        # Set when the client has sent something, so has had the answer to its request.
        spoke = threading.Event()

        def feed() -> None:
            try:
                while data := channel.recv(32768):
                    spoke.set()
                    process.stdin.write(data)
                    process.stdin.flush()
            except OSError:
                pass
            finally:
                spoke.set()
                with contextlib.suppress(OSError):
                    process.stdin.close()

        def drain(stream, send) -> None:
            try:
                while data := stream.read1(32768):
                    send(data)
            except OSError:
                # As with sshd, whoever goes on writing is told that nobody reads.
                stream.close()

        threading.Thread(target=feed, daemon=True).start()
        wires = ((process.stdout, channel.sendall), (process.stderr, channel.sendall_stderr))
        readers = [threading.Thread(target=drain, args=wire, daemon=True) for wire in wires]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        code = process.wait()
        # paramiko answers the request from another thread: closed before that, it would be refused.
        spoke.wait(1)
        if not channel.closed:
            channel.send_exit_status(code)
            channel.close()

    def drop_connections(self) -> None:
        """Cut every connection, as a machine does that loses its network."""
        for transport in self.transports:
            transport.close()

    def close(self) -> None:
        """Stop listening, cut connections, end the commands that were started."""
        # close() alone leaves the port open while _accept still waits on it.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(DEADLINE)
