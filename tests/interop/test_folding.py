"""BatchNorm folded into convolutions: equal logits, and refusal wherever that would be wrong."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from pwl_jax.hybrid import HybridNetwork
from pwl_jax.interop.composition_path import composition_path, tensors_of
from pwl_jax.interop.folding import FoldingError, folded_path, run_folded
from pwl_jax.ladder import Composition
from pwl_jax.models.block_network import BlockNetwork
from pwl_jax.models.convolution import Convolution
from pwl_jax.models.heads import PooledHead
from pwl_jax.models.normalization import BatchNorm
from tests.tiny_models import images_of, tiny_model

SHARE = 1e-5


def logits(hybrid, path, x, run=HybridNetwork.run):
    for step in path:
        x = run(hybrid, step.unit, step.variables, x)
    return np.asarray(x)


def check_folded(hybrid, variables, composition, images):
    """Equal logits without a norm; gives the folded tensors."""
    path = composition_path(hybrid, variables, composition)
    folded = folded_path(hybrid, path)
    expected, got = logits(hybrid, path, images), logits(hybrid, folded, images, run_folded)
    assert np.abs(got - expected).max() <= SHARE * np.abs(expected).max()
    assert np.abs(got).max() > 0
    tensors = tensors_of(folded)
    assert not any("norm" in name or "batch_stats" in name for name in tensors)
    return tensors


@pytest.mark.slow
@pytest.mark.parametrize("composition", ["TTT", "SSS", "STS"])
@pytest.mark.parametrize("family", ["vgg", "resnet"])
def test_logits_stay(family, composition):
    model = tiny_model(family)
    images = images_of(model, 3)
    check_folded(model.hybrid, model.variables, Composition.parse(composition), images)


def test_kernel_and_bias_are_those_of_the_rule():
    """f = s / sqrt(v + e): the kernel times f, the bias (c - m) f + b."""
    model = tiny_model("vgg")
    path = composition_path(model.hybrid, model.variables, Composition.parse("TSS"))
    tensors, folded = tensors_of(path), tensors_of(folded_path(model.hybrid, path))
    student, stem = "student/params/block1", "student/batch_stats/entry0/block1/norm0"
    factor = tensors[f"{student}/norm0/scale"] / np.sqrt(tensors[f"{stem}/var"] + 1e-5)
    kernel = tensors[f"{student}/conv0/kernel"] * factor
    bias = (tensors[f"{student}/conv0/bias"] - tensors[f"{stem}/mean"]) * factor
    bias = bias + tensors[f"{student}/norm0/bias"]
    np.testing.assert_allclose(folded[f"{student}/conv0/kernel"], kernel, rtol=1e-6)
    np.testing.assert_allclose(folded[f"{student}/conv0/bias"], bias, rtol=1e-5, atol=1e-6)
    assert {array.dtype for array in folded.values()} == {np.dtype(np.float32)}
    # Encoder and head are as they were.
    for name in ("encoders/params/boundary0/kernel", "student/params/head/dense/bias"):
        assert folded[name] is tensors[name] or np.array_equal(folded[name], tensors[name])


def test_the_weights_given_are_not_changed():
    model = tiny_model("vgg")
    path = composition_path(model.hybrid, model.variables, Composition.parse("TTT"))
    before = {name: array.copy() for name, array in tensors_of(path).items()}
    folded_path(model.hybrid, path)
    for name, array in tensors_of(path).items():
        assert np.array_equal(array, before[name])


def test_nothing_to_fold_is_said():
    model = tiny_model("lenet5")
    path = composition_path(model.hybrid, model.variables, Composition.parse("TTTT"))
    with pytest.raises(FoldingError, match="has no BatchNorm that could be folded"):
        folded_path(model.hybrid, path)


class Block(nn.Module):
    """A block of one's own; `kind` says where its BatchNorm stands."""

    kind: str

    @nn.compact
    def __call__(self, x, train):
        conv: Any = nn.Conv(4, (3, 3), use_bias=False, name="conv")
        if self.kind == "dense":
            conv = nn.Dense(4, name="dense")
        norm = BatchNorm(name="norm", epsilon=0.5)
        if self.kind == "first":
            return conv(norm(x, train))
        if self.kind == "behind relu":
            return norm(nn.relu(conv(x)), train)
        y = conv(x)
        z = norm(y, train)
        if self.kind == "read twice":
            return z + y
        if self.kind == "left unread":
            return y
        if self.kind == "run twice":
            return norm(Convolution(4, name="second")(z), train)
        if self.kind == "shared layer":
            return conv(z)
        return nn.relu(z)


def own_pair(kind):
    """The hybrid of two networks that are alike, statistics that are no identity."""
    model = tiny_model("vgg")
    network = BlockNetwork((8, 8, 4), None, (Block(kind), Block(kind)), PooledHead(10, np.float32))
    converters = {"encoders": model.hybrid.encoders[:1], "decoders": model.hybrid.decoders[:1]}
    hybrid = dataclasses.replace(model.hybrid, teacher=network, student=network, **converters)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32),
        {"teacher": jax.eval_shape(network.init, jax.random.key(0))},
    )
    return hybrid, variables


@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_any_network_whose_norms_follow_layers_can_be_folded(kind):
    """Linen's own layers, another epsilon, a bias that was not there."""
    hybrid, variables = own_pair(kind)
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 4)).astype(np.float32)
    tensors = check_folded(hybrid, variables, Composition.parse("TT"), images)
    assert f"teacher/params/block1/{kind}/bias" in tensors


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("first", r"teacher/0: block0/norm does not directly follow a convolution"),
        ("behind relu", r"teacher/0: block0/norm does not directly follow a convolution"),
        ("read twice", r"teacher/0: block0/conv is read by more than its BatchNorm"),
        ("left unread", r"teacher/0: block0/conv is read by more than its BatchNorm"),
        ("run twice", r"teacher/0: block0/norm is run more than once"),
        ("shared layer", r"teacher/0: block0/conv is read by more than its BatchNorm"),
    ],
)
def test_what_cannot_be_folded_is_named(kind, message):
    hybrid, variables = own_pair(kind)
    path = composition_path(hybrid, variables, Composition.parse("TT"))
    with pytest.raises(FoldingError, match=message):
        folded_path(hybrid, path)


def test_statistics_that_no_norm_reads_are_named():
    hybrid, variables = own_pair("conv")
    variables["teacher"]["batch_stats"]["block0"]["old"] = {"mean": np.zeros(4, np.float32)}
    path = composition_path(hybrid, variables, Composition.parse("TT"))
    with pytest.raises(FoldingError, match="'block0/old/mean' is of no BatchNorm"):
        folded_path(hybrid, path)
