"""The flags that say how tensors become codes."""

from typing import Any

from absl import flags

from pwl_jax.ladder import Bits, parse_bits
from pwl_jax.precision import Quantization

_BITS = flags.DEFINE_list(
    "bits", ["4", "exact"], "Precisions that tensors come in, ascending, the last one exact."
)
_SCHEME = flags.DEFINE_enum(
    "scheme", "symmetric", ["symmetric", "affine"], "Codes around zero, or over a group's range."
)
_GRANULARITY = flags.DEFINE_enum(
    "granularity", "group", ["tensor", "channel", "group"], "What shares a scale."
)
_GROUP_SIZE = flags.DEFINE_integer("group_size", 128, "Values of a channel in a group.")
_CHANNELS = flags.DEFINE_enum(
    "channels",
    None,
    ["first", "last"],
    "Axis of output channels; last in checkpoints of this package, first in --weights (PyTorch).",
)
_SCALE = flags.DEFINE_enum(
    "scale", "mse", ["minmax", "mse", "percentile"], "How a scale is chosen."
)
_PERCENTILE = flags.DEFINE_float("percentile", 99.9, "Of --scale=percentile: what is not clipped.")


def stages() -> list[Bits]:
    """The precisions, in order."""
    return [parse_bits(text) for text in _BITS.value]


def quantization(channels: str) -> Quantization:
    """The rule; `channels`, first or last, is what it takes where the flag is not given."""
    scheme: Any = _SCHEME.value
    granularity: Any = _GRANULARITY.value
    scale: Any = _SCALE.value
    return Quantization(
        scheme,
        granularity,
        _GROUP_SIZE.value,
        0 if (_CHANNELS.value or channels) == "first" else -1,
        scale,
        _PERCENTILE.value,
    )
