"""Federated learning with Progressive Precision Update: real client processes, every byte counted.

  python -m experiments.federated_round [--clients=4] [--rounds=5] [--split=iid|by_class]

A server ships a network to client processes that train it on their share of the data, gathers what
they learnt, and averages (federated averaging, weighted by examples). Variants, from the same
initial weights, with the same shares and batches:

  p2u        down: a base of few bits, on which a client starts to train at once, then the update
             to the exact weights, verified by hash; up: differences in few bits, with error
             feedback
  p2u_delta  from round 2 on, base and update are of the difference to the round before, which
             clients have to the bit: fewer bytes, and a base that is nearly exact
  fp32       float32 both ways
  zipnn      fp32 with every body packed by ZipNN; lossless, so only its bytes are measured

A client that dies, is silent for --timeout seconds or sends what it must not ends the run with one
line that names it; with --allow_lost=N the run goes on without up to N of them, the average then
being over those that answered.

Needs two CPU cores and about a minute. Writes experiments/results/federated_round/<name>.json.
"""

import dataclasses
import shlex
import sys
from collections.abc import Callable

from absl import flags

from experiments.federated import report
from experiments.federated.fleet import Fleet
from experiments.federated.messages import FederatedError
from experiments.federated.server import Round, Server, Variant
from experiments.federated.zipnn_baseline import zipnn_rounds
from experiments.results_file import write_results
from launch import cli
from pwl_jax.data.augmentation import AugmentationConfig
from pwl_jax.models.registry import pair
from pwl_jax.training.config import DataConfig, RunConfig
from pwl_jax.training.optimizer import OptimizerConfig

VARIANTS = ("p2u", "p2u_delta", "fp32", "zipnn")

_PLACES = ("zipnn_python=", "data_dir=")

_CLIENTS = flags.DEFINE_integer("clients", 4, "Client processes.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds of each variant.", lower_bound=1)
_LOCAL_EPOCHS = flags.DEFINE_integer(
    "local_epochs", 2, "Passes of a client over its examples in a round.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Examples a local step.", lower_bound=1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 3e-3, "Of the clients' AdamW.")
