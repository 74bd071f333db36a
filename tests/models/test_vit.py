"""ViT against NumPy: patches, attention head by head, layers, the class token's way out."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.models.spec import NetworkSpec, SpecError
from pwl_jax.models.vit import ViTSpec

CONFIG = {
    "input_shape": (4, 6, 3),
    "classes": 5,
    "hidden": 8,
    "heads": 2,
    "mlp": 12,
    "layers": 4,
    "layers_per_block": 2,
    "patch": 2,
}


def embedded(images, params):
    """Patches row by row, each flattened as (row, column, channel), behind the class token."""
    kernel = np.asarray(params["patch"]["kernel"], np.float64)
    tokens = [np.broadcast_to(params["class_token"][0, 0], (len(images), kernel.shape[1]))]
    for row in range(0, images.shape[1], 2):
        for column in range(0, images.shape[2], 2):
            patch = images[:, row : row + 2, column : column + 2].reshape(len(images), -1)
            tokens.append(patch @ kernel + params["patch"]["bias"])
    return np.stack(tokens, axis=1) + params["positions"]


def attended(reference, x, params, heads):
    query, key, value = (reference.dense(x, params[k]) for k in ("query", "key", "value"))
    size = x.shape[-1] // heads
    outputs = np.zeros_like(x)
    for example in range(x.shape[0]):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = query[example, :, part] @ key[example, :, part].T / np.sqrt(size)
            weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            outputs[example, :, part] = weights @ value[example, :, part]
    return reference.dense(outputs, params["output"])


def layer(reference, x, params, heads):
    y = reference.layer_norm(x, params["attention_norm"])
    x = x + attended(reference, y, params["attention"], heads)
    y = reference.dense(reference.layer_norm(x, params["mlp_norm"]), params["mlp_in"])
    return x + reference.dense(reference.gelu(y), params["mlp_out"])


@pytest.mark.parametrize("final_norm", [True, False])
def test_network_by_hand(reference, randomized, final_norm):
    network = ViTSpec(**CONFIG, final_norm=final_norm).build()
    params = randomized(jax.eval_shape(network.init, jax.random.key(0))["params"])
    images = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    outputs = jax.jit(network.apply)({"params": params, "batch_stats": {}}, images)

    x = embedded(images, params["embedder"])
    np.testing.assert_allclose(outputs.features["embedder"], x, rtol=1e-4, atol=1e-4)
    for block in range(2):
        for i in range(2):
            x = layer(reference, x, params[f"block{block}"][f"layer{i}"], heads=2)
        if block == 0:
            np.testing.assert_allclose(outputs.features["block0"], x, rtol=1e-4, atol=1e-4)
    assert ("norm" in params["block1"]) == final_norm
    x = reference.layer_norm(x, params["block1"]["norm"])[:, 0] if final_norm else x[:, 0]
    np.testing.assert_allclose(outputs.features["block1"], x, rtol=1e-4, atol=1e-4)
    expected = reference.dense(x, params["head"]["dense"])
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-4, atol=1e-4)


def test_layer_norm_takes_a_large_mean():
    # The variance as E[x^2] - E[x]^2 would lose this token's in float32.
    from pwl_jax.models.vit import layer_norm

    module = layer_norm(1e-12, jnp.dtype(jnp.float32), "norm")
    x = jnp.array([[4096.0, 4097.0, 4098.0, 4099.0]])
    y, _ = module.init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y[0], np.array([-1.5, -0.5, 0.5, 1.5]) / np.sqrt(1.25), rtol=1e-5)


def test_gelu_is_exact():
    network = ViTSpec(**CONFIG).build()
    variables = jax.eval_shape(network.init, jax.random.key(0))
    jaxpr = str(
        jax.make_jaxpr(network.apply)(variables, jax.ShapeDtypeStruct((1, 4, 6, 3), jnp.float32))
    )
    assert "erf" in jaxpr
    assert "tanh" not in jaxpr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "heads is 3; expected a divisor of hidden, 8"),
        ({"layers_per_block": 3}, "layers_per_block is 3; expected a divisor of layers, 4"),
        ({"patch": 4}, "patch is 4; expected a divisor of the image's width, 6"),
        ({"hidden": 0}, "hidden is 0; expected positive integers"),
        ({"mlp": "wide"}, "mlp is 'wide'; expected positive integers"),
        ({"layers_per_block": (3, 2)}, r"layers_per_block is \(3, 2\), 5 in all; expected the 4"),
        ({"layers_per_block": (4, 0)}, "layers_per_block is .*expected positive integers"),
        ({"tokens": 2, "head_tokens": 3}, "head_tokens is 3; expected at most 2"),
        ({"activation": "relu"}, "activation is 'relu'; expected one of gelu, gelu_tanh"),
        ({"epsilon": 0.0}, "epsilon is 0.0; expected a number between 0 and 1"),
    ],
)
def test_wrong_specs_are_refused(change, message):
    with pytest.raises(SpecError, match=message):
        ViTSpec(**{**CONFIG, **change})


def test_blocks_of_unequal_depth_are_the_same_layers(randomized):
    equal = ViTSpec(**CONFIG)
    assert ViTSpec(**{**CONFIG, "layers_per_block": [2, 2]}) == equal
    unequal = ViTSpec(**{**CONFIG, "layers_per_block": (1, 3)})
    assert unequal.block_layers == (1, 3)
    assert NetworkSpec.from_dict(json.loads(json.dumps(unequal.to_dict()))) == unequal
    variables = randomized(jax.eval_shape(equal.build().init, jax.random.key(0)))
    first, second = (variables["params"][f"block{i}"] for i in range(2))
    moved = {
        "block0": {"layer0": first["layer0"]},
        "block1": {
            "layer0": first["layer1"],
            "layer1": second["layer0"],
            "layer2": second["layer1"],
            "norm": second["norm"],
        },
    }
    again = {"params": variables["params"] | moved, "batch_stats": {}}
    images = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    expected, found = (
        jax.jit(spec.build().apply)(tree, images).logits
        for spec, tree in ((equal, variables), (unequal, again))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_fields_that_imports_need_leave_older_specs_as_they_were():
    """A config or a manifest of an earlier version names none of them."""
    older = ViTSpec(**CONFIG).to_dict()
    for name in ("epsilon", "activation", "qkv_bias", "tokens", "head_tokens"):
        del older[name]
    assert NetworkSpec.from_dict(older) == ViTSpec(**CONFIG)


def test_two_tokens_and_the_mean_of_two_heads(reference, randomized):
    config = {**CONFIG, "layers": 1, "layers_per_block": 1, "tokens": 2, "head_tokens": 2}
    config |= {"epsilon": 0.5, "qkv_bias": False, "activation": "gelu_tanh"}
    network = ViTSpec(**config).build()
    params = randomized(jax.eval_shape(network.init, jax.random.key(0))["params"])
    images = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    outputs = jax.jit(network.apply)({"params": params, "batch_stats": {}}, images)

    part = params["embedder"]
    tokens = np.broadcast_to(part["class_token"], (2, 2, 8))
    patches = embedded(images, {**part, "positions": 0.0})[:, 1:]
    x = np.concatenate([tokens, patches], axis=1) + part["positions"]
    layer = params["block0"]["layer0"]
    assert "bias" not in layer["attention"]["query"]
    attention = {k: {"bias": 0.0, **v} for k, v in layer["attention"].items()}
    x = x + attended(reference, reference.layer_norm(x, layer["attention_norm"], 0.5), attention, 2)
    y = reference.dense(reference.layer_norm(x, layer["mlp_norm"], 0.5), layer["mlp_in"])
    y = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    x = x + reference.dense(y, layer["mlp_out"])
    x = reference.layer_norm(x, params["block0"]["norm"], 0.5)[:, :2]
    np.testing.assert_allclose(outputs.features["block0"], x, rtol=1e-4, atol=1e-4)
    expected = reference.dense(x.reshape(2, 16), params["head"]["dense"])
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-4, atol=1e-4)
