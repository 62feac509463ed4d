"""A process that has imported JAX and callbax, and forks a child for each program that it is sent.

The child is what `python -c` makes of the program, without the second that the imports take: no
backend has started in its parent, so callbax promises that all works there.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping

# The child leaves the loop, runs its program as `__main__` and ends as any Python process does.
SERVER = """
import json, os, socket, sys, warnings
import jax, jax.numpy, numpy, callbax
server = socket.socket(fileno=int(sys.argv[1]))
while True:
    request, files, _, _ = socket.recv_fds(server, 2**20, 1)
    if not request:
        sys.exit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own about forks of threads: numpy's are idle
        child = os.fork()
    if child == 0:
        break
    os.close(files[0])
    server.send(json.dumps(child).encode())
    server.send(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
server.close()
os.setsid()
os.dup2(files[0], 1)
os.dup2(files[0], 2)
os.close(files[0])
request = json.loads(request)
os.environ.clear()
os.environ.update(request["environment"])
sys.argv[1:] = []
program = compile(request["source"], "<string>", "exec")
del child, files, request, server, json, os, socket, sys, warnings, jax, numpy, callbax
exec(program)
"""


class Warm:
    """The process, which runs one program at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._child: Child | None = None
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(theirs.fileno())],
                env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def start(self, source: str, environment: Mapping[str, str]) -> Child:
        """Starts the program in a child of its own."""
        assert self._child is None or self._child.returncode is not None, "the last one has no end"
        reading, writing = os.pipe()
        message = json.dumps({"source": source, "environment": dict(environment)}).encode()
        socket.send_fds(self._socket, [message], [writing])
        os.close(writing)
        self._child = Child(self._socket, reading)
        return self._child

    def close(self) -> None:
        """Ends the process."""
        self._socket.close()
        self._process.wait(timeout=60)


class Child:
    """A program that was started; what is used of it is named as in `subprocess.Popen`."""

    def __init__(self, server: socket.socket, output: int) -> None:
        self._server = server
        server.settimeout(60)
        self.pid = json.loads(server.recv(100))
        self.returncode: int | None = None
        self.stdout = open(output, encoding="utf-8", errors="replace")
        self._rest: list[str] = []
        self._reader: threading.Thread | None = None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Waits for the end; returns the output from here on."""
        if self._reader is None:
            read = self.stdout.read
            self._reader = threading.Thread(target=lambda: self._rest.append(read()), daemon=True)
            self._reader.start()
        self._reader.join(timeout)
        self._server.settimeout(timeout)
        try:
            if self._reader.is_alive():
                raise TimeoutError
            self.returncode = json.loads(self._server.recv(100))
        except TimeoutError:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0) from None
        self.stdout.close()
        return self._rest[0], None