_SPLIT = flags.DEFINE_enum(
    "split", "iid", ["iid", "by_class"], "How examples are dealt: at random, or sorted by class."
)
_DATA = flags.DEFINE_string("data", "digits", "digits, or a set that TFDS prepared: cifar10.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS prepared it.")
_PAIR = flags.DEFINE_string(
    "pair", None, "Registry name; its teacher is trained. [lenet5_digits for digits, else lenet5]"
)
_BASE_BITS = flags.DEFINE_integer("base_bits", 4, "Of p2u's base.", 2, 8)
_UP_BITS = flags.DEFINE_integer("up_bits", 4, "Of the differences that p2u's clients send.", 2, 8)
_BASE_SHARE = flags.DEFINE_float(
    "base_share", 0.5, "Share of a round's local steps that p2u's clients do on the base.", 0, 1
)
_VARIANTS = flags.DEFINE_multi_enum(
    "variants", list(VARIANTS), list(VARIANTS), "What to compare; zipnn needs fp32."
)
_LINK = flags.DEFINE_float(
    "link_kilobytes", 0, "Speed of each client's link, in 1000 bytes a second; 0 for unlimited.", 0
)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, shares, batches and augmentation.", 0)
_TIMEOUT = flags.DEFINE_float("timeout", 120, "Seconds that a client may take to answer.", 1)
_ALLOW_LOST = flags.DEFINE_integer(
    "allow_lost", 0, "Clients that may die, fall silent or send garbage before the run ends.", 0
)
_ZIPNN_PYTHON = flags.DEFINE_string(
    "zipnn_python", None, "An interpreter that has zipnn; by default this one is tried."
)
_NAME = flags.DEFINE_string("name", "default", "Of the results file.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is compared.

    Attributes:
      config: of the network, its data and the clients' optimizer.
      clients, rounds, local_epochs, split: see the flags.
      base_bits, up_bits, base_share: of p2u.
      variants: of `VARIANTS`.
      bytes_per_second: of each client's link; None for unlimited.
      timeout: seconds that a client may take to answer.
      allow_lost: clients that may be lost.
      zipnn_python: an interpreter that has zipnn, or None.
    """

    config: RunConfig
    clients: int = 4
    rounds: int = 5
    local_epochs: int = 2
    split: str = "iid"
    base_bits: int = 4
    up_bits: int = 4
    base_share: float = 0.5
    variants: tuple[str, ...] = VARIANTS
    bytes_per_second: float | None = None
    timeout: float = 120.0
    allow_lost: int = 0
    zipnn_python: str | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was found.

    Attributes:
      rounds: of each variant, by its name.
      notes: lines for the reader: clients lost, a column left out.
      zipnn: its version; None where it was not measured.
    """

    rounds: dict[str, list[Round]]
    notes: list[str]
    zipnn: str | None = None


def network_config(
    data: str,
    data_dir: str | None = None,
    pair_name: str | None = None,
    *,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> RunConfig:
    """The config of the network that is trained; raises UserError where names are unknown."""
    name = pair_name or ("lenet5_digits" if data == "digits" else "lenet5")
    return RunConfig(
        task="teacher",
        pair=pair(name),
        data=DataConfig(name=data, data_dir=data_dir, validation_fraction=0.0),
        augmentation=AugmentationConfig(crop_padding=-1, flip=data != "digits"),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=learning_rate, weight_decay=1e-2, schedule="constant"
        ),
        batch_size=batch_size,
        epochs=1,
        seed=seed,
    )


def run(experiment: Experiment, say: Callable[[str], None] = print) -> Outcome:
    """Runs every variant with one fleet of clients.

    Args:
      experiment: what to compare.
      say: where progress goes.

    Raises:
      UserError: settings that do not fit, or more clients lost than allowed.
    """
    if "zipnn" in experiment.variants and "fp32" not in experiment.variants:
        raise FederatedError("zipnn repeats the rounds of fp32; expected fp32 among the variants")
    bits = (experiment.base_bits, experiment.up_bits, experiment.base_share)
    planned = [
        Variant("p2u", *bits),
        Variant("p2u_delta", *bits, of_difference=True),
        Variant("fp32"),
    ]
    found: dict[str, list[Round]] = {}
    notes = []
    with Fleet(
        experiment.clients,
        timeout=experiment.timeout,
        allow_lost=experiment.allow_lost,
        bytes_per_second=experiment.bytes_per_second,
    ) as fleet:
        pids = ", ".join(str(client.process.pid) for client in fleet.clients)
        say(f"{experiment.clients} client processes: {pids}")
        server = Server(experiment.config, fleet, experiment.split, experiment.local_epochs)
        for variant in planned:
            if variant.name in experiment.variants:
                found[variant.name] = server.run(variant, experiment.rounds, say)
        server.stop()
        notes += [f"lost: {why}" for why in fleet.lost]
    zipnn = None
    if "zipnn" in experiment.variants:
        packed, note = zipnn_rounds(found["fp32"], experiment.zipnn_python)
        if packed is None:
            notes.append(f"zipnn is left out: {note}")
        else:
            found["zipnn"], zipnn = packed, note
            notes.append(f"zipnn {note}: bytes measured on the tensors of fp32")
    return Outcome(found, notes, zipnn)


def main() -> None:
    """Runs the command from its flags."""
    config = network_config(
        _DATA.value,
        _DATA_DIR.value,
        _PAIR.value,
        batch_size=_BATCH_SIZE.value,
        learning_rate=_LEARNING_RATE.value,
        seed=_SEED.value,
    )
    experiment = Experiment(
        config=config,
        clients=_CLIENTS.value,
        rounds=_ROUNDS.value,
        local_epochs=_LOCAL_EPOCHS.value,
        split=_SPLIT.value,
        base_bits=_BASE_BITS.value,
        up_bits=_UP_BITS.value,
        base_share=_BASE_SHARE.value,
        variants=tuple(_VARIANTS.value),
        bytes_per_second=1000 * _LINK.value or None,
        timeout=_TIMEOUT.value,
        allow_lost=_ALLOW_LOST.value,
        zipnn_python=_ZIPNN_PYTHON.value,
    )
    outcome = run(experiment, lambda line: print(line, flush=True))
    print(f"\n{report.table(outcome.rounds)}\n")
    for line in [*outcome.notes, *report.summary(outcome.rounds)]:
        print(line)
    # Where things lie on this machine is nobody else's.
    given = [flag for flag in sys.argv[1:] if not flag.lstrip("-").startswith(_PLACES)]
    path = write_results(
        "federated_round",
        _NAME.value,
        report.rows(outcome.rounds),
        more={"zipnn": outcome.zipnn} if outcome.zipnn else None,
        command=shlex.join(["python", "-m", "experiments.federated_round", *given]),
    )
    print(f"results: {path}")


if __name__ == "__main__":
    cli.run(main)
