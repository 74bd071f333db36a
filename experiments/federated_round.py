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

import shlex
import sys

from absl import flags

from experiments.federated import report
from experiments.federated.experiment import VARIANTS, Experiment, network_config, run
from experiments.results_file import write_results
from launch import cli

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
    path = write_results(
        "federated_round",
        _NAME.value,
        report.rows(outcome.rounds),
        more={"zipnn": outcome.zipnn} if outcome.zipnn else None,
        command=_command(),
    )
    print(f"results: {path}")


def _command() -> str:
    """The command line, without where things lie on this machine."""
    given = [
        flag.serialize()
        for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])
        if flag.present and flag.name not in ("zipnn_python", "data_dir")
    ]
    return shlex.join(["python", "-m", "experiments.federated_round", *given])


if __name__ == "__main__":
    cli.run(main)
