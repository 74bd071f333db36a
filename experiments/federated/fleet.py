"""The client processes, seen from the server: started, spoken to all at once, ended.

A client that dies, is silent for too long, or sends what it must not is *lost*: its process is
ended and it takes no further part. The run goes on without it as long as no more clients are lost
than were allowed, and else ends with the first one's error. Nothing waits without a timeout.
"""

import concurrent.futures
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from experiments.federated.messages import Connection, FederatedError, Message, PeerGone

_ROOT = Path(__file__).parents[2]
_LAST_WORDS_BYTES = 1 << 12
T = TypeVar("T")


def client_command(descriptor: int, client: int) -> list[str]:
    """The command line of a client whose socket is `descriptor`."""
    del client
    return [sys.executable, "-m", "experiments.federated.client", str(descriptor)]


class ClientProcess:
    """One client.

    Attributes:
      number: from 0.
      process: of the operating system.
      connection: to it.
      timeout: seconds that an answer may take.
    """

    def __init__(self, number: int, command: Sequence[str], sock: socket.socket, **options: Any):
        self.number = number
        self.timeout: float = options["timeout"]
        self._errors = Path(options["folder"]) / f"client{number}.stderr"
        self.connection = Connection(sock, f"client {number}", options["bytes_per_second"])
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env=options["environment"],
                pass_fds=[int(options["descriptor"])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def send(self, message: Message) -> int:
        """Sends a message; its bytes. Raises FederatedError where the client is gone."""
        try:
            return self.connection.send(message, self.timeout)
        except PeerGone as gone:
            # One that gave up said why before it went.
            with contextlib.suppress(PeerGone):
                self.receive("nothing more", _LAST_WORDS_BYTES)
            raise self._explained(gone) from gone

    def receive(self, kind: str, max_body: int) -> tuple[Message, int]:
        """The client's next message, and its bytes.

        Raises:
          FederatedError: the client is gone, silent, reports an error, or sends something else.
        """
        before = self.connection.bytes_received
        try:
            message = self.connection.receive(self.timeout, max_body)
        except PeerGone as gone:
            raise self._explained(gone) from gone
        if message.kind == "error":
            said = " ".join(str(message.fields.get("message", ""))[:500].split())
            raise FederatedError(f"client {self.number} gave up: {said}")
        if message.kind != kind:
            raise FederatedError(f"client {self.number} sent '{message.kind}'; expected {kind}")
        return message, self.connection.bytes_received - before

    def end(self) -> None:
        """Kills the process if it still runs, and waits for it."""
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def _explained(self, gone: PeerGone) -> PeerGone:
        """The error with the status and last words of the process."""
        # A process that has closed its socket takes a moment to end.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1)
        status = self.process.poll()
        if status is None:
            return gone
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return PeerGone(f"client {self.number} {how}{': ' + lines[-1] if lines else ''}")


class Fleet:
    """All clients. A context manager that ends their processes.

    Attributes:
      clients: those that are not lost.
      lost: what each lost client did.
    """

    def __init__(
        self,
        count: int,
        *,
        timeout: float,
        allow_lost: int = 0,
        bytes_per_second: float | None = None,
        command: Callable[[int, int], Sequence[str]] = client_command,
    ) -> None:
        """Starts the processes; they share a folder of compiled programs.

        Args:
          count: clients.
          timeout: seconds that an answer may take.
          allow_lost: how many may be lost.
          bytes_per_second: speed of the link to each client; None for unlimited.
          command: of a client, given the number of its socket and its own.
        """
        self.lost: list[str] = []
        self.clients: list[ClientProcess] = []
        self._allow_lost = allow_lost
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="federated-"))
            environment = _environment(Path(folder))
            for number in range(count):
                ours, theirs = socket.socketpair()
                stack.callback(ours.close)
                with contextlib.closing(theirs):
                    client = ClientProcess(
                        number,
                        command(theirs.fileno(), number),
                        ours,
                        descriptor=theirs.fileno(),
                        timeout=timeout,
                        bytes_per_second=bytes_per_second,
                        environment=environment,
                        folder=folder,
                    )
                stack.callback(client.end)
                self.clients.append(client)
            self._threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(count))
            self._stack = stack.pop_all()

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            # Threads that wait for a client see its end at once.
            for client in self.clients:
                client.process.kill()
        self._stack.close()

    def each(
        self, talk: Callable[[ClientProcess], T], clients: Sequence[ClientProcess] | None = None
    ) -> dict[int, T]:
        """What a function of a client returns for each of them, by number; all at once.

        Args:
          talk: raises FederatedError where the client must be given up.
          clients: some of them; None for all.

        Raises:
          FederatedError: more clients are lost than were allowed, or none is left.
        """
        asked = list(self.clients if clients is None else clients)
        futures = [self._threads.submit(talk, client) for client in asked]
        answers = {}
        for client, future in zip(asked, futures, strict=True):
            try:
                answers[client.number] = future.result()
            except FederatedError as error:
                self._lose(client, str(error))
        return answers

    def _lose(self, client: ClientProcess, why: str) -> None:
        client.end()
        self.clients.remove(client)
        self.lost.append(why)
        if len(self.lost) > self._allow_lost or not self.clients:
            allowed = f" (and {len(self.lost) - 1} before)" if len(self.lost) > 1 else ""
            raise FederatedError(f"{why}{allowed}; the run ends")


def _environment(folder: Path) -> dict[str, str]:
    """Of a client: one CPU device, since many processes cannot share an accelerator's memory."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return {
        **kept,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
