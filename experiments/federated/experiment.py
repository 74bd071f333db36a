"""Federated rounds of several variants, from the same weights, on the same shares."""

import dataclasses
from collections.abc import Callable

from experiments.federated.fleet import Fleet
from experiments.federated.messages import FederatedError
from experiments.federated.server import Round, Server, Variant
from experiments.federated.zipnn_baseline import zipnn_rounds
from pwl_jax.data.augmentation import AugmentationConfig
from pwl_jax.models.registry import pair
from pwl_jax.training.config import DataConfig, RunConfig
from pwl_jax.training.optimizer import OptimizerConfig

VARIANTS = ("p2u", "p2u_delta", "fp32", "zipnn")


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
