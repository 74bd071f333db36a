"""A client process: `python -m experiments.federated.client FD`, FD being its socket.

In a round of P2U a client trains its first steps from the base, while the update is still
arriving, and then adds to its weights what the update brings: `w += exact - base`. What the steps
on the base have learnt is kept, the error of the base is taken away, and the optimizer's state
stays. From there on, and without P2U, it trains as any client does, and answers with the difference
of its weights to the exact ones of the round. What the few bits of that answer lose is kept here
and added to the next one (error feedback).
"""

import queue
import socket
import sys
import threading
import time

import numpy as np

from experiments.federated import weights
from experiments.federated.local_training import LocalSettings, LocalTrainer
from experiments.federated.messages import Connection, FederatedError, Message
from pwl_jax.errors import UserError

SERVER = "the server"


class Inbox:
    """Messages as they arrive, read by a thread of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._arrived: queue.Queue[Message | FederatedError] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def get(self, timeout: float | None = None) -> Message:
        """The next message; raises FederatedError where there is none within `timeout` seconds."""
        try:
            arrived = self._arrived.get(timeout=timeout)
        except queue.Empty:
            raise FederatedError(f"{SERVER} sent no update within {timeout:g} s") from None
        if isinstance(arrived, FederatedError):
            raise arrived
        return arrived

    def empty(self) -> bool:
        """Whether nothing has arrived that was not taken."""
        return self._arrived.empty()

    def _read(self) -> None:
        try:
            while True:
                self._arrived.put(self._connection.receive(None))
        except FederatedError as error:
            self._arrived.put(error)


class Client:
    """One client over all its rounds."""

    def __init__(self, trainer: LocalTrainer, inbox: Inbox, timeout: float) -> None:
        self._trainer = trainer
        self._inbox = inbox
        self._timeout = timeout
        self._exact: weights.Tensors | None = None
        self._lost = [np.zeros_like(tensor) for tensor in trainer.like]

    def answer(self, message: Message) -> Message:
        """The answer to a round's first message, after local training.

        Raises:
          FederatedError: damaged weights, or an update that does not lead to the exact ones.
        """
        if message.kind not in ("base", "weights"):
            raise FederatedError(f"{SERVER} sent '{message.kind}'; expected base or weights")
        number, bits = message.fields["round"], message.fields["up_bits"]
        if number == 1:
            self._lost = [np.zeros_like(tensor) for tensor in self._trainer.like]
        begun = time.monotonic()
        facts = {"round": number, "examples": self._trainer.examples}
        if message.kind == "base":
            exact = self._from_base(message, facts)
        else:
            exact = weights.raw_tensors(message.body, self._trainer.like, SERVER)
            _verify(exact, message)
            self._trainer.begin(exact, number)
        self._trainer.finish()
        facts["start_sha256"] = weights.model_sha256(exact)
        self._exact = exact
        trained = self._trainer.tensors()
        difference = [after - before for after, before in zip(trained, exact, strict=True)]
        facts["seconds"] = round(time.monotonic() - begun, 4)
        if bits is None:
            return Message("difference", facts, weights.raw_body(difference))
        wanted = [new + lost for new, lost in zip(difference, self._lost, strict=True)]
        coded = weights.in_few_bits(wanted, bits)
        arriving = weights.decoded([coded], self._trainer.like, "this client")
        self._lost = [a - b for a, b in zip(wanted, arriving, strict=True)]
        return Message("difference", {**facts, "tensors": coded[0]}, coded[1])

    def _from_base(self, message: Message, facts: dict) -> weights.Tensors:
        """Trains from the base, joins the update; the exact weights of the round."""
        first = weights.coded_of(message.fields, message.body, SERVER)
        base = weights.decoded([first], self._trainer.like, SERVER)
        of_difference = message.fields["of"] == "difference"
        if of_difference:
            if self._exact is None:
                raise FederatedError(f"{SERVER} sent a difference to weights that never came")
            base = weights.added(self._exact, base)
        self._trainer.begin(base, message.fields["round"])
        on_base = round(self._trainer.steps * message.fields["base_share"])
        self._trainer.advance(on_base)
        self._trainer.tensors()
        facts["steps_on_base"] = on_base
        facts["waited"] = self._inbox.empty()
        update = self._inbox.get(self._timeout)
        if update.kind != "update":
            raise FederatedError(f"{SERVER} sent '{update.kind}' where the update belongs")
        second = weights.coded_of(update.fields, update.body, SERVER)
        if of_difference:
            exact = weights.joined(second, base, SERVER)
        else:
            exact = weights.decoded([first, second], self._trainer.like, SERVER)
        _verify(exact, update)
        self._trainer.move([x - b for x, b in zip(exact, base, strict=True)])
        return exact


def _verify(exact: weights.Tensors, message: Message) -> None:
    found = weights.model_sha256(exact)
    if found != message.fields["sha256"]:
        raise FederatedError(
            f"the weights of round {message.fields['round']} have SHA-256 {found[:12]}..., "
            f"expected {str(message.fields['sha256'])[:12]}..."
        )


def main(descriptor: int) -> int:
    """Serves rounds until the server says stop or is gone; the exit status."""
    connection = Connection(socket.socket(fileno=descriptor), SERVER)
    inbox = Inbox(connection)
    timeout = 60.0
    try:
        join = inbox.get()
        timeout = float(join.fields["timeout"])
        connection.bytes_per_second = join.fields["bytes_per_second"]
        trainer = LocalTrainer(LocalSettings.from_dict(join.fields["settings"]))
        client = Client(trainer, inbox, timeout)
        ready = {"examples": trainer.examples, "steps": trainer.steps}
        connection.send(Message("ready", ready), timeout)
        while (message := inbox.get()).kind != "stop":
            connection.send(client.answer(message), timeout)
    except UserError as error:
        connection.send(Message("error", {"message": str(error)}), timeout)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(int(sys.argv[1])))
    except FederatedError:
        # The server is gone; there is nobody left to tell.
        sys.exit(1)
