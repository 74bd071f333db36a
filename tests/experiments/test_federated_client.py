"""A client by itself: how it uses base and update, and what it keeps of what its bits lose."""

import queue

import numpy as np
import pytest

from experiments.federated import weights
from experiments.federated.client import Client
from experiments.federated.messages import FederatedError, Message
from experiments.federated.server import moved


class Trainer:
    """Each step adds 1/64 to everything: exact in float32 beside small weights."""

    steps, examples = 6, 100

    def __init__(self, like):
        self.like = like
        self.calls = []

    def begin(self, tensors, number):
        self.now, self.left = [t.copy() for t in tensors], self.steps
        self.calls.append(("begin", number))

    def advance(self, steps):
        self.calls.append(("advance", steps))
        self.left -= steps
        self.now = [t + np.float32(steps / 64) for t in self.now]

    def finish(self):
        self.advance(self.left)

    def tensors(self):
        return self.now

    def move(self, differences):
        self.calls.append(("move",))
        self.now = [t + d for t, d in zip(self.now, differences, strict=True)]


class Inbox(queue.Queue):
    def get(self, timeout=None):
        return super().get(block=False)


def model():
    draw = np.random.default_rng(0)
    return [draw.normal(0, 0.1, shape).astype(np.float32) for shape in [(40, 16), (16,)]]


def down(tensors, number=1, up_bits=None, sha256=None):
    base, update = weights.in_two_parts(tensors, 4)
    fields = {"round": number, "up_bits": up_bits, "base_share": 0.5, "of": "weights"}
    digest = sha256 or weights.model_sha256(tensors)
    return (
        Message("base", {**fields, "tensors": base[0]}, base[1]),
        Message("update", {"round": number, "sha256": digest, "tensors": update[0]}, update[1]),
    )


@pytest.fixture
def client():
    inbox = Inbox()
    return Client(Trainer([np.zeros_like(t) for t in model()]), inbox, 1.0), inbox


def test_half_the_steps_are_done_on_the_base_and_their_progress_is_kept(client):
    client, inbox = client
    base, update = down(model())
    inbox.put(update)
    answer = client.answer(base)
    trainer = client._trainer
    assert trainer.calls == [("begin", 1), ("advance", 3), ("move",), ("advance", 3)]
    assert answer.fields["start_sha256"] == weights.model_sha256(model())
    assert answer.fields["steps_on_base"] == 3 and answer.fields["examples"] == 100
    for learnt in weights.raw_tensors(answer.body, trainer.like, "x"):
        # Six steps in all, and nothing of the base's error (up to 0.02); rounding alone is left.
        np.testing.assert_allclose(learnt, 6 / 64, atol=1e-7)


def test_a_difference_leads_from_the_round_before_to_the_exact_weights(client):
    client, inbox = client
    before = model()
    after = [t + np.float32(0.01) * np.sign(t) for t in before]
    base, update = weights.difference_in_two_parts(after, before, 4)
    fields = {"round": 2, "up_bits": None, "base_share": 0.5, "of": "difference"}
    first = Message("base", {**fields, "tensors": base[0]}, base[1])
    facts = {"round": 2, "sha256": weights.model_sha256(after), "tensors": update[0]}
    second = Message("update", facts, update[1])
    with pytest.raises(FederatedError, match="a difference to weights that never came"):
        client.answer(first)
    raw = {"round": 1, "up_bits": None, "sha256": weights.model_sha256(before)}
    client.answer(Message("weights", raw, weights.raw_body(before)))
    inbox.put(second)
    answer = client.answer(first)
    assert answer.fields["start_sha256"] == weights.model_sha256(after)
    for learnt in weights.raw_tensors(answer.body, before, "x"):
        np.testing.assert_allclose(learnt, 6 / 64, atol=1e-7)
    # Its update belongs to that start alone.
    inbox.put(second)
    with pytest.raises(FederatedError, match="belongs to another tensor"):
        client.answer(first)


def test_an_update_to_other_weights_is_refused(client):
    client, inbox = client
    base, update = down(model(), sha256="0" * 64)
    inbox.put(update)
    with pytest.raises(FederatedError, match="expected 000000000000"):
        client.answer(base)
    raw = Message(
        "weights", {"round": 1, "up_bits": None, "sha256": "1" * 64}, weights.raw_body(model())
    )
    with pytest.raises(FederatedError, match="expected 111111111111"):
        client.answer(raw)
    with pytest.raises(FederatedError, match="sent 'update'; expected base or weights"):
        client.answer(update)


def test_what_few_bits_lose_is_sent_in_later_rounds(client):
    client, _ = client
    trainer = client._trainer
    draw = np.random.default_rng(5)
    trained = [[draw.normal(0, 0.1, t.shape).astype(np.float32) for t in model()] for _ in range(8)]
    arrived, single = [np.zeros_like(t) for t in model()], []
    for number, here in enumerate(trained, 1):
        trainer.finish = lambda here=here: setattr(trainer, "now", here)
        zeros = trainer.like
        fields = {"round": number, "up_bits": 3, "sha256": weights.model_sha256(zeros)}
        answer = client.answer(Message("weights", fields, weights.raw_body(zeros)))
        coded = weights.coded_of(answer.fields, answer.body, "x")
        learnt = weights.decoded([coded], zeros, "x")
        single.append(np.abs(learnt[0] - here[0]).mean())
        arrived = [a + b for a, b in zip(arrived, learnt, strict=True)]
    missing = [
        sum(all_of) - a for all_of, a in zip(zip(*trained, strict=True), arrived, strict=True)
    ]
    # The errors of eight rounds do not add up: what is missing is the last round's.
    np.testing.assert_allclose(missing[0], client._lost[0], atol=1e-5)
    assert np.abs(missing[0]).mean() < 2 * np.mean(single)
    assert not client._lost[1].any()
    # A new variant begins without them.
    fields = {"round": 1, "up_bits": 3, "sha256": weights.model_sha256(trainer.like)}
    trainer.finish = lambda: None
    client.answer(Message("weights", fields, weights.raw_body(trainer.like)))
    assert not client._lost[0].any()


def test_the_average_weighs_by_examples():
    start = [np.full((2, 2), 10, np.float32)]
    learnt = [[np.full((2, 2), 1, np.float32)], [np.full((2, 2), -2, np.float32)]]
    assert np.array_equal(moved(start, [30, 10], learnt)[0], np.full((2, 2), 10.25, np.float32))
