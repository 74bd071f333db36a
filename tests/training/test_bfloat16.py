"""Computing in bfloat16: parameters and losses stay float32, and training reaches as far."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.data import sources
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.models.initialisation import initial_variables
from pwl_jax.models.registry import PairSpec, pair
from pwl_jax.training import workdir
from pwl_jax.training.objective import Objective, distillation_loss, prefix_masks
from tests import tiny_runs
from tests.tiny_pairs import tiny_pair


def in_bfloat16(spec: PairSpec) -> PairSpec:
    fields = spec.to_dict()
    for role in ("teacher", "student"):
        fields[role]["dtype"] = "bfloat16"
    return PairSpec.from_dict(fields)


def test_losses_and_gradients_are_float32_and_near_those_in_float32():
    found = {}
    for name, spec in (
        ("float32", tiny_pair("lenet5")),
        ("bfloat16", in_bfloat16(tiny_pair("lenet5"))),
    ):
        hybrid = HybridNetwork.from_pair(spec)
        variables = initial_variables(hybrid.init, jax.random.key(0))
        images = jax.random.normal(jax.random.key(1), (8, *spec.teacher.input_shape))
        loss = functools.partial(distillation_loss, hybrid, Objective())
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        masks = prefix_masks(hybrid, variables)
        found[name] = step(variables, images, jnp.arange(8), masks, jax.random.key(2))
    (value, outputs), gradients = found["bfloat16"]
    leaves = [value, *outputs.terms.values(), *jax.tree.leaves(gradients)]
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    (wanted, terms), _ = found["float32"]
    # bfloat16 keeps eight bits: features differ by up to 1 %, terms of them by a little more.
    assert value == pytest.approx(float(wanted), rel=0.03)
    assert value != wanted
    for name, term in outputs.terms.items():
        assert term == pytest.approx(float(terms.terms[name]), rel=0.1, abs=0.01), name


@pytest.mark.slow
def test_digits_are_learnt_as_well_as_in_float32(tmp_path):
    scores = {}
    spec = pair("lenet5_digits")
    for name, chosen in (("float32", spec), ("bfloat16", in_bfloat16(spec))):
        run = tiny_runs.config(
            "teacher",
            pair=chosen.to_dict(),
            optimizer={"name": "adamw", "learning_rate": 3e-3, "weight_decay": 1e-2},
            augmentation={"crop_padding": 1},
            batch_size=64,
            epochs=20,
            eval_every_epochs=20,
            checkpoint_every_steps=1000,
        )
        tiny_runs.train(run, tmp_path / name)
        leaves = tiny_runs.leaves(tmp_path / name)
        assert {leaf.dtype for leaf in leaves.values()} == {np.dtype("float32")}
        model = workdir.load_network(tmp_path / name, "last")
        (found,) = workdir.measure_network(model, sources.load("digits", "test")).values()
        scores[name] = found.top1
    assert scores["float32"] > 0.95
    assert scores["bfloat16"] > scores["float32"] - 0.01
