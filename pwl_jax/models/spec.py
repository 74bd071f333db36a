"""A network's architecture as plain data: what a config, a checkpoint and a manifest hold."""

import dataclasses
import typing
from typing import Any, ClassVar

import jax.numpy as jnp

from pwl_jax.errors import UserError
from pwl_jax.models.block_network import BlockNetwork

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class SpecError(UserError):
    """An architecture spec that is incomplete, unknown or contradicts itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What every family's spec has; a family adds its widths and depths.

    A subclass names its family (`class VGGSpec(NetworkSpec, family="vgg")`) and builds the
    network; that is all it takes to bring a family of one's own. A family is known by its name
    once the module that defines it is imported; two modules cannot define the same one.

    Attributes:
      input_shape: height, width and channels of an image.
      classes: number of logits.
      dtype: type of the computation; parameters and logits are always float32.
    """

    family: ClassVar[str] = ""
    families: ClassVar[dict[str, type["NetworkSpec"]]] = {}

    input_shape: tuple[int, int, int]
    classes: int
    dtype: str = "float32"

    def __init_subclass__(cls, family: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = NetworkSpec.families.get(family)
        # A module that is loaded again, as in a notebook, replaces what it defined.
        if known and (known.__module__, known.__name__) != (cls.__module__, cls.__name__):
            raise SpecError(f"family '{family}' is defined by {known.__module__} already")
        cls.family = family
        NetworkSpec.families[family] = cls

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        if self.dtype not in DTYPES:
            raise SpecError(f"dtype '{self.dtype}' is unknown; expected one of {', '.join(DTYPES)}")
        shape = self.input_shape
        if not isinstance(shape, tuple) or len(shape) != 3 or not all(map(_is_positive, shape)):
            raise SpecError(
                f"input_shape {self.input_shape} is no image; expected (height, width, channels)"
            )
        if not _is_positive(self.classes):
            raise SpecError(f"classes is {self.classes!r}; expected a whole number, at least 1")

    def build(self, axis_name: str | None = None) -> BlockNetwork:
        """The network as Linen modules.

        Args:
          axis_name: mapped axis over which training-time batch moments are averaged; None keeps
            them per device.
        """
        raise NotImplementedError(f"family '{self.family}' does not build a network")

    @property
    def compute_dtype(self) -> jnp.dtype:
        """The type of activations."""
        return jnp.dtype(DTYPES[self.dtype])

    def to_dict(self) -> dict[str, Any]:
        """The complete spec as JSON-able data, `family` included."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            "family": self.family,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()},
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "NetworkSpec":
        """The spec that `to_dict` wrote; raises SpecError on an unknown or missing key."""
        family = data.get("family")
        if not isinstance(family, str) or family not in NetworkSpec.families:
            raise SpecError(
                f"family '{family}' is unknown; expected one of {', '.join(NetworkSpec.families)}, "
                "or import the module that defines it (--import=my.module)"
            )
        cls = NetworkSpec.families[family]
        return strict_dataclass(cls, {k: v for k, v in data.items() if k != "family"})


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


T = typing.TypeVar("T")


def strict_dataclass(cls: type[T], data: dict[str, Any]) -> T:
    """`cls(**data)` with one clear SpecError where a key is unknown or missing."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    unknown = sorted(set(data) - {f.name for f in fields})
    missing = [
        f.name
        for f in fields
        if f.name not in data
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if unknown or missing:
        problem = f"unknown key '{unknown[0]}'" if unknown else f"missing key '{missing[0]}'"
        raise SpecError(
            f"{problem} for {cls.__name__}; its keys are {', '.join(f.name for f in fields)}"
        )
    return cls(**data)
