"""A model's tensors as bodies of messages: raw, in few bits, or in few bits and then to the bit.

Tensors come as a list in an order that both ends know (`jax.tree.leaves`), so no names are sent.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.federated.messages import FederatedError
from pwl_jax.ladder import EXACT
from pwl_jax.precision import (
    PrecisionError,
    StagePayload,
    check_header,
    decode_tensor,
    encode_delta,
    encode_tensor,
    is_exact,
)

Tensors = list[np.ndarray]
Coded = tuple[list[dict[str, Any] | None], bytes]
"""Header of each tensor's payload (None: it brings nothing), and all their data."""


def model_sha256(tensors: Sequence[np.ndarray]) -> str:
    """SHA-256 over the elements of all tensors, little-endian, in order."""
    return hashlib.sha256(raw_body(tensors)).hexdigest()


def raw_body(tensors: Sequence[np.ndarray]) -> bytes:
    """All elements as float32, little-endian."""
    return b"".join(np.ascontiguousarray(tensor, "<f4").tobytes() for tensor in tensors)


def raw_tensors(body: bytes, like: Sequence[np.ndarray], peer: str) -> Tensors:
    """Tensors of the shapes of `like` from `raw_body`.

    Raises:
      FederatedError: a body of another size.
    """
    expected = sum(4 * tensor.size for tensor in like)
    if len(body) != expected:
        raise FederatedError(f"{peer} sent {len(body)} bytes of weights; expected {expected}")
    flat, tensors, at = np.frombuffer(body, "<f4"), [], 0
    for tensor in like:
        tensors.append(flat[at : at + tensor.size].reshape(tensor.shape))
        at += tensor.size
    return tensors


def in_two_parts(tensors: Sequence[np.ndarray], bits: int) -> tuple[Coded, Coded]:
    """Base of `bits` bits, and the update that leads from it to the bit (P2U).

    Tensors that are not quantized (biases, statistics) are exact in the base already.
    """
    staged = [encode_tensor(tensor, (bits, EXACT)) for tensor in tensors]
    return (
        _coded([payloads[0] for payloads in staged]),
        _coded([payloads[1] if len(payloads) > 1 else None for payloads in staged]),
    )


def in_few_bits(tensors: Sequence[np.ndarray], bits: int) -> Coded:
    """Codes of `bits` bits; what is not quantized stays exact."""
    return _coded([encode_tensor(tensor, (bits,))[0] for tensor in tensors])


def difference_in_two_parts(
    tensors: Sequence[np.ndarray], previous: Sequence[np.ndarray], bits: int
) -> tuple[Coded, Coded]:
    """As `in_two_parts`, for who has earlier weights to the bit.

    The base holds the difference to them in a few bits; the update leads from `previous` plus
    what the base decodes to (`added`, one float32 addition each) to the bit (`joined`).
    """
    base = in_few_bits([a - b for a, b in zip(tensors, previous, strict=True)], bits)
    start = added(previous, decoded([base], tensors, "this server"))
    deltas = [encode_delta(a, b) for a, b in zip(tensors, start, strict=True)]
    return base, _coded(deltas)


def added(tensors: Sequence[np.ndarray], differences: Sequence[np.ndarray]) -> Tensors:
    """The sum, tensor by tensor, in float32: the same bits on every machine."""
    return [a + b for a, b in zip(tensors, differences, strict=True)]


def joined(update: Coded, start: Sequence[np.ndarray], peer: str) -> Tensors:
    """The exact tensors that an update of `difference_in_two_parts` leads to.

    Args:
      update: the second part.
      start: where it begins: previous weights plus the decoded base.
      peer: who sent it.

    Raises:
      FederatedError: damaged, or of another start.
    """
    payloads = _payloads(update, len(start), peer)
    return [
        _tensor([payloads[index]], begin, begin, f"tensor {index} from {peer}")
        for index, begin in enumerate(start)
    ]


def delta_bytes(tensors: Sequence[np.ndarray], previous: Sequence[np.ndarray]) -> int:
    """Bytes that an exact delta from earlier weights would take, framing left out."""
    deltas = [encode_delta(*pair) for pair in zip(tensors, previous, strict=True)]
    return sum(delta.byte_count for delta in deltas if delta is not None)


def decoded(parts: Sequence[Coded], like: Sequence[np.ndarray], peer: str) -> Tensors:
    """Tensors from a base, or from a base and its update.

    Args:
      parts: what `in_few_bits` made, or one or both parts of `in_two_parts`.
      like: tensors of the shapes and types that must come out.
      peer: who sent it.

    Raises:
      FederatedError: damaged, or not of these tensors.
    """
    payloads = [_payloads(part, len(like), peer) for part in parts]
    return [
        _tensor([stage[index] for stage in payloads], expected, None, f"tensor {index} from {peer}")
        for index, expected in enumerate(like)
    ]


def coded_of(fields: Mapping[str, Any], body: bytes, peer: str) -> Coded:
    """The coded tensors in a message's field `tensors` and body; raises FederatedError."""
    headers = fields.get("tensors")
    if not isinstance(headers, list):
        raise FederatedError(f"{peer} sent tensors {headers!r}; expected a list of headers")
    return headers, body


def _tensor(
    chain: Sequence[StagePayload | None],
    like: np.ndarray,
    previous: np.ndarray | None,
    where: str,
) -> np.ndarray:
    """One tensor of the shape and type of `like`; raises FederatedError."""
    payloads = [payload for payload in chain if payload is not None]
    try:
        tensor = decode_tensor(payloads, previous=previous, max_bytes=like.nbytes)
    except PrecisionError as error:
        raise FederatedError(f"{where}: {error}") from error
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise FederatedError(
            f"{where} is {tensor.dtype}{list(tensor.shape)}; expected "
            f"{like.dtype}{list(like.shape)}"
        )
    return tensor


def _coded(payloads: Sequence[StagePayload | None]) -> Coded:
    headers = [None if payload is None else dict(payload.header) for payload in payloads]
    return headers, b"".join(bytes(payload.data) for payload in payloads if payload is not None)


def _payloads(part: Coded, count: int, peer: str) -> list[StagePayload | None]:
    headers, body = part
    if len(headers) != count:
        raise FederatedError(f"{peer} sent {len(headers)} tensors; expected {count}")
    payloads: list[StagePayload | None] = []
    at = 0
    for header in headers:
        if header is None:
            payloads.append(None)
            continue
        try:
            check_header(header)
        except PrecisionError as error:
            raise FederatedError(f"tensor {len(payloads)} from {peer}: {error}") from error
        size = sum(stored for _, stored in header["parts"])
        stage = EXACT if is_exact(header) else header["bits"]
        payloads.append(StagePayload(stage, header, body[at : at + size]))
        at += size
    if at != len(body):
        raise FederatedError(f"{peer} sent {len(body)} bytes of tensors where {at} are declared")
    return payloads
