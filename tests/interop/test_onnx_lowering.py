"""ONNX Runtime computes what JAX traces, rule by rule; what no rule is for is named."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from pwl_jax.interop.onnx_graph import IR_VERSION, OPSET, OnnxError
from pwl_jax.interop.onnx_program import onnx_program

SHAPE = (6, 5, 4)
WEIGHT = np.random.default_rng(1).normal(size=(3, 3, 4, 8)).astype(np.float32)


def ran(program, *arguments):
    session = onnxruntime.InferenceSession(program)
    fed = {entry.name: array for entry, array in zip(session.get_inputs(), arguments, strict=True)}
    (result,) = session.run(None, fed)
    return result


def images(batch, scale=1.0):
    return (scale * np.random.default_rng(batch).normal(size=(batch, *SHAPE))).astype(np.float32)


def conv(x, kernel=WEIGHT, strides=(1, 1), padding="SAME", spec=("NHWC", "HWIO", "NHWC"), **more):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=spec, **more)


FUNCTIONS = {
    "a chain of elementwise operations": lambda x: jnp.tanh(jnp.exp(-jnp.abs(x)) / (x**2 + 1) - x),
    "powers": lambda x: (jnp.abs(x) + 1) ** 1.7 + x**3 + (x * x + 1.0) ** -2,
    "logarithms": lambda x: jnp.log(jnp.abs(x) + 0.1) + jnp.log1p(x * x) + jnp.expm1(x),
    "rounding": lambda x: jnp.floor(x) + 2 * jnp.ceil(x) + jnp.sign(x),
    "waves": lambda x: jnp.sin(x) * jnp.cos(x),
    "roots": lambda x: jnp.sqrt(x * x) + jax.lax.rsqrt(x * x + 1),
    "exact gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "approximate gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "relu6": jax.nn.relu6,
    "hard swish": jax.nn.hard_swish,
    "softplus": jax.nn.softplus,
    "softmax": jax.nn.softmax,
    "where and comparisons": lambda x: jnp.where((x > 0) & (x <= 1) | ~(x >= -1), x, -x),
    "equality": lambda x: jnp.where(jnp.floor(x) == 0, 1.0, jnp.where(jnp.floor(x) != 1, x, 2.0)),
    "clip": lambda x: jax.lax.clamp(-0.5, x, 0.5) + jnp.clip(x, 0, 1),
    "least and largest": lambda x: jnp.minimum(x, 0.2) + x.max((1, 2), keepdims=True) - x.min(),
    "product": lambda x: jnp.prod(x, axis=-1),
    "mean and variance": lambda x: jnp.var(x, axis=(1, 2)) + x.mean((1, 2)),
    "layer norm": lambda x: nn.LayerNorm(use_bias=False, use_scale=False).apply({}, x),
    "types": lambda x: jnp.floor(x).astype(jnp.int32).astype(jnp.float32) + (x > 0).astype(x.dtype),
    "a token for every image": lambda x: jnp.concatenate(
        [jnp.broadcast_to(WEIGHT[0, 0, :1, :4], (x.shape[0], 1, 4)), x[:, 0]], axis=1
    ),
    "a constant for every image": lambda x: jnp.zeros((x.shape[0], 3)) + 2,
    "batch and positions in one axis": lambda x: (x.reshape(-1, 4) @ WEIGHT[0, 0]).reshape(
        x.shape[0], 30, 8
    ),
    "axes in another order": lambda x: x.transpose(0, 3, 1, 2)[:, :, None].squeeze(2),
    "two orders of the same axes": lambda x: (
        x[:, :4, :4].transpose(0, 1, 3, 2) - 2 * x[:, :4, :4].transpose(0, 2, 1, 3)
    ),
    "one place": lambda x: x[:, 2] + x[:, -1],
    "a run of places": lambda x: x[:, 1:4, :, 2:],
    "every second place": lambda x: x[:, ::2, 1::2],
    "places from a list": lambda x: x[:, :, jnp.array([3, 0, 0])],
    "places on two axes": lambda x: x[:, jnp.array([3, 0]), :, jnp.array([1, 2])],
    "a slice with strides": lambda x: jax.lax.slice_in_dim(x, 1, 6, 2, axis=1),
    "parts": lambda x: jnp.split(x, 2, axis=3)[1] * jnp.split(x, [1, 3], axis=3)[1],
    "padding and cutting": lambda x: jax.lax.pad(
        x, 7.0, ((0, 0, 0), (1, -2, 0), (-1, 2, 0), (0, 0, 0))
    ),
    "convolution": conv,
    "uneven strides and padding": lambda x: conv(x, strides=(2, 1), padding=((1, 0), (2, 1))),
    "dilated convolution": lambda x: conv(x, rhs_dilation=(2, 1), padding="VALID"),
    "depthwise convolution": lambda x: conv(x, WEIGHT[:, :, :1], feature_group_count=4),
    "channels first": lambda x: conv(
        x.transpose(0, 3, 1, 2), WEIGHT.transpose(3, 2, 0, 1), spec=("NCHW", "OIHW", "NCHW")
    ),
    "convolution over one axis": lambda x: jax.lax.conv_general_dilated(
        x[:, 0], WEIGHT[0], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    ),
    "max-pooling over a border": lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))),
    "max-pooling along one axis": lambda x: nn.max_pool(x, (1, 2), (1, 2)),
    "average pooling": lambda x: nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2)),
    "average pooling over a border": lambda x: nn.avg_pool(x, (3, 3), padding=((1, 1), (1, 1))),
    "matrix product": lambda x: x @ WEIGHT[0, 0],
    "products of the batch": lambda x: x @ x.swapaxes(-1, -2),
    "any contraction": lambda x: jnp.einsum("bhwc,bdwc->bhd", x, x[:, :3]),
    "contraction of several axes": lambda x: jnp.tensordot(x, np.eye(5, 4, dtype=np.float32), 2),
    "rematerialised": jax.checkpoint(lambda x: jnp.sin(x) + 1),
    "its own gradient": jax.custom_vjp(lambda x: x * 3),
    "the input itself": lambda x: x,
    "no gradient": lambda x: jax.lax.stop_gradient(x) + 1,
}
FUNCTIONS["its own gradient"].defvjp(lambda x: (x * 3, None), lambda _, g: (g,))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_onnx_runtime_computes_what_jax_does(name):
    function = FUNCTIONS[name]
    program = onnx_program(function, [], SHAPE, np.float32)
    for batch in (1, 3):
        expected = np.asarray(jax.jit(function)(images(batch)))
        got = ran(program, images(batch))
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def part_of_unindexed(x):
    """x[:, 1, :2] as one gather: an axis is cut that is not indexed."""
    numbers = jax.lax.GatherDimensionNumbers((0, 1, 2), (1,), (1,))
    sizes = (x.shape[0], 1, 2, x.shape[3])
    return jax.lax.gather(x, jnp.array([1]), numbers, sizes, mode="clip")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jnp.sort(x), "computes 'sort'"),
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y * 2, x), "computes '(scan|while)'"),
        (lambda x: x[:, (x.max() > 0).astype(jnp.int32)], "gathers by indices that are computed"),
        (lambda x: x[0], "computes with the size of the batch"),
        (lambda x: jax.lax.slice_in_dim(x, 0, x.shape[0] - 1), "takes a part of the batch"),
        (lambda x: x[:, jnp.array([0, 9])], "reads beyond the end"),
        (part_of_unindexed, "gathers parts of an axis that it does not index"),
        (lambda x: jax.lax.switch(jnp.int32(x.sum()), [jnp.sin, jnp.cos], x), "computes 'cond'"),
        (lambda x: jnp.zeros((2 * x.shape[0], 3)), r"array of size 2\*b;"),
        (
            lambda x: conv(x, lhs_dilation=(2, 2), padding=((1, 1), (1, 1))),
            "transposed convolution",
        ),
        (lambda x: jax.lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1)) * 2), "pads between elements"),
        (lambda x: x.astype(jnp.int32) & 3, "ONNX has no such operation"),
    ],
)
def test_what_no_rule_is_for_is_named(function, message):
    with pytest.raises(OnnxError, match=message):
        onnx_program(function, [], SHAPE, np.float32)


def affine(kernel, bias, x):
    return x @ kernel + bias[None, None, None, :]


TENSORS = [jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.float32)]


def test_inputs_are_in_the_order_of_the_arguments():
    program = onnx_program(affine, TENSORS, SHAPE, np.float32)
    kernel, bias = WEIGHT[0, 0], np.arange(8, dtype=np.float32)
    got = ran(program, kernel, bias, images(2))
    np.testing.assert_allclose(got, images(2) @ kernel + bias, rtol=1e-5, atol=1e-5)
    model = onnx.load_from_string(program)
    assert [entry.name for entry in model.graph.input] == ["w0", "w1", "x"]
    assert [entry.name for entry in model.graph.output] == ["y"]
    assert [entry.version for entry in model.opset_import] == [OPSET]
    assert (model.ir_version, model.producer_version) == (IR_VERSION, "")


def test_equal_functions_give_equal_bytes_whatever_was_exported_before():
    first = onnx_program(affine, TENSORS, SHAPE, np.float32)
    for name in ("layer norm", "every second place", "convolution"):
        onnx_program(FUNCTIONS[name], [], SHAPE, np.float32)
    assert onnx_program(lambda *a: affine(*a), TENSORS, SHAPE, np.float32) == first


def test_narrow_floats_are_wide():
    """Weights and features of bfloat16 are float32 in ONNX, and so is what is computed of them."""
    tensors = [jax.ShapeDtypeStruct(t.shape, jnp.bfloat16) for t in TENSORS]

    def narrow(kernel, bias, x):
        return affine(kernel, bias, x).astype(jnp.bfloat16)

    program = onnx_program(narrow, tensors, SHAPE, jnp.bfloat16)
    got = ran(program, WEIGHT[0, 0], np.ones(8, np.float32), images(2))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, images(2) @ WEIGHT[0, 0] + 1, rtol=1e-5, atol=1e-5)


def test_what_does_not_reach_the_output_is_left_out():
    def wasteful(unused, x):
        del unused
        jnp.sin(x)
        return (x - 1) + (x - 1)

    model = onnx.load_from_string(onnx_program(wasteful, TENSORS[:1], SHAPE, np.float32))
    assert [node.op_type for node in model.graph.node] == ["Sub", "Add", "Identity"]
    assert [entry.name for entry in model.graph.input] == ["w0", "x"]
