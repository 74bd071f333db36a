"""The check of the protocol passes the library's networks and names each promise that is broken."""

import dataclasses
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.models import (
    BatchNorm,
    BlockNetwork,
    LinearHead,
    NetworkError,
    NetworkSpec,
    check_network,
)
from tests.tiny_pairs import NETWORKS


@pytest.mark.long
@pytest.mark.parametrize("family", NETWORKS)
def test_the_librarys_networks_keep_every_promise(family):
    teacher, _ = NETWORKS[family]
    check_network(teacher)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OddSpec(NetworkSpec, family="odd"):
    """One block that breaks the promise its `fault` names."""

    fault: str = ""
    sizes: Any = (4,)
    axis: bool = True

    def build(self, axis_name=None):
        block = Odd(self.fault, self.compute_dtype, axis_name if self.axis else None)
        head = LinearHead(self.classes + (self.fault == "classes"), self.compute_dtype)
        if self.fault == "bfloat16 logits":
            head = LowHead(self.classes, self.compute_dtype)
        kind = Skipping if self.fault == "whole" else BlockNetwork
        return kind(self.input_shape, None, (block, Plain()), head)


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(5)(x)


class LowHead(LinearHead):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.classes, dtype=self.dtype)(x.reshape(x.shape[0], -1))


class Skipping(BlockNetwork):
    def apply(self, variables, images, *, train=False):
        outputs = super().apply(variables, images, train=train)
        return outputs._replace(logits=2 * outputs.logits)


COUNT = itertools.count()


class Odd(nn.Module):
    fault: str
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x, train):
        fault = self.fault
        x = x.reshape(x.shape[0], -1)
        if fault == "batch size":
            x = x.reshape(1, -1)
        if fault == "one example":
            x = x.mean(0, keepdims=True)
        if fault == "tuple":
            return x, x
        if fault == "state":
            self.variable("cache", "seen", jnp.zeros, (3,))
        if fault == "foreign norm":
            x = nn.BatchNorm(use_running_average=not train)(x)
        if fault == "dropout":
            x = nn.Dropout(0.5, deterministic=not train)(x)
        if fault == "silent norm":
            self.variable("batch_stats", "mean", jnp.zeros, (3,))
        if fault == "half parameters":
            x = nn.Dense(4, param_dtype=jnp.float16)(x)
        if fault == "init":
            value = np.random.default_rng().normal(size=(x.shape[-1], 4)).astype(np.float32)
            x = x @ self.param("kernel", lambda key: jnp.asarray(value))
        if fault == "counter":
            x = x * next(COUNT)
        if fault == "mixing" and not train:
            x = x - x.mean(0, keepdims=True)
        if fault == "error":
            raise RuntimeError("no such layer\nand more")
        return BatchNorm(self.dtype, self.axis_name)(nn.Dense(6)(x), train)


def odd(fault="", **fields):
    return OddSpec(input_shape=(4, 4, 1), classes=3, fault=fault, **fields)


def problems(spec):
    with pytest.raises(NetworkError) as caught:
        check_network(spec)
    return str(caught.value).split("\n")


def test_a_whole_network_has_nothing_to_report():
    check_network(odd())


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("batch size", "block0 cannot be called with any number of examples: "),
        ("one example", "block0 returns ShapeDtypeStruct(shape=(1, 6), dtype=float32) for"),
        ("tuple", "block0 returns ("),
        ("state", "block0 keeps 'cache'; expected params and batch_stats alone"),
        ("foreign norm", "pwl_jax.models.BatchNorm reports moments"),
        ("dropout", "parts take no random numbers"),
        ("silent norm", "expected those of its batch_stats, {'BatchNorm_0/mean': (6,), "),
        ("half parameters", "params/block0/Dense_0/bias is float16 with dtype float32"),
        ("init", "initial values differ each time"),
        ("counter", "the network computes something else each time"),
        ("mixing", "an image's logits depend on the other images of its batch"),
        ("error", "block0 cannot be called as module(x, train): RuntimeError: no such layer"),
        ("whole", "the blocks one after the other give other logits than the whole network"),
        ("classes", "logits are float32[4, 4] with dtype float32; expected float32[4, 3]"),
        ("bfloat16 logits", "logits are bfloat16[4, 3] with dtype bfloat16"),
    ],
)
def test_each_broken_promise_is_named(fault, expected):
    found = problems(odd(fault))
    assert any(expected in line for line in found), found
    assert len({line.split(" with dtype")[0] for line in found}) <= 2, found


def test_specs_that_json_changes_are_named():
    (line,) = problems(odd(sizes=((4, 4), (2,))))
    assert line.startswith("sizes is ((4, 4), (2,)) and comes back from JSON as ([4, 4], [2])")
    (line,) = problems(odd(sizes=jnp.float32))
    assert line.startswith("the spec cannot be written as JSON and read again: TypeError")


def test_moments_of_one_device_alone_are_named():
    (line,) = problems(odd(axis=False))
    assert line.startswith("devices disagree on the moments block0/BatchNorm_0/mean")


def test_every_problem_is_told_at_once():
    lines = problems(dataclasses.replace(odd("mixing"), sizes=((1,),), axis=False))
    assert len(lines) == 3, lines
    assert jax.tree.all([isinstance(line, str) for line in lines])
