"""The server: sends the model out, gathers what the clients learnt, averages, evaluates."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.federated import weights
from experiments.federated.fleet import ClientProcess, Fleet
from experiments.federated.local_training import LocalSettings, task_of
from experiments.federated.messages import FederatedError, Message
from experiments.federated.weights import Tensors
from pwl_jax.data import pipeline, sources
from pwl_jax.training import workdir
from pwl_jax.training.config import RunConfig
from pwl_jax.training.evaluation import fitting_batch
from pwl_jax.training.step import device_mesh, replicate

# Headers of coded tensors and codes that do not compress: never larger than this beside float32.
_SLACK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Variant:
    """How weights travel.

    Attributes:
      name: in reports.
      base_bits: of the codes that are sent first; None sends float32 at once.
      up_bits: of what clients send back; None for float32.
      base_share: of a round's local steps that are done on the base.
      of_difference: from round 2 on, base and update are of the difference to the weights of the
        round before, which every client has to the bit.
    """

    name: str
    base_bits: int | None = None
    up_bits: int | None = None
    base_share: float = 0.0
    of_difference: bool = False


@dataclasses.dataclass(frozen=True)
class Round:
    """What one round took and gave; bytes of whole messages, the mean over the clients.

    Attributes:
      variant: its name.
      number: from 1.
      start_bytes: down to a client until it can start to train.
      down_bytes, up_bytes: in all.
      delta_bytes: what an exact delta from the round before would have taken; None in round 1.
      base_top1: test accuracy of the base that clients start from; None without one.
      top1: test accuracy of the average.
      seconds: from the first byte sent to the last answer.
      waited: clients that had done their steps on the base before the update was there.
      exact: whether every client that answered trained from the server's very bits.
      clients: that answered.
      bodies: raw bodies sent down, then up, where weights travel as float32; else empty.
    """

    variant: str
    number: int
    start_bytes: float
    down_bytes: float
    up_bytes: float
    delta_bytes: int | None
    base_top1: float | None
    top1: float
    seconds: float
    waited: int
    exact: bool
    clients: int
    bodies: tuple[bytes, ...]


class Server:
    """The global model and the fleet.

    Attributes:
      tensors: initial weights, the same for every variant.
      steps: of each client in a round.
    """

    def __init__(self, config: RunConfig, fleet: Fleet, split: str, local_epochs: int) -> None:
        """Makes the initial weights, lets the clients join.

        Raises:
          FederatedError: too many clients are lost.
        """
        self._config = config
        self._fleet = fleet
        self._mesh = device_mesh(jax.devices()[:1])
        self._task = task_of(config, 1)
        initial = self._task.init()
        self._structure = jax.tree.structure(initial)
        self.tensors: Tensors = [np.asarray(leaf) for leaf in jax.tree.leaves(initial)]
        preprocessing = workdir.preprocessing_of(config)
        test = sources.load(config.data.name, "test", config.data.data_dir)
        self._test = pipeline.PreparedSource(test, preprocessing)
        self._max_body = sum(tensor.nbytes for tensor in self.tensors) + _SLACK
        count = len(fleet.clients)

        def join(client: ClientProcess) -> int:
            settings = LocalSettings(
                config=config.to_dict(),
                client=client.number,
                clients=count,
                split=split,
                local_epochs=local_epochs,
            )
            fields = {
                "settings": dataclasses.asdict(settings),
                "timeout": client.timeout,
                "bytes_per_second": client.connection.bytes_per_second,
            }
            client.send(Message("join", fields))
            ready, _ = client.receive("ready", self._max_body)
            return int(ready.fields["steps"])

        # The first one compiles for all.
        steps = fleet.each(join, fleet.clients[:1])
        self.steps = steps | fleet.each(join, [c for c in fleet.clients if c.number not in steps])

    def run(self, variant: Variant, rounds: int, say: Callable[[str], None]) -> list[Round]:
        """All rounds of one variant, from the initial weights.

        Raises:
          FederatedError: too many clients are lost.
        """
        tensors, previous = self.tensors, None
        done = []
        for number in range(1, rounds + 1):
            found, averaged = self._round(variant, number, tensors, previous)
            previous, tensors = tensors, averaged
            done.append(found)
            say(
                f"{variant.name} round {number} of {rounds}: {100 * found.top1:.2f} % after "
                f"{found.seconds:.1f} s"
            )
        return done

    def stop(self) -> None:
        """Lets the clients end by themselves."""
        self._fleet.each(lambda client: client.send(Message("stop", {})))

    def top1(self, tensors: Sequence[np.ndarray]) -> float:
        """Accuracy on the test split, 0..1."""
        variables = replicate(jax.tree.unflatten(self._structure, tensors), self._mesh)
        size = fitting_batch(self._config.eval_batch_size, len(self._test), self._mesh)
        found = self._task.assess(
            variables, lambda: pipeline.eval_batches(self._test, size), lambda: []
        )
        return found.score

    def _round(
        self, variant: Variant, number: int, tensors: Tensors, previous: Tensors | None
    ) -> tuple[Round, Tensors]:
        fields: dict[str, Any] = {"round": number, "up_bits": variant.up_bits}
        sha256 = weights.model_sha256(tensors)
        base_top1: float | None = None
        delta: int | None = None
        if variant.base_bits is None:
            raw = weights.raw_body(tensors)
            messages = [Message("weights", {**fields, "sha256": sha256}, raw)]
        else:
            fields |= {"base_share": variant.base_share, "of": "weights"}
            if variant.of_difference and previous is not None:
                fields["of"] = "difference"
                base, update = weights.difference_in_two_parts(tensors, previous, variant.base_bits)
                start = weights.added(previous, weights.decoded([base], tensors, "this server"))
            else:
                base, update = weights.in_two_parts(tensors, variant.base_bits)
                start = weights.decoded([base], tensors, "this server")
            messages = [
                Message("base", {**fields, "tensors": base[0]}, base[1]),
                Message(
                    "update", {"round": number, "sha256": sha256, "tensors": update[0]}, update[1]
                ),
            ]
            base_top1 = self.top1(start)
            if previous is not None:
                delta = weights.delta_bytes(tensors, previous)

        def talk(client: ClientProcess) -> tuple[list[int], int, Message, Tensors]:
            sent = [client.send(message) for message in messages]
            message, size = client.receive("difference", self._max_body)
            return sent, size, message, self._difference(variant, number, message, client)

        begun = time.monotonic()
        answers = self._fleet.each(talk)
        seconds = time.monotonic() - begun
        facts = [message.fields for _, _, message, _ in answers.values()]
        examples = [int(fact["examples"]) for fact in facts]
        averaged = moved(tensors, examples, [learnt for *_, learnt in answers.values()])
        bodies: tuple[bytes, ...] = ()
        if variant.base_bits is variant.up_bits is None:
            bodies = (messages[0].body, *(message.body for _, _, message, _ in answers.values()))
        found = Round(
            variant=variant.name,
            number=number,
            start_bytes=float(np.mean([sent[0] for sent, *_ in answers.values()])),
            down_bytes=float(np.mean([sum(sent) for sent, *_ in answers.values()])),
            up_bytes=float(np.mean([size for _, size, *_ in answers.values()])),
            delta_bytes=delta,
            base_top1=base_top1,
            top1=self.top1(averaged),
            seconds=seconds,
            waited=sum(bool(fact.get("waited")) for fact in facts),
            exact=all(fact.get("start_sha256") == sha256 for fact in facts),
            clients=len(answers),
            bodies=bodies,
        )
        return found, averaged

    def _difference(
        self, variant: Variant, number: int, message: Message, client: ClientProcess
    ) -> Tensors:
        """What a client learnt; raises FederatedError where it is not of this round or finite."""
        peer, fields = f"client {client.number}", message.fields
        if fields.get("round") != number:
            raise FederatedError(f"{peer} answered round {fields.get('round')!r}, not {number}")
        examples = fields.get("examples")
        if type(examples) is not int or examples < 1:
            raise FederatedError(f"{peer} claims {examples!r} examples; expected 1 or more")
        if variant.up_bits is None:
            learnt = weights.raw_tensors(message.body, self.tensors, peer)
        else:
            coded = weights.coded_of(fields, message.body, peer)
            learnt = weights.decoded([coded], self.tensors, peer)
        if not all(np.isfinite(tensor).all() for tensor in learnt):
            raise FederatedError(f"{peer} sent weights that are not finite")
        return learnt


def moved(tensors: Tensors, examples: Sequence[int], learnt: Sequence[Tensors]) -> Tensors:
    """The weights moved by the mean difference, weighted by examples; summed in float64."""
    total = sum(examples)
    moved = []
    for index, tensor in enumerate(tensors):
        sums: Any = sum(
            count * difference[index].astype(np.float64)
            for count, difference in zip(examples, learnt, strict=True)
        )
        moved.append((tensor + sums / total).astype(np.float32))
    return moved
