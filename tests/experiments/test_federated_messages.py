"""Messages, weights in them, and shares: what arrives is what was sent, or is refused."""

import contextlib
import socket
import struct
import threading
import time

import numpy as np
import pytest

from experiments.federated import weights
from experiments.federated.messages import (
    MAGIC,
    PREFIX_BYTES,
    Connection,
    FederatedError,
    Message,
    from_bytes,
)
from experiments.federated.shares import shares


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        yield Connection(ours, "client 3"), theirs


def tensors(seed=0):
    draw = np.random.default_rng(seed)
    shapes = [(5, 5, 1, 6), (6,), (40, 30), (30,), ()]
    return [draw.normal(0, 0.1, shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("body", [b"", b"\0", bytes(range(256)) * 400])
def test_a_message_comes_back_as_it_was(body):
    sent = Message("update", {"round": 3, "name": "ä", "tensors": [None, {"a": [1]}]}, body)
    got = from_bytes(sent.to_bytes())
    assert (got.kind, got.fields, got.body) == (sent.kind, sent.fields, sent.body)


def test_a_message_with_any_bit_changed_or_byte_missing_is_refused():
    data = Message("base", {"round": 1}, b"weights").to_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(FederatedError, match="the peer"):
            from_bytes(bytes(changed))
        with pytest.raises(FederatedError, match="the peer"):
            from_bytes(data[:place])
    with pytest.raises(FederatedError, match="bytes where"):
        from_bytes(data + b"\0")


def test_both_ends_count_every_byte(ends):
    ours, theirs = ends
    other = Connection(theirs, "the server")
    message = Message("base", {"round": 1}, b"x" * 100)
    assert ours.send(message, 5) == len(message.to_bytes()) == ours.bytes_sent
    assert other.receive(5).body == message.body
    assert other.bytes_received == ours.bytes_sent > PREFIX_BYTES + 100


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n", "client 3 sent b'GET '"),
        (struct.pack("<4sIQ32s", MAGIC, 10, 1 << 40, b""), "announced a message of 10 and"),
        (struct.pack("<4sIQ32s", MAGIC, 1 << 31, 0, b""), "announced a message of"),
        (Message("x", {}).to_bytes()[:-1] + b"!", "message from client 3 is damaged"),
        (b"", "client 3 closed the connection"),
        (Message("x", {}, b"body").to_bytes()[:-2], "client 3 closed the connection"),
    ],
)
def test_what_is_no_message_is_refused_by_the_name_of_its_sender(ends, sent, says):
    ours, theirs = ends
    theirs.sendall(sent)
    theirs.close()
    with pytest.raises(FederatedError, match=says):
        ours.receive(5, max_body=1000)


def test_silence_and_dripping_bytes_end_at_the_deadline(ends):
    ours, theirs = ends
    begun = time.monotonic()
    with pytest.raises(FederatedError, match=r"no whole message within 0\.3 s"):
        ours.receive(0.3)
    stop = threading.Event()

    def drip():
        for byte in Message("x", {}, b"x" * 1000).to_bytes():
            if stop.wait(0.05):
                return
            theirs.send(bytes([byte]))

    dripping = threading.Thread(target=drip)
    dripping.start()
    with pytest.raises(FederatedError, match="no whole message"):
        ours.receive(0.3)
    stop.set()
    dripping.join()
    assert time.monotonic() - begun < 3


def test_a_peer_that_does_not_read_is_given_up(ends):
    ours, _ = ends
    with pytest.raises(FederatedError, match=r"read nothing for 0\.2 s"):
        ours.send(Message("x", {}, bytes(1 << 22)), 0.2)


def test_a_link_has_its_speed(ends):
    ours, theirs = ends
    ours.bytes_per_second = 200_000
    other = Connection(theirs, "the server")
    begun = time.monotonic()
    ours.send(Message("x", {}, bytes(60_000)), 5)
    assert time.monotonic() - begun >= 0.3
    assert len(other.receive(5).body) == 60_000


