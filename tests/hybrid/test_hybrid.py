"""The hybrid network's promises: masks, the walk, block programs, gradients, compiles."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.hybrid import HybridNetwork, MaskError, live_bytes, statistics, walk
from pwl_jax.hybrid.masks import composition_of, leaf_names, mask_of, unit_of
from pwl_jax.ladder import Composition, Unit
from pwl_jax.models.registry import PairSpec
from tests.tiny_models import images_of, tiny_model
from tests.tiny_pairs import NETWORKS


@functools.cache
def make(family: str, **fields):
    """A small hybrid whose statistics differ from stream to stream, and a batch."""
    model = tiny_model(family, **fields)
    variables = jax.tree.map(jnp.asarray, model.variables)
    return model.hybrid, variables, jnp.asarray(images_of(model, 4))


@functools.cache
def compiled(hybrid):
    return jax.jit(hybrid.run, static_argnums=0)


def run_programs(hybrid, variables, composition, x):
    """The composition by its block programs, each compiled alone."""
    for unit in composition.units():
        entry = composition.entry(unit)
        x = compiled(hybrid)(unit, hybrid.unit_variables(variables, unit, entry), x)
    return x


@pytest.mark.parametrize(
    "family",
    [
        "vgg",
        pytest.param("lenet5", marks=pytest.mark.slow),
        pytest.param("resnet", marks=pytest.mark.long),
        pytest.param("vit", marks=pytest.mark.slow),
    ],
)
def test_walk_agrees_with_separate_evaluations_and_one_compile_serves_all_masks(family):
    hybrid, variables, images = make(family)
    blocks = hybrid.num_blocks
    out = jax.jit(functools.partial(walk, hybrid))(variables, images)
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(hybrid.apply, n=1)
    apply = jax.jit(traced)
    for k, composition in enumerate(Composition.prefixes(blocks)):
        mask = jax.tree.map(jnp.asarray, hybrid.mask_of(variables, composition))
        alone = apply(variables, images, mask).logits
        walked = out.teacher_logits if k == blocks else out.logits[k]
        # Batching over streams may reorder sums: a few units in the last place.
        scale = float(jnp.abs(alone).max())
        np.testing.assert_allclose(walked, alone, atol=2e-6 * max(scale, 1.0))
        np.testing.assert_array_equal(alone, run_programs(hybrid, variables, composition, images))


def test_every_mixed_composition_equals_its_programs_bit_for_bit():
    hybrid, variables, images = make("vgg")
    apply = jax.jit(hybrid.apply)
    for composition in Composition.all(hybrid.num_blocks):
        mask = jax.tree.map(jnp.asarray, hybrid.mask_of(variables, composition))
        np.testing.assert_array_equal(
            apply(variables, images, mask).logits,
            run_programs(hybrid, variables, composition, images),
            err_msg=str(composition),
        )


def test_opposite_compositions_share_a_run_and_equal_their_own():
    hybrid, variables, images = make("vgg")
    blocks = hybrid.num_blocks

    def apart(params, sources):
        found = []
        for each in (sources, ~sources):
            mask = hybrid.mask_from_sources(variables, each)
            tree = {**variables, "student": {**variables["student"], "params": params}}
            found.append(hybrid.apply(tree, images, mask, train=True))
        return found

    def together(params, sources):
        tree = {**variables, "student": {**variables["student"], "params": params}}
        return hybrid.apply_opposites(tree, images, sources)

    def loss(outputs):
        return sum(jnp.square(each.logits).sum() * k for k, each in enumerate(outputs, 1))

    params = variables["student"]["params"]
    both = [
        jax.jit(jax.value_and_grad(lambda p, s, way=way: (loss(o := way(p, s)), o), has_aux=True))
        for way in (apart, together)
    ]
    for composition in Composition.all(blocks):
        sources = jnp.array([source == "T" for source in composition.sources])
        ((_, expected), theirs), ((_, found), gradients) = (way(params, sources) for way in both)
        for mine, other, own in zip(found, expected, (sources, ~sources), strict=True):
            np.testing.assert_allclose(mine.logits, other.logits, rtol=1e-5, atol=1e-6)
            stats = variables["student"]["batch_stats"]
            mask = hybrid.mask_from_sources(variables, own)
            blended = [statistics.blend_hybrid(stats, o.moments, mask) for o in (mine, other)]
            chex.assert_trees_all_close(*blended, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(gradients, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "family",
    [
        "lenet5",
        pytest.param("resnet", marks=pytest.mark.long),
        pytest.param("vit", marks=pytest.mark.long),
    ],
)
def test_leaves_outside_the_mask_may_be_nan(family):
    hybrid, variables, images = make(family)

    @jax.jit
    def logits_and_gradients(variables, mask):
        def loss(v):
            logits = hybrid.apply(v, images, mask).logits
            return jnp.square(logits).sum(), logits

        (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(variables)
        return logits, gradients

    for name in ("SSSS", "TTTT", "TTSS", "SSTT", "STST", "TSTS"):
        name = name[: hybrid.num_blocks]
        mask = jax.tree.map(jnp.asarray, hybrid.mask_of(variables, Composition.parse(name)))
        poisoned = jax.tree.map(
            lambda m, v: jnp.where(m, v, jnp.full_like(v, jnp.nan)), mask, variables
        )
        clean, clean_gradients = logits_and_gradients(variables, mask)
        logits, gradients = logits_and_gradients(poisoned, mask)
        np.testing.assert_array_equal(logits, clean, err_msg=name)
        assert np.isfinite(logits).all()
        for read, leaf, expected in zip(
            jax.tree.leaves(mask),
            jax.tree.leaves(gradients),
            jax.tree.leaves(clean_gradients),
            strict=True,
        ):
            np.testing.assert_array_equal(leaf, expected, err_msg=name)
            if not read:
                assert not np.asarray(leaf).any()


def test_stacked_masks_under_vmap_keep_nan_out():
    hybrid, variables, images = make("resnet")
    mask = jax.tree.map(jnp.asarray, hybrid.mask_of(variables, Composition.parse("TSS")))
    poisoned = jax.tree.map(
        lambda m, v: jnp.where(m, v, jnp.full_like(v, jnp.nan)), mask, variables
    )

    def loss(v):
        stacked = jax.tree.map(lambda m: m[None], mask)
        return jax.vmap(lambda m: hybrid.apply(v, images, m).logits)(stacked).sum()

    gradients = jax.jit(jax.grad(loss))(poisoned)
    for read, leaf in zip(jax.tree.leaves(mask), jax.tree.leaves(gradients), strict=True):
        assert np.isfinite(leaf).all() if read else not np.asarray(leaf).any()


@pytest.mark.parametrize("family", ["vgg", pytest.param("vit", marks=pytest.mark.long)])
def test_every_stream_contributes_gradient(family):
    hybrid, variables, images = make(family)

    def stream_loss(params, stream):
        student = {**variables["student"], "params": params}
        out = walk(hybrid, {**variables, "student": student}, images, train=True)
        return jnp.square(out.logits[stream]).sum()

    gradient = jax.jit(jax.grad(stream_loss))
    for stream in range(hybrid.num_blocks):
        parts = gradient(variables["student"]["params"], stream)
        for i in range(hybrid.num_blocks):
            size = sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(parts[f"block{i}"]))
            # Stream s starts behind teacher block s-1: earlier student blocks are not its own.
            assert (size > 0) == (i >= stream), (stream, i, size)


def test_teacher_blocks_pass_gradients_to_what_lies_before_and_keep_none():
    hybrid, variables, images = make("resnet")
    mask = hybrid.mask_of(variables, Composition.parse("SST"))

    def loss(v):
        return jnp.square(hybrid.apply(v, images, mask).logits).sum()

    gradients = jax.jit(jax.grad(loss))(variables)
    sums = {
        name: float(jnp.abs(leaf).sum())
        for name, leaf in zip(leaf_names(gradients), jax.tree.leaves(gradients), strict=True)
    }
    assert not any(value for name, value in sums.items() if name.startswith("teacher/"))
    assert sums["decoders/params/boundary1/kernel"] > 0
    assert any(v > 0 for name, v in sums.items() if name.startswith("student/params/embedder"))


@pytest.mark.parametrize("statistics", ["per_stream", "shared"])
def test_masks_and_compositions_are_inverse_and_count_exact_bytes(statistics):
    hybrid, variables, _ = make("resnet", statistics=statistics)
    sizes = {
        name: leaf.size * 4
        for name, leaf in zip(leaf_names(variables), jax.tree.leaves(variables), strict=True)
    }
    for composition in Composition.all(3):
        mask = hybrid.mask_of(variables, composition)
        assert hybrid.composition_of(mask) == composition
        expected = 0
        for name, size in sizes.items():
            unit = unit_of(name, 3)
            if unit not in composition.units():
                continue
            if name.startswith("student/batch_stats/"):
                entry = composition.entry(unit)
                own = entry is None or statistics == "shared"
                if name.split("/")[2] != ("own" if own else f"entry{entry}"):
                    continue
            expected += size
        assert live_bytes(variables, mask) == expected


def test_a_mask_of_no_composition_is_refused_by_name():
    hybrid, variables, images = make("resnet")
    mask = hybrid.mask_of(variables, Composition.parse("TSS"))
    mask["decoders"]["params"]["boundary0"]["kernel"] = np.bool_(True)
    with pytest.raises(MaskError, match="decoders/params/boundary0/kernel"):
        composition_of(mask)
    with pytest.raises(MaskError, match="decoders/params/boundary0/kernel"):
        hybrid.apply(variables, images, mask)


def test_shared_statistics_serve_every_stream():
    _hybrid, variables, _ = make("resnet", statistics="shared")
    assert list(variables["student"]["batch_stats"]) == ["own"]
    # Behind a teacher block the student's statistics are still its own: there are no others.
    mask = mask_of(variables, Composition.parse("TSS"), streams=False)
    read = mask["student"]["batch_stats"]["own"]
    assert all(jax.tree.leaves(read["block1"])) and all(jax.tree.leaves(read["block2"]))
    assert not any(jax.tree.leaves(read["block0"]))


def test_equal_widths_give_identity_converters_without_leaves_unless_asked_for():
    teacher, student = NETWORKS["resnet"]
    student = dataclasses.replace(student, widths=(6, 4, 10))
    for converters in ("identity", "linear"):
        spec = PairSpec(name="p", teacher=teacher, student=student, converters=converters)
        hybrid = HybridNetwork.from_pair(spec)
        variables = jax.eval_shape(hybrid.init, jax.random.key(0))
        for k, (wide, narrow) in enumerate(spec.boundary_widths):
            identity = wide == narrow and converters == "identity"
            assert hybrid.encoders[k].identity == hybrid.decoders[k].identity == identity
            for group in ("encoders", "decoders"):
                assert (f"boundary{k}" in variables[group]["params"]) != identity
    assert spec.boundary_widths == ((6, 6), (8, 4))


def test_unit_of_names():
    assert unit_of("teacher/params/embedder/conv/kernel", 4) == Unit("teacher", 0)
    assert unit_of("student/batch_stats/entry1/block2/norm/mean", 4) == Unit("student", 2)
    assert unit_of("student/params/head/dense/kernel", 4) == Unit("student", 3)
    assert unit_of("decoders/params/boundary2/bias", 4) == Unit("decoder", 2)
