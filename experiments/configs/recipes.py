"""What the configs share: the PyTorch baseline's recipe, one for digits, one for many labels."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict, config_dict

from experiments import objectives
from pwl_jax.data.augmentation import AugmentationConfig
from pwl_jax.models import PairSpec
from pwl_jax.training.config import RunConfig
from pwl_jax.training.objective import Objective
from pwl_jax.training.optimizer import OptimizerConfig
from pwl_jax.training.workdir import read_config

LARGE_IMAGES = {"stem_kernel": 7, "stem_stride": 2, "stem_pool": True}
"""Fields of a ResNet whose images are large: the stem of the ImageNet networks."""

SMALL_EPOCHS = {"lenet5": (12, 8), "vgg": (8, 4), "resnet": (12, 4), "vit": (10, 3)}
"""Of the small pairs' teachers and distillations: minutes on two CPU cores."""

_COMMON = ("task", "pair", "data", "augmentation", "batch_size", "seed")


def _section(optimizer: OptimizerConfig, objective: Objective, **fields: Any) -> dict[str, Any]:
    """Every field that a run has of its own, so that each can be set on the command line."""
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(RunConfig)
        if field.name not in _COMMON
    }
    own = {
        "optimizer": dataclasses.asdict(optimizer),
        "objective": dataclasses.asdict(objective),
        **fields,
    }
    return defaults | own


def _augmentation(**fields: Any) -> dict[str, Any]:
    """Every field, so that each can be set on the command line."""
    return dataclasses.asdict(AugmentationConfig(**fields))


def _config(**fields: Any) -> ConfigDict:
    config = ConfigDict(fields)
    config.data.data_dir = config_dict.placeholder(str)
    config.data.mean = config_dict.placeholder(tuple)
    config.data.std = config_dict.placeholder(tuple)
    return config


def baseline(pair: str, data: str, variant: str) -> ConfigDict:
    """The baseline's published recipe.

    Args:
      pair: registry name.
      data: `cifar10` or `cifar100`.
      variant: empty, or `runlocal` for a run of seconds on digits that only shows that it works.
    """
    if variant == "runlocal":
        return digits(f"{pair}_digits", teacher_epochs=2, distill_epochs=2)
    if variant:
        raise ValueError(f"unknown variant '{variant}'; expected none or runlocal")
    # Small images lie on the devices; the ViT's, enlarged, would take gigabytes there.
    resident = {} if pair == "vit" else {"feeding": "device", "steps_per_dispatch": 10}
    optimizer = OptimizerConfig(
        name="sgd",
        learning_rate=0.05,
        momentum=0.9,
        weight_decay=5e-4,
        converter_rate=0.2,
        clip_norm=1.0,
    )
    return _config(
        pair=pair,
        pair_overrides={"classes": {"cifar10": 10, "cifar100": 100}[data]},
        data={"name": data, "validation_fraction": 0.1},
        augmentation=_augmentation(rotation=15.0, flip=True, crop_padding=-1),
        batch_size=128,
        seed=0,
        teacher=_section(optimizer, Objective(), epochs=160, **resident),
        distill=_section(
            optimizer, Objective(cross="all", align_streams=True), epochs=160, **resident
        ),
    )


def small(family: str, data: str, variant: str) -> ConfigDict:
    """A small pair for two CPU cores: the same losses on the same images, a budget of minutes.

    Args:
      family: `lenet5`, `vgg`, `resnet` or `vit`.
      data: `cifar10` or `cifar100`.
      variant: empty, `runlocal` for digits in seconds, or a name of `objectives.OBJECTIVES`.
    """
    if variant == "runlocal":
        return digits(f"{family}_digits", teacher_epochs=2, distill_epochs=2)
    # The baseline's clipping at 1 would scale down every step of a loss of several terms.
    optimizer = OptimizerConfig(learning_rate=0.05, clip_norm=5.0)
    if family == "vit":
        optimizer = OptimizerConfig(
            name="adamw",
            learning_rate=2e-3,
            weight_decay=5e-2,
            converter_rate=1.0,
            clip_norm=1.0,
            warmup_steps=200,
        )
    teacher_epochs, distill_epochs = SMALL_EPOCHS[family]
    common = {"feeding": "device", "eval_every_epochs": 2}
    config = _config(
        pair="lenet5" if family == "lenet5" else f"{family}_small",
        pair_overrides={
            "classes": {"cifar10": 10, "cifar100": 100}[data],
            "statistics": "per_stream",
        },
        data={"name": data, "validation_fraction": 0.1},
        augmentation=_augmentation(flip=True, crop_padding=-1),
        batch_size=128,
        seed=0,
        teacher=_section(optimizer, Objective(), epochs=teacher_epochs, **common),
        distill=_section(
            # Converters as quick as all else: the baseline's rate of a fifth is for long runs.
            dataclasses.replace(optimizer, converter_rate=1.0),
            Objective(),
            epochs=distill_epochs,
            **common,
        ),
    )
    return with_objective(config, variant or "ours")


