"""The flags that say how tensors become codes."""

from typing import Any, get_args

from absl import flags

from pwl_jax.errors import UserError
from pwl_jax.ladder import EXACT, Bits, parse_bits
from pwl_jax.precision import Quantization
from pwl_jax.precision.quantizer import Granularity, ScaleRule, Scheme

_BITS = flags.DEFINE_list(
    "bits", ["4", "exact"], "Precisions that tensors come in, ascending, the last one exact."
)
_SCHEME = flags.DEFINE_enum(
    "scheme", Quantization().scheme, list(get_args(Scheme)), "Codes around 0, or over a range."
)
_GRANULARITY = flags.DEFINE_enum(
    "granularity", Quantization().granularity, list(get_args(Granularity)), "What shares a scale."
)
_GROUP_SIZE = flags.DEFINE_integer(
    "group_size", Quantization().group_size, "Values of a channel in a group."
)
_CHANNELS = flags.DEFINE_enum(
    "channels",
    None,
    ["first", "last"],
    "Axis of output channels; last in checkpoints of this package, first in --weights (PyTorch).",
)
_SCALE = flags.DEFINE_enum(
    "scale", Quantization().scale, list(get_args(ScaleRule)), "How a scale is chosen."
)
_PERCENTILE = flags.DEFINE_float(
    "percentile", Quantization().percentile, "Of --scale=percentile: what is not clipped."
)
_BIAS_CORRECTION = flags.DEFINE_bool(
    "bias_correction", Quantization().bias_correction, "Send each channel's mean error along."
)


def stages(delta: bool = False) -> list[Bits]:
    """The precisions, in order; of a `delta` exact alone, so that --bits is then a UserError."""
    if not delta:
        return [parse_bits(text) for text in _BITS.value]
    if _BITS.present:
        raise UserError("--bits is for whole bundles; with --against what changed is sent exactly")
    return [EXACT]


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
        _BIAS_CORRECTION.value,
    )
