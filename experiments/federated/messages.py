"""Messages between server and clients: framed bytes over a socket, every one of them counted.

A message is the magic b"FED1", the lengths of header (u32) and body (u64), little-endian, the
SHA-256 of header and body, the header as JSON with its `kind`, then the body. Nothing in a message
is ever unpickled.
"""

import dataclasses
import hashlib
import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

from pwl_jax.errors import UserError
from pwl_jax.precision import canonical_json

MAGIC = b"FED1"
MAX_HEADER_BYTES = 1 << 20
MAX_BODY_BYTES = 1 << 30

_PREFIX = struct.Struct("<4sIQ32s")
PREFIX_BYTES = _PREFIX.size
# A socket waits this long at a time, in seconds; deadlines are looked at in between.
_PATIENCE = 0.25
_CHUNK = 1 << 14


class FederatedError(UserError):
    """A peer that is gone, silent, or sends what it must not; the message names it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Message:
    """One message.

    Attributes:
      kind: what it is.
      fields: the header's other fields, JSON-able.
      body: bytes that the fields describe.
    """

    kind: str
    fields: Mapping[str, Any]
    body: bytes = b""

    def to_bytes(self) -> bytes:
        """The message as it is sent; equal messages give equal bytes."""
        header = canonical_json({"kind": self.kind, **self.fields})
        digest = hashlib.sha256(header + self.body).digest()
        return _PREFIX.pack(MAGIC, len(header), len(self.body), digest) + header + self.body


def _lengths(prefix: bytes, peer: str, max_body: int) -> tuple[int, int, bytes]:
    """Bytes of header and body and their digest, from a message's first `PREFIX_BYTES`."""
    magic, header, body, digest = _PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise FederatedError(f"{peer} sent {magic!r} where a message begins with {MAGIC!r}")
    if header > MAX_HEADER_BYTES or body > max_body:
        raise FederatedError(
            f"{peer} announced a message of {header} and {body} bytes; at most "
            f"{MAX_HEADER_BYTES} and {max_body} are read"
        )
    return header, body, digest


def _parsed(header: bytes, body: bytes, digest: bytes, peer: str) -> Message:
    if hashlib.sha256(header + body).digest() != digest:
        raise FederatedError(f"a message from {peer} is damaged: its SHA-256 is not the one sent")
    try:
        fields = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise FederatedError(f"{peer} sent a header that is no JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise FederatedError(f"{peer} sent a header without a kind")
    return Message(fields.pop("kind"), fields, body)


def from_bytes(data: bytes, peer: str = "the peer", max_body: int = MAX_BODY_BYTES) -> Message:
    """The message that `to_bytes` made.

    Raises:
      FederatedError: damaged, cut off, or with bytes behind its end.
    """
    if len(data) < PREFIX_BYTES:
        raise FederatedError(f"{peer} sent {len(data)} bytes; a message has {PREFIX_BYTES} or more")
    header, body, digest = _lengths(data[:PREFIX_BYTES], peer, max_body)
    if len(data) != PREFIX_BYTES + header + body:
        raise FederatedError(
            f"a message from {peer} has {len(data)} bytes where {PREFIX_BYTES + header + body} "
            "are announced"
        )
    split = PREFIX_BYTES + header
    return _parsed(data[PREFIX_BYTES:split], data[split:], digest, peer)


class PeerGone(FederatedError):
    """The other end of a connection is closed."""


class Connection:
    """Messages over a stream socket. One thread may send while another receives.

    Attributes:
      peer: who is at the other end, for messages to people.
      bytes_sent, bytes_received: of whole messages, framing included.
    """

    def __init__(self, sock: socket.socket, peer: str, bytes_per_second: float | None = None):
        """Takes over the socket.

        Args:
          sock: connected.
          peer: its other end.
          bytes_per_second: speed at which messages are sent; None for as fast as they go.
        """
        sock.settimeout(_PATIENCE)
        self._socket = sock
        self.peer = peer
        self.bytes_per_second = bytes_per_second
        self.bytes_sent = 0
        self.bytes_received = 0

    def send(self, message: Message, timeout: float) -> int:
        """Sends a message; the number of its bytes.

        Args:
          message: to send.
          timeout: seconds that the peer may take to read each part of it.

        Raises:
          FederatedError: the peer is gone or does not read.
        """
        view = memoryview(message.to_bytes())
        begin, at = time.monotonic(), 0
        deadline = begin + timeout
        while at < len(view):
            try:
                sent = self._socket.send(view[at : at + _CHUNK])
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise FederatedError(f"{self.peer} read nothing for {timeout:g} s") from None
                continue
            except OSError as error:
                raise PeerGone(f"{self.peer} is gone: {error.strerror or error}") from error
            at += sent
            if self.bytes_per_second:
                time.sleep(max(0.0, begin + at / self.bytes_per_second - time.monotonic()))
            deadline = time.monotonic() + timeout
        self.bytes_sent += len(view)
        return len(view)

    def receive(self, timeout: float | None, max_body: int = MAX_BODY_BYTES) -> Message:
        """The next message.

        Args:
          timeout: seconds until it must be complete; None waits for as long as the peer lives.
          max_body: bytes of body that are read at most.

        Raises:
          FederatedError: the peer is gone or silent, or what it sent is no sound message.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        prefix = self._read(PREFIX_BYTES, deadline, timeout)
        header, body, digest = _lengths(prefix, self.peer, max_body)
        data = self._read(header + body, deadline, timeout)
        self.bytes_received += PREFIX_BYTES + header + body
        return _parsed(data[:header], data[header:], digest, self.peer)

    def close(self) -> None:
        """Closes the socket; the peer sees the end of the stream."""
        self._socket.close()

    def _read(self, count: int, deadline: float | None, timeout: float | None) -> bytes:
        data = bytearray()
        while len(data) < count:
            # Also where bytes keep dripping in.
            if deadline is not None and time.monotonic() > deadline:
                raise FederatedError(f"{self.peer} sent no whole message within {timeout:g} s")
            try:
                piece = self._socket.recv(min(count - len(data), 1 << 20))
            except TimeoutError:
                continue
            except OSError as error:
                raise PeerGone(f"{self.peer} is gone: {error.strerror or error}") from error
            if not piece:
                raise PeerGone(f"{self.peer} closed the connection")
            data += piece
        return bytes(data)
