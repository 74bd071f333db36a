"""Tensors in a few bits first, then to the bit. NumPy and zstandard; any arrays."""

from pwl_jax.precision.bit_plan import Choice, plan_bits
from pwl_jax.precision.codec import CODECS, decode_frame, encode_frame
from pwl_jax.precision.delta import encode_delta
from pwl_jax.precision.dtypes import (
    byte_count,
    dtype_name,
    item_bytes,
    numpy_dtype,
    tensor_sha256,
)
from pwl_jax.precision.errors import PrecisionError
from pwl_jax.precision.payload import StagePayload, canonical_json, check_header
from pwl_jax.precision.quantizer import Quantization
from pwl_jax.precision.tensor_code import (
    check_stages,
    decode_tensor,
    encode_tensor,
    expand,
    is_exact,
    quantizable,
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