def test_base_and_update_give_the_original_bits_and_the_base_alone_comes_near():
    sent = tensors()
    sent[0][0, 0, 0, 0], sent[2][0, 0] = -0.0, np.float32(1e-42)
    base, update = weights.in_two_parts(sent, 4)
    exact = weights.decoded([base, update], sent, "x")
    assert weights.model_sha256(exact) == weights.model_sha256(sent)
    near = weights.decoded([base], sent, "x")
    for one, original in zip(near, sent, strict=True):
        assert np.abs(one - original).max() < 0.06
    assert not np.array_equal(near[2], sent[2])
    assert np.array_equal(near[1], sent[1])
    # A fifth of float32 at most, scales included; what is not quantized is small here.
    assert len(base[1]) < len(weights.raw_body(sent)) / 5
    assert update[0][1] is None


def test_raw_bodies_come_back_and_fit_or_are_refused():
    sent = tensors()
    body = weights.raw_body(sent)
    assert len(body) == sum(tensor.nbytes for tensor in sent)
    back = weights.raw_tensors(body, sent, "x")
    assert all(np.array_equal(a, b) for a, b in zip(back, sent, strict=True))
    with pytest.raises(FederatedError, match="client 2 sent"):
        weights.raw_tensors(body[:-4], sent, "client 2")


def test_coded_tensors_that_are_not_the_expected_ones_are_refused():
    sent = tensors()
    headers, body = weights.in_few_bits(sent, 8)
    for bad, says in [
        ((headers[:-1], body), "sent 4 tensors; expected 5"),
        ((headers, body + b"\0"), "where"),
        ((headers, body[:-1]), "where|bytes"),
        (([{**headers[0], "kind": "pickle"}, *headers[1:]], body), "unknown kind"),
        (([{**headers[0], "shape": [1 << 40, 6]}, *headers[1:]], body), "tensor 0 from client 2"),
        (([headers[1], headers[1], *headers[2:]], body), "client 2"),
        (([None, *headers[1:]], body), "client 2"),
        (([7, *headers[1:]], body), "tensor 0 from client 2"),
    ]:
        with pytest.raises(FederatedError, match=says):
            weights.decoded([bad], sent, "client 2")
    with pytest.raises(FederatedError, match="expected a list"):
        weights.coded_of({"tensors": "all"}, b"", "client 2")
    turned = [*sent[:2], sent[2].T, *sent[3:]]
    with pytest.raises(FederatedError, match=r"float32\[30, 40\]; expected float32\[40, 30\]"):
        weights.decoded([weights.in_few_bits(turned, 8)], sent, "client 2")
    with pytest.raises(FederatedError, match=r"expected float32\[40, 30\]"):
        weights.joined(weights.in_few_bits(turned, 8), sent, "client 2")
    base, _ = weights.in_two_parts(sent, 4)
    _, other = weights.in_two_parts(tensors(1), 4)
    with pytest.raises(FederatedError, match="another base"):
        weights.decoded([base, other], sent, "client 2")


@pytest.mark.parametrize("split", ["iid", "by_class"])
def test_shares_are_disjoint_complete_and_even(split):
    labels = np.tile(np.arange(10), 101)
    dealt = shares(len(labels), lambda: labels, 4, split, seed=1)
    assert sorted(np.concatenate(dealt)) == list(range(1010))
    assert {len(share) for share in dealt} == {252, 253}
    classes = [len(set(labels[share])) for share in dealt]
    assert max(classes) <= 4 if split == "by_class" else min(classes) == 10


def test_an_unknown_split_or_too_many_clients_are_refused():
    with pytest.raises(FederatedError, match="split 'sorted' is unknown; expected iid, by_class"):
        shares(4, lambda: np.zeros(4, int), 2, "sorted", 0)
    with pytest.raises(FederatedError, match="5 clients for 4 examples"):
        shares(4, lambda: np.zeros(4, int), 5, "iid", 0)
