"""What a training run is: plain data, complete, as `config.json` in its workdir."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pwl_jax.data.augmentation import AugmentationConfig
from pwl_jax.errors import UserError
from pwl_jax.models.registry import PairSpec, pair
from pwl_jax.training.objective import Objective
from pwl_jax.training.optimizer import OptimizerConfig

CHANGEABLE = (
    "optimizer.",
    "objective.",
    "augmentation.",
    "data.data_dir:",
    "sync_batch_norm:",
    "accumulate_steps:",
    "remat:",
    "feeding:",
    "steps_per_dispatch:",
    "calibration_examples:",
    "calibration_over:",
    "checkpoint_every_steps:",
    "eval_batch_size:",
    "eval_every_epochs:",
)
"""How the lines of `differences` begin that a run may change where it resumes: all but what decides
the networks, their first weights, the order of the examples and the length of the schedule."""


class ConfigError(UserError):
    """A config with an unknown, missing or impossible value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images.

    Attributes:
      name: `digits`, `multi_digits`, `folder:<any name>`, or a set of labelled images that TFDS
        prepared. Whether an image has one label or several is the set's own.
      data_dir: where TFDS prepared it, None for TFDS's own default; or the folder.
      validation_fraction: share of the training split kept for every choice that is made.
      mean, std: of each channel in 0..1, by which images are normalised: what an imported teacher
        was trained with. None for the set's own (see `sources.preprocessing`).
    """

    name: str
    data_dir: str | None = None
    validation_fraction: float = 0.1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ConfigError("data.mean and data.std belong together; expected both or neither")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, list | tuple) or not all(
                isinstance(number, int | float) for number in value
            ):
                raise ConfigError(f"data.{name} is {value!r}; expected a number for each channel")
            object.__setattr__(self, name, tuple(map(float, value)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run, of a teacher, a student alone, or a distillation.

    Attributes:
      task: `teacher` and `student` train that network of the pair by itself; `distill` trains
        student and converters under the frozen teacher.
      pair: complete spec of both networks.
      data, augmentation, optimizer: see there.
      objective: of `distill`.
      batch_size: examples a step over all devices.
      epochs: passes over the training split without its validation part.
      seed: of initial values, order of examples, augmentation and drawn compositions.
      sync_batch_norm: batch moments over all devices instead of each device's own.
      accumulate_steps: parts a batch is computed in, one after the other, before the weights
        move once. BatchNorm normalises each by itself (see `step.per_device_step`).
      remat: whether the backward pass computes a block's inner values anew: less memory, about
        a third more work.
      feeding: `grain` sends every batch from the host, read and placed ahead; `device` keeps the
        whole split on each device, as bytes, and sends places in it. Both train alike.
      steps_per_dispatch: of `device`, most steps that one call to the devices does. Evaluations,
        checkpoints and stops fall between dispatches, which end early for them. Best left at 1 on
        CPU, where XLA's gradients of convolutions are slow inside a loop.
      converter_init: `random`, or `least_squares` from the features of a calibration batch.
      student_init: the student's blocks at random, or `teacher_layers`: copies of layers of the
        teacher's blocks, where both have layers of the same shapes.
      student_init_layer: which layers of a teacher's block these are: `first`, `last`, or the
        number of the first one that is taken, from 0.
      calibration_examples: training images by which BatchNorm statistics are measured anew for
        every stream before a result is evaluated or saved; 0 keeps the running averages.
      calibration_over: which compositions a stream is measured in: the `prefixes`, so that these
        are at their best, or the mean over `all` that enter it, for training in any order.
      eval_every_epochs: how often prefixes are evaluated on the validation split.
      checkpoint_every_steps: how often all that resuming needs is saved; 0 for once an epoch.
      eval_batch_size: examples an evaluation step.
    """

    task: Literal["teacher", "student", "distill"]
    pair: PairSpec
    data: DataConfig
    augmentation: AugmentationConfig = AugmentationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    objective: Objective = Objective()
    batch_size: int = 128
    epochs: int = 160
    seed: int = 0
    sync_batch_norm: bool = True
    accumulate_steps: int = 1
    remat: bool = False
    feeding: Literal["grain", "device"] = "grain"
    steps_per_dispatch: int = 1
    converter_init: Literal["random", "least_squares"] = "random"
    student_init: Literal["random", "teacher_layers"] = "random"
    student_init_layer: str = "first"
    calibration_examples: int = 10_000
    calibration_over: Literal["prefixes", "all"] = "prefixes"
    eval_every_epochs: int = 1
    checkpoint_every_steps: int = 0
    eval_batch_size: int = 256

    def __post_init__(self) -> None:
        if self.task not in ("teacher", "student", "distill"):
            raise ConfigError(f"task is '{self.task}'; expected teacher, student or distill")
        for name in (
            "batch_size",
            "epochs",
            "accumulate_steps",
            "steps_per_dispatch",
            "eval_every_epochs",
            "eval_batch_size",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.feeding not in ("grain", "device"):
            raise ConfigError(f"feeding is '{self.feeding}'; expected grain or device")
        if self.feeding == "grain" and self.steps_per_dispatch > 1:
            raise ConfigError(
                f"steps_per_dispatch is {self.steps_per_dispatch}, which takes feeding=device; "
                "with grain it is 1"
            )
        if self.converter_init not in ("random", "least_squares"):
            raise ConfigError(
                f"converter_init is '{self.converter_init}'; expected random or least_squares"
            )
        if self.calibration_over not in ("prefixes", "all"):
            raise ConfigError(
                f"calibration_over is '{self.calibration_over}'; expected prefixes or all"
            )
        if self.student_init not in ("random", "teacher_layers"):
            raise ConfigError(
                f"student_init is '{self.student_init}'; expected random or teacher_layers"
            )
        layer = self.student_init_layer
        if layer not in ("first", "last") and not (layer.isascii() and layer.isdigit()):
            raise ConfigError(
                f"student_init_layer is '{layer}'; expected first, last or a number from 0"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data, the pair as its complete spec."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            name: value.to_dict()
            if isinstance(value, PairSpec)
            else dataclasses.asdict(value)
            if dataclasses.is_dataclass(value) and not isinstance(value, type)
            else value
            for name, value in fields.items()
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "RunConfig":
        """The config that `to_dict` wrote; raises ConfigError naming an unknown key."""
        fields = dict(data)
        sections = {
            "data": DataConfig,
            "augmentation": AugmentationConfig,
            "optimizer": OptimizerConfig,
            "objective": Objective,
        }
        for name, cls in sections.items():
            if name in fields:
                fields[name] = from_fields(cls, fields[name], name)
        if "pair" in fields:
            if not isinstance(fields["pair"], Mapping):
                raise ConfigError(f"pair is {fields['pair']!r}; expected a complete spec")
            fields["pair"] = PairSpec.from_dict(fields["pair"])
        return from_fields(RunConfig, fields, "config")


def run_config(config: Any, task: str) -> RunConfig:
    """The run that a config file describes.

    Args:
      config: an `ml_collections.ConfigDict` or mapping with `pair` (a registry name or a complete
        spec), optional `pair_overrides`, `data`, fields common to both runs, and the sections
        `teacher` and `distill` with the fields of their own.
      task: `teacher`, `student` or `distill`. A student alone is trained as the teacher is.
    """
    fields = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    sections = {name: dict(fields.pop(name, {})) for name in ("teacher", "distill")}
    own = sections["distill" if task == "distill" else "teacher"]
    overrides = fields.pop("pair_overrides", {})
    spec = fields.get("pair")
    if isinstance(spec, str):
        fields["pair"] = pair(spec, **overrides).to_dict()
    elif overrides:
        raise ConfigError("pair_overrides needs a registry name as pair, not a complete spec")
    return RunConfig.from_dict({**fields, **own, "task": task})


T = TypeVar("T")


def from_fields(cls: type[T], fields: Mapping[str, Any], where: str) -> T:
    """`cls(**fields)` with one clear ConfigError for an unknown key, a missing one or a type."""
    if not isinstance(fields, Mapping):
        raise ConfigError(f"{where} is {fields!r}; expected its fields by name")
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for name, value in fields.items():
        if name not in known:
            raise ConfigError(f"unknown key '{name}' in {where}; it has {', '.join(known)}")
        hint = hints[name]
        number = hint in (int, float) and isinstance(value, int | float)
        if hint in (int, float, str, bool) and not (
            isinstance(value, hint) or (number and not isinstance(value, bool) and hint is float)
        ):
            raise ConfigError(
                f"{where}.{name} is {value!r}; expected a value of type {hint.__name__}"
            )
    for name, field in known.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in fields:
            raise ConfigError(f"missing key '{name}' in {where}")
    return cls(**fields)


def differences(ours: RunConfig, theirs: RunConfig) -> list[str]:
    """Lines that name each field in which two configs differ, as `field: ours, theirs`."""

    def flat(data: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(data, dict):
            return {prefix: data}
        return {k: v for n, d in data.items() for k, v in flat(d, f"{prefix}.{n}").items()}

    a, b = flat(ours.to_dict(), "config"), flat(theirs.to_dict(), "config")
    return [
        f"{name.removeprefix('config.')}: {a.get(name)!r}, there {b.get(name)!r}"
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]
