"""Tensors in a few bits first, then to the bit. NumPy and zstandard; any arrays."""

from typing import TYPE_CHECKING

from pwl_jax.lazy import lazily
from pwl_jax.precision.codec import CODECS, decode_frame, encode_frame
from pwl_jax.precision.decoding import decode_tensor
from pwl_jax.precision.dtypes import (
    byte_count,
    dtype_name,
    item_bytes,
    numpy_dtype,
    tensor_sha256,
)
from pwl_jax.precision.errors import PrecisionError
from pwl_jax.precision.payload import StagePayload, canonical_json, check_header, is_exact
from pwl_jax.precision.stages import check_stages

if TYPE_CHECKING:
    from pwl_jax.precision.bit_plan import Choice, plan_bits
    from pwl_jax.precision.delta import encode_delta
    from pwl_jax.precision.quantizer import Quantization
    from pwl_jax.precision.tensor_code import encode_tensor, expand, quantizable
else:
    # What writes bundles.
    __getattr__ = lazily(
        __name__,
        {
            "Choice": "bit_plan",
            "Quantization": "quantizer",
            "encode_delta": "delta",
            "encode_tensor": "tensor_code",
            "expand": "tensor_code",
            "plan_bits": "bit_plan",
            "quantizable": "tensor_code",
        },
    )

__all__ = [
    "CODECS",
    "Choice",
    "PrecisionError",
    "Quantization",
    "StagePayload",
    "byte_count",
    "canonical_json",
    "check_header",
    "check_stages",
    "decode_frame",
    "decode_tensor",
    "dtype_name",
    "encode_delta",
    "encode_frame",
    "encode_tensor",
    "expand",
    "is_exact",
    "item_bytes",
    "numpy_dtype",
    "plan_bits",
    "quantizable",
    "tensor_sha256",
]