def with_objective(config: ConfigDict, name: str) -> ConfigDict:
    """A config that had no objective yet, with one of `objectives.OBJECTIVES`; it is changed.

    Raises:
      ValueError: there is none of this name.
    """
    if name not in objectives.OBJECTIVES:
        known = ", ".join(("runlocal", *objectives.OBJECTIVES))
        raise ValueError(f"unknown variant '{name}'; expected one of {known}")
    fields = {
        "pair.statistics": "per_stream",
        "converter_init": "random",
        "calibration_over": "prefixes",
        **objectives.OBJECTIVES[name],
    }
    weights = objectives.WEIGHTS.get(config.pair, {}).get(fields.pop("weights", ""), {})
    config.distill.objective.update({**weights, **fields.pop("objective", {})})
    for field, value in fields.items():
        section = config.pair_overrides if field.startswith("pair.") else config.distill
        section[field.removeprefix("pair.")] = value
    return config


def imagenet(pair: str, variant: str) -> ConfigDict:
    """ImageNet at 224x224 for accelerators; here only ever run dry.

    Args:
      pair: registry name.
      variant: empty, or `runlocal` for a run of seconds on digits.
    """
    if variant == "runlocal":
        return digits(f"{pair}_digits", teacher_epochs=2, distill_epochs=2)
    if variant:
        raise ValueError(f"unknown variant '{variant}'; expected none or runlocal")
    optimizer = OptimizerConfig(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=5e-2,
        decay_norms_and_biases=False,
        clip_norm=1.0,
        warmup_steps=10_000,
    )
    stem = LARGE_IMAGES if pair == "resnet" else {}
    return _config(
        pair=pair,
        pair_overrides={"classes": 1000, "input_shape": (224, 224, 3), **stem},
        data={"name": "imagenet2012", "validation_fraction": 0.01},
        augmentation=_augmentation(flip=True, resized_crop=0.25),
        batch_size=1024,
        seed=0,
        teacher=_section(optimizer, Objective(), epochs=90),
        distill=_section(optimizer, Objective(), epochs=90, converter_init="least_squares"),
    )


def digits(
    pair: str | PairSpec, teacher_epochs: int, distill_epochs: int, distill_rate: float = 3e-3
) -> ConfigDict:
    """Seconds on two CPU cores: scikit-learn's digits, AdamW, small crops.

    Args:
      pair: registry name, or a complete pair of ten classes.
      teacher_epochs, distill_epochs: budgets.
      distill_rate: peak learning rate of the distillation.
    """
    optimizer = OptimizerConfig(
        name="adamw", learning_rate=3e-3, weight_decay=1e-2, warmup_steps=20
    )
    named = {"pair": pair, "pair_overrides": {"classes": 10}}
    return _config(
        **({"pair": pair.to_dict()} if isinstance(pair, PairSpec) else named),
        data={"name": "digits", "validation_fraction": 0.1},
        augmentation=_augmentation(crop_padding=-1),
        batch_size=64,
        seed=0,
        teacher=_section(
            optimizer,
            Objective(),
            epochs=teacher_epochs,
            eval_every_epochs=5,
            eval_batch_size=128,
        ),
        distill=_section(
            dataclasses.replace(optimizer, learning_rate=distill_rate, converter_rate=1.0),
            # Feature terms at a tenth: at full weight they take these tiny students' capacity
            # from the logits (BUILD_NOTES).
            Objective(w_sync=0.1, w_recon=0.1, w_align=0.1),
            epochs=distill_epochs,
            eval_every_epochs=10,
            eval_batch_size=128,
            converter_init="least_squares",
            calibration_examples=1_024,
        ),
    )


def imported(workdir: str) -> ConfigDict:
    """Fine-tuning and distillation of a workdir's teacher, with its pair, data and normalisation.

    Args:
      workdir: as launch.import_teacher or launch.import_baseline leaves it.
    """
    run = read_config(workdir)
    optimizer = OptimizerConfig(name="adamw", learning_rate=1e-3, weight_decay=5e-2)
    config = _config(
        pair=run.pair.to_dict(),
        data=dataclasses.asdict(run.data),
        augmentation=_augmentation(flip=True, crop_padding=-1),
        batch_size=128,
        seed=0,
        teacher=_section(
            dataclasses.replace(optimizer, learning_rate=5e-5), Objective(), epochs=10
        ),
        distill=_section(
            optimizer, Objective(cross="all"), epochs=100, student_init="teacher_layers"
        ),
    )
    config.data.mean, config.data.std = run.data.mean, run.data.std
    return config


def multi_label(
    pair: str,
    data: str,
    overrides: dict[str, Any],
    epochs: int,
    batch_size: int = 64,
    flip: bool = False,
    learning_rate: float = 3e-3,
) -> ConfigDict:
    """One network by itself on images of several labels: AdamW, small crops, no distillation.

    Args:
      pair: registry name; `--network` says which of its networks is trained.
      data: name of the set.
      overrides: fields of both networks, `classes` among them.
      epochs: budget.
      batch_size: examples a step.
      flip: whether images may be mirrored.
      learning_rate: peak.
    """
    optimizer = OptimizerConfig(
        name="adamw", learning_rate=learning_rate, weight_decay=1e-2, warmup_steps=100
    )
    return _config(
        pair=pair,
        pair_overrides=overrides,
        data={"name": data, "validation_fraction": 0.1},
        augmentation=_augmentation(flip=flip, crop_padding=-1),
        batch_size=batch_size,
        seed=0,
        teacher=_section(
            optimizer, Objective(), epochs=epochs, eval_every_epochs=max(epochs // 10, 1)
        ),
    )
