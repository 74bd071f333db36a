"""What every family's network must fulfil as a network cut into blocks."""

import dataclasses
import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.models.lenet5 import LeNet5Spec
from pwl_jax.models.registry import pair
from pwl_jax.models.resnet import ResNetSpec
from pwl_jax.models.vgg import VGGSpec
from pwl_jax.models.vit import ViTSpec

SPECS = {
    "lenet5": LeNet5Spec(input_shape=(16, 16, 1), classes=3, channels=(3, 4), features=(6, 5)),
    "vgg": VGGSpec(input_shape=(8, 8, 2), classes=3, widths=(4, 6), depths=(2, 1)),
    "resnet": ResNetSpec(
        input_shape=(8, 8, 2), classes=3, stem_width=4, widths=(4, 6), depths=(1, 1)
    ),
    "vit": ViTSpec(
        input_shape=(8, 8, 2),
        classes=3,
        hidden=8,
        heads=2,
        mlp=12,
        layers=2,
        layers_per_block=1,
        patch=4,
    ),
}
FAMILIES = list(SPECS)


@pytest.fixture(params=FAMILIES)
def example(request, randomized):
    """Network, variables, images, and `network.apply` compiled once a family."""
    return examples(request.param, randomized)


@functools.cache
def compiled(family, train=False, dtype="float32"):
    spec = dataclasses.replace(SPECS[family], dtype=dtype)
    return jax.jit(functools.partial(spec.build().apply, train=train))


def examples(family, randomized):
    spec = SPECS[family]
    network = spec.build()
    variables = randomized(jax.eval_shape(network.init, jax.random.key(0)))
    images = np.random.default_rng(1).normal(size=(4, *spec.input_shape)).astype(np.float32)
    return family, network, variables, images


def shapes(name, role):
    spec = getattr(pair(name), role)
    network = spec.build()
    variables = jax.eval_shape(network.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, *spec.input_shape), jnp.float32)
    outputs = jax.eval_shape(network.apply, variables, images)
    return {k: v.shape for k, v in outputs.features.items()}, outputs.logits.shape


@pytest.mark.parametrize(
    ("name", "role", "expected"),
    [
        (
            "lenet5",
            "teacher",
            {
                "block0": (2, 14, 14, 6),
                "block1": (2, 5, 5, 16),
                "block2": (2, 120),
                "block3": (2, 84),
            },
        ),
        (
            "vgg",
            "teacher",
            {
                "block0": (2, 16, 16, 64),
                "block1": (2, 8, 8, 128),
                "block2": (2, 4, 4, 256),
                "block3": (2, 2, 2, 512),
                "block4": (2, 1, 1, 512),
            },
        ),
        (
            "resnet",
            "teacher",
            {
                "embedder": (2, 32, 32, 64),
                "block0": (2, 32, 32, 32),
                "block1": (2, 16, 16, 64),
                "block2": (2, 8, 8, 128),
                "block3": (2, 4, 4, 256),
            },
        ),
        (
            "vit_half",
            "student",
            {
                "embedder": (2, 197, 96),
                **{f"block{i}": (2, 197, 96) for i in range(5)},
                "block5": (2, 96),
            },
        ),
    ],
)
def test_every_feature_has_its_name_and_shape(name, role, expected):
    features, logits = shapes(name, role)
    assert features == expected
    assert logits == (2, 10)


def test_parts_cover_the_network_once(example):
    _, network, variables, _ = example
    parts = [part for i in range(network.num_blocks) for part in network.parts_of(i)]
    assert sorted(parts) == sorted(variables["params"])
    assert parts[-1] == "head"
    assert ("embedder" in parts) == (network.embedder is not None)


@pytest.mark.parametrize("train", [False, True])
def test_blocks_one_after_the_other_are_the_network_operation_for_operation(example, train):
    _, network, variables, images = example

    def whole(variables, x):
        outputs = network.apply(variables, x, train=train)
        inner = [outputs.features[f"block{i}"] for i in range(network.num_blocks - 1)]
        return [*inner, outputs.logits], outputs.moments

    def chain(variables, x):
        boundaries, moments = [], {}
        for i in range(network.num_blocks):
            parts = {
                collection: {k: v for k, v in trees.items() if k in network.parts_of(i)}
                for collection, trees in variables.items()
            }
            x, new = network.apply_block(i, parts, x, train=train)
            boundaries.append(x)
            moments |= new
        return boundaries, moments

    assert str(jax.make_jaxpr(chain)(variables, images)) == str(
        jax.make_jaxpr(whole)(variables, images)
    )


