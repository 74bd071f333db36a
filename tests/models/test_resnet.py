"""ResNet against NumPy: stem, basic layers, shortcuts, strides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.models.resnet import ResNetSpec
from pwl_jax.models.spec import SpecError


def basic_layer(reference, x, params, stats, stride):
    def convolved(x, name, stride):
        x = reference.conv(x, params[f"{name}_conv"]["kernel"], stride=stride)
        return reference.batch_norm(x, params[f"{name}_norm"], stats[f"{name}_norm"])

    y = convolved(reference.relu(convolved(x, "first", stride)), "second", 1)
    if "shortcut_conv" in params:
        x = convolved(x, "shortcut", stride)
    return reference.relu(x + y)


def test_network_by_hand(reference, randomized):
    spec = ResNetSpec(input_shape=(6, 8, 2), classes=4, stem_width=3, widths=(3, 5), depths=(1, 2))
    network = spec.build()
    variables = randomized(jax.eval_shape(network.init, jax.random.key(0)))
    params, stats = variables["params"], variables["batch_stats"]
    images = np.random.default_rng(0).normal(size=(2, 6, 8, 2)).astype(np.float32)
    outputs = jax.jit(network.apply)(variables, images)

    x = reference.conv(images, params["embedder"]["conv"]["kernel"])
    x = reference.batch_norm(x, params["embedder"]["norm"], stats["embedder"]["norm"])
    x = reference.relu(x)
    np.testing.assert_allclose(outputs.features["embedder"], x, rtol=1e-4, atol=1e-4)
    for block, depth in enumerate(spec.depths):
        for i in range(depth):
            stride = 2 if block == 1 and i == 0 else 1
            part, layer = f"block{block}", f"layer{i}"
            x = basic_layer(reference, x, params[part][layer], stats[part][layer], stride)
        np.testing.assert_allclose(outputs.features[f"block{block}"], x, rtol=1e-4, atol=1e-4)
    expected = reference.dense(x.mean((1, 2)), params["head"]["dense"])
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-4, atol=1e-4)


def test_shortcuts_convolve_only_where_shapes_change():
    spec = ResNetSpec(
        input_shape=(8, 8, 3), classes=10, stem_width=4, widths=(4, 4, 8), depths=(2, 2, 2)
    )
    params = jax.eval_shape(spec.build().init, jax.random.key(0))["params"]
    convolved = {
        (block, layer)
        for block in ("block0", "block1", "block2")
        for layer in params[block]
        if "shortcut_conv" in params[block][layer]
    }
    assert convolved == {("block1", "layer0"), ("block2", "layer0")}


def shapes(**config):
    network = ResNetSpec(**config).build()
    outputs = jax.eval_shape(
        lambda x: network.apply(network.init(jax.random.key(0)), x),
        jnp.zeros((1, *network.input_shape)),
    )
    return [outputs.features[part].shape[1:3] for part in ("embedder", "block0", "block1")]


def test_stem_pooling_by_hand(reference, randomized):
    spec = ResNetSpec(
        input_shape=(5, 6, 2), classes=2, stem_width=3, stem_pool=True, widths=(2,), depths=(1,)
    )
    network = spec.build()
    variables = randomized(jax.eval_shape(network.init, jax.random.key(0)))
    params, stats = (variables[c]["embedder"] for c in ("params", "batch_stats"))
    images = np.random.default_rng(0).normal(size=(2, 5, 6, 2)).astype(np.float32)
    features = jax.jit(network.apply)(variables, images).features

    x = reference.batch_norm(
        reference.conv(images, params["conv"]["kernel"]), params["norm"], stats["norm"]
    )
    x = np.pad(reference.relu(x), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    for i in range(3):
        for j in range(3):
            window = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            np.testing.assert_allclose(
                features["embedder"][:, i, j], window.max((1, 2)), rtol=1e-4, atol=1e-4
            )


def test_imagenet_stem_and_first_stage_shrink_as_configured():
    config = {"input_shape": (224, 224, 3), "classes": 10, "widths": (8, 8), "depths": (1, 1)}
    stem = {"stem_width": 8, "stem_kernel": 7, "stem_stride": 2, "stem_pool": True}
    assert shapes(**config, **stem) == [(56, 56), (56, 56), (28, 28)]
    assert shapes(**config, **stem, downsample_first=True) == [(56, 56), (28, 28), (14, 14)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem_kernel": 4}, "stem_kernel is 4; expected an odd number"),
        ({"stem_width": 0}, "stem_width is 0; expected positive integers"),
        ({"depths": (1, 1)}, "disagree; expected one entry a block"),
        ({"widths": (), "depths": ()}, "widths is .*expected positive integers"),
        ({"bottleneck": 3}, "bottleneck is 3; expected a divisor of widths, 32"),
        ({"bottleneck": -4}, "bottleneck is -4; expected positive integers"),
        (
            {"block_layers": (8, 7)},
            "block_layers is .*15 in all; expected the layers of de",
        ),
        ({"block_layers": (16, 0)}, "block_layers is .*expected positive integers"),
    ],
)
def test_wrong_specs_are_refused(change, message):
    with pytest.raises(SpecError, match=message):
        ResNetSpec(**{"input_shape": (32, 32, 3), "classes": 10, **change})


@pytest.mark.parametrize("stride_in_first", [False, True])
def test_bottlenecks_by_hand(reference, randomized, stride_in_first):
    spec = ResNetSpec(
        input_shape=(6, 8, 2),
        classes=4,
        stem_width=4,
        widths=(4, 8),
        depths=(1, 2),
        bottleneck=2,
        stride_in_first=stride_in_first,
    )
    network = spec.build()
    variables = randomized(jax.eval_shape(network.init, jax.random.key(0)))
    params, stats = variables["params"], variables["batch_stats"]
    images = np.random.default_rng(0).normal(size=(2, 6, 8, 2)).astype(np.float32)
    features = jax.jit(network.apply)(variables, images).features

    x = np.asarray(features["embedder"], np.float64)
    assert "shortcut_conv" not in params["block0"]["layer0"]
    for block, strides in (("block0", (1,)), ("block1", (2, 1))):
        for i, stride in enumerate(strides):
            x = bottleneck_layer(
                reference,
                x,
                params[block][f"layer{i}"],
                stats[block][f"layer{i}"],
                stride,
                stride_in_first,
            )
        np.testing.assert_allclose(features[block], x, rtol=1e-4, atol=1e-4)


def bottleneck_layer(reference, x, params, stats, stride, stride_in_first):
    def convolved(x, name, stride=1):
        x = reference.conv(x, params[f"{name}_conv"]["kernel"], stride=stride)
        return reference.batch_norm(x, params[f"{name}_norm"], stats[f"{name}_norm"])

    assert params["first_conv"]["kernel"].shape[:2] == (1, 1)
    assert params["second_conv"]["kernel"].shape[:2] == (3, 3)
    strides = (stride, 1) if stride_in_first else (1, stride)
    y = reference.relu(convolved(x, "first", strides[0]))
    y = convolved(reference.relu(convolved(y, "second", strides[1])), "third")
    if "shortcut_conv" in params:
        x = convolved(x, "shortcut", stride)
    return reference.relu(x + y)


def test_blocks_that_are_not_stages_are_the_same_layers(randomized):
    config = {"input_shape": (8, 8, 1), "classes": 3, "widths": (4, 6), "depths": (2, 2)}
    stages = ResNetSpec(**config, stem_width=4)
    assert ResNetSpec(**config, stem_width=4, block_layers=[2, 2]) == stages
    cut = ResNetSpec(**config, stem_width=4, block_layers=(1, 2, 1))
    assert cut.blocks() == (((4, 1),), ((4, 1), (6, 2)), ((6, 1),))
    variables = randomized(jax.eval_shape(stages.build().init, jax.random.key(0)))

    def moved(tree):
        first, second = tree["block0"], tree["block1"]
        return tree | {
            "block0": {"layer0": first["layer0"]},
            "block1": {"layer0": first["layer1"], "layer1": second["layer0"]},
            "block2": {"layer0": second["layer1"]},
        }

    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    expected = jax.jit(stages.build().apply)(variables, images).logits
    again = {name: moved(tree) for name, tree in variables.items()}
    found = jax.jit(cut.build().apply)(again, images).logits
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