def test_compiled_block_by_block_agrees_with_compiled_whole(example):
    family, network, variables, images = example
    whole = compiled(family)(variables, images).logits
    x = images
    for i in range(network.num_blocks):
        x, _ = jax.jit(functools.partial(network.apply_block, i))(variables, x)
    # The compiler may fuse across boundaries, so that 1e-5 of the largest logit is what holds.
    np.testing.assert_allclose(x, whole, rtol=0, atol=1e-5 * np.abs(whole).max())


def test_evaluation_of_an_example_ignores_the_rest_of_its_batch(example):
    family, _, variables, images = example
    other = np.concatenate([images[:1], 7 * images[1:]])
    logits, others = (compiled(family)(variables, x).logits for x in (images, other))
    np.testing.assert_array_equal(logits[0], others[0])
    assert np.any(logits[1:] != others[1:])


@pytest.mark.parametrize("family", ["vgg", "resnet"])
def test_training_depends_on_the_batch_and_reports_moments_like_batch_stats(family, randomized):
    _, _, variables, images = examples(family, randomized)
    other = np.concatenate([images[:1], 7 * images[1:]])
    outputs, others = (compiled(family, train=True)(variables, x) for x in (images, other))
    assert jax.tree.structure(outputs.moments) == jax.tree.structure(variables["batch_stats"])
    assert np.abs(outputs.logits[0] - others.logits[0]).max() > 1e-3


@pytest.mark.parametrize("family", ["lenet5", "vit"])
def test_networks_without_batch_norm_have_no_statistics(family, randomized):
    _, network, variables, images = examples(family, randomized)
    assert variables["batch_stats"] == {}
    evaluation, training = (
        str(jax.make_jaxpr(functools.partial(network.apply, train=train))(variables, images))
        for train in (False, True)
    )
    assert evaluation == training


def test_bfloat16_keeps_parameters_and_logits_in_float32(example):
    family, _, variables, images = example
    network = dataclasses.replace(SPECS[family], dtype="bfloat16").build()
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    outputs = compiled(family, dtype="bfloat16")(variables, images)
    assert {f.dtype for f in outputs.features.values()} == {jnp.dtype(jnp.bfloat16)}
    assert outputs.logits.dtype == jnp.float32
    exact = compiled(family)(variables, images).logits
    # bfloat16 keeps 8 bits: a few percent of the largest logit behind a few layers.
    np.testing.assert_allclose(outputs.logits, exact, rtol=0, atol=0.05 * np.abs(exact).max())
    assert np.any(outputs.logits != exact), "nothing was computed in bfloat16"


def test_blocks_can_be_exported_for_any_batch_size(example):
    _, network, variables, images = example
    (batch,) = jax.export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, *images.shape[1:]), jnp.float32)
    for i in range(network.num_blocks):
        block = jax.jit(lambda variables, x, i=i: network.apply_block(i, variables, x)[0])
        exported = jax.export.export(block)(variables, x)
        x = exported.out_avals[0]
    assert x.shape == (batch, 3)


def test_every_parameter_gets_a_gradient(example):
    _, network, variables, images = example
    weights = np.random.default_rng(2).normal(size=(len(images), 3)).astype(np.float32)

    @jax.jit
    @jax.grad
    def gradient(params):
        outputs = network.apply({**variables, "params": params}, images, train=True)
        return (outputs.logits * weights).sum()

    absent = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables["params"]))
        if not np.any(leaf)
    ]
    assert not absent


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_initialisation_depends_on_the_key_alone(family):
    network = SPECS[family].build()
    init = jax.jit(network.init)
    # This generator compiles several times faster than the default one.
    first, same, other = (init(jax.random.key(seed, impl="unsafe_rbg")) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, same)
    kernels = [
        (a, b)
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
        if a.ndim > 1
    ]
    assert all(np.any(a != b) for a, b in kernels)
    assert all(np.std(a) > 0 for a, _ in kernels)


def test_boundary_shapes_are_those_of_the_features(example):
    family, network, variables, images = example
    features = compiled(family)(variables, images).features
    assert network.boundary_shapes() == tuple(
        features[f"block{i}"].shape[1:] for i in range(network.num_blocks - 1)
    )
