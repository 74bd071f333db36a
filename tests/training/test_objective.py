"""The objective against evaluations of each composition apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork, masks
from pwl_jax.ladder import Composition, Unit
from pwl_jax.models.initialisation import initial_variables
from pwl_jax.training import losses
from pwl_jax.training.drawing import draw_crossing, draw_switch
from pwl_jax.training.objective import (
    Objective,
    distillation_loss,
    prefix_masks,
    trained_streams,
)
from tests.tiny_pairs import tiny_pair

TEMPERATURE, ALPHA = 2.0, 0.4


@functools.cache
def setting(statistics="per_stream"):
    spec = tiny_pair("vgg", statistics=statistics)
    hybrid = HybridNetwork.from_pair(spec)
    variables = initial_variables(hybrid.init, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (6, *spec.teacher.input_shape))
    return hybrid, variables, images, jnp.array([0, 1, 2, 3, 4, 5])


@functools.cache
def compiled(objective, statistics="per_stream"):
    """The loss as a function of masks and key, compiled once for all tests."""
    hybrid, variables, images, labels = setting(statistics)
    return jax.jit(
        lambda stacked, rng: distillation_loss(
            hybrid, objective, variables, images, labels, stacked, rng
        )
    )


def terms_of(objective, statistics="per_stream", seed=2):
    hybrid, variables, _, _ = setting(statistics)
    stacked = prefix_masks(hybrid, variables)
    total, outputs = compiled(objective, statistics)(stacked, jax.random.key(seed))
    np.testing.assert_allclose(total, sum(outputs.terms.values()), rtol=1e-6)
    return {name: float(v) for name, v in outputs.terms.items()}, outputs.batch_stats


@functools.cache
def separate():
    """Every composition by itself in train mode, the student's own features, the teacher's."""
    hybrid, variables, images, _ = setting()
    apply = jax.jit(functools.partial(hybrid.apply, variables, images, train=True))
    outputs = {}
    for composition in Composition.all(hybrid.num_blocks):
        mask = jax.tree.map(jnp.asarray, hybrid.mask_of(variables, composition))
        outputs[str(composition)] = apply(mask)
    own = variables["student"]["batch_stats"]["own"]
    student = {"params": variables["student"]["params"], "batch_stats": own}
    features = jax.jit(lambda: hybrid.student.apply(student, images, train=True).features)()
    return outputs, features, jax.jit(hybrid.teacher.apply)(variables["teacher"], images)


def distilled(name):
    outputs, _, teacher = separate()
    labels = setting()[3]
    hard = losses.cross_entropy(outputs[name].logits, labels)
    soft = losses.soft_cross_entropy(teacher.logits, outputs[name].logits, TEMPERATURE)
    return float(ALPHA * hard + (1 - ALPHA) * soft)


@functools.cache
def own_feature_terms():
    hybrid, variables, _, _ = setting()
    _, features, teacher = separate()
    d = losses.feature_distance

    def convert(kind, k, x):
        unit = Unit(kind, k)
        return hybrid.run(unit, hybrid.unit_variables(variables, unit), x)

    @jax.jit
    def terms():
        sync = recon = 0.0
        for k in range(hybrid.num_blocks - 1):
            f_s, f_t = features[f"block{k}"], teacher.features[f"block{k}"]
            narrow, wide = convert("encoder", k, f_t), convert("decoder", k, f_s)
            sync += d(f_s, narrow) + d(f_t, wide)
            recon += d(f_t, convert("decoder", k, narrow)) + d(f_s, convert("encoder", k, wide))
        return sync / (hybrid.num_blocks - 1), recon / (hybrid.num_blocks - 1)

    return tuple(map(float, terms()))


def test_baseline_all_is_reproduced_from_separate_evaluations():
    terms, _ = terms_of(Objective(align_streams=False))
    outputs, _, teacher = separate()
    labels = setting()[3]
    student = outputs["SSS"].logits
    sync, recon = own_feature_terms()
    expected = {
        "hard": ALPHA * float(losses.cross_entropy(student, labels)),
        "soft": (1 - ALPHA)
        * float(losses.soft_cross_entropy(teacher.logits, student, TEMPERATURE)),
        "sync": sync,
        "recon": recon,
        "cross": 2 * (distilled("TSS") + distilled("TTS")) / 2,
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, rel=1e-5), name


def test_baseline_random_is_the_composition_it_drew():
    objective = Objective(cross="random", align_streams=False)
    outputs, _, teacher = separate()
    sync, recon = own_feature_terms()
    for seed in (2, 3, 4):
        terms, _ = terms_of(objective, seed=seed)
        key, _ = jax.random.split(jax.random.key(seed))
        sources = draw_switch(key, 3)
        name = "".join("T" if source else "S" for source in sources)
        soft = losses.soft_cross_entropy(teacher.logits, outputs[name].logits, TEMPERATURE)
        assert terms["cross"] == pytest.approx(2 * float(soft), rel=1e-4)
        assert terms["sync"] == pytest.approx(sync, rel=1e-5)
        assert terms["recon"] == pytest.approx(recon, rel=1e-5)
        assert terms.keys() == {"hard", "soft", "sync", "recon", "cross"}


def test_every_stream_is_aligned_with_the_teacher():
    hybrid, variables, _images, _ = setting()
    terms, _ = terms_of(Objective())
    _, _, teacher = separate()
    # Three blocks: the one stream that crosses a later inner boundary enters behind block 0.
    encoder, decoder = Unit("encoder", 0), Unit("decoder", 1)
    entered = hybrid.run(
        encoder, hybrid.unit_variables(variables, encoder), teacher.features["block0"]
    )
    block = hybrid.unit_variables(variables, Unit("student", 1), 0)
    x, _ = hybrid.student.apply_block(1, block, entered, train=True)
    f_t = teacher.features["block1"]
    encode = Unit("encoder", 1)
    encoded = hybrid.run(encode, hybrid.unit_variables(variables, encode), f_t)
    expected = losses.synchronisation(
        x,
        f_t,
        encoded,
        lambda y: hybrid.run(decoder, hybrid.unit_variables(variables, decoder), y),
    )
    assert terms["align"] == pytest.approx(float(expected), rel=1e-5)
    assert "align" not in terms_of(Objective(align_streams=False))[0]


@pytest.mark.parametrize("statistics", ["per_stream", "shared"])
def test_streams_one_after_the_other_have_the_same_loss(statistics):
    batched, batched_stats = terms_of(Objective(batch_streams=True), statistics)
    apart, apart_stats = terms_of(Objective(batch_streams=False), statistics)
    assert batched.keys() == apart.keys()
    for name, value in batched.items():
        # Float sums in another order.
        assert apart[name] == pytest.approx(value, rel=1e-5), name
    chex_close(batched_stats, apart_stats)


def test_masks_choose_the_prefixes_that_are_trained_without_a_recompile():
    hybrid, variables, _, _ = setting()
    loss = compiled(Objective(align_streams=False))

    def terms(*chosen):
        masked = [hybrid.mask_of(variables, Composition.parse(c)) for c in chosen]
        return loss(masks.stack_masks(masked), jax.random.key(0))[1].terms

    for chosen, expected in (
        (("SSS", "TSS", "TTS"), (distilled("TSS") + distilled("TTS"))),
        (("SSS", "TSS", "TSS"), 2 * distilled("TSS")),
        (("SSS", "TTS", "SST"), 2 * distilled("TTS")),
        (("SSS", "SSS", "SSS"), 0.0),
    ):
        found = terms(*chosen)
        assert float(found["cross"]) == pytest.approx(expected, rel=1e-5), chosen
        assert float(found["hard"]) > 0
    assert float(terms("TSS", "TSS", "TSS")["hard"]) == 0
    assert loss._cache_size() == 1


def test_trained_streams_of_stacked_masks():
    hybrid, variables, _, _ = setting()
    np.testing.assert_array_equal(trained_streams(prefix_masks(hybrid, variables)), [1, 1, 1])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_mixed_compositions_add_their_logit_losses(count):
    """Pairs of opposite ones, and of an odd number the last by itself."""
    objective = Objective(mixed_compositions=count)
    terms, _ = terms_of(objective)
    _, rng = jax.random.split(jax.random.key(2))
    names = []
    for key in jax.random.split(rng, (count + 1) // 2):
        drawn = draw_switch(key, 3)
        names += ["".join("T" if s else "S" for s in sources) for sources in (drawn, ~drawn)]
    expected = sum(map(distilled, names[:count]))
    assert terms["mixed"] == pytest.approx(expected, rel=1e-4)
    # Other compositions, and the same program.
    terms_of(objective, seed=3)
    assert compiled(objective, "per_stream")._cache_size() == 1


def test_statistics_are_kept_per_stream_or_shared_in_the_baselines_order():
    outputs, _, _ = separate()
    _, per_stream = terms_of(Objective())
    _, shared = terms_of(Objective(), "shared")
    own = outputs["SSS"].moments["block2"]
    entries = [outputs[name].moments["block2"] for name in ("TSS", "TTS")]

    def blend(running, new):
        return jax.tree.map(lambda r, n: 0.9 * r + 0.1 * n, running, new)

    start = setting()[1]["student"]["batch_stats"]["own"]["block2"]
    for name, moments in (("own", own), ("entry0", entries[0]), ("entry1", entries[1])):
        chex_close(per_stream[name]["block2"], blend(start, moments))
    assert list(shared) == ["own"]
    chex_close(shared["own"]["block2"], functools.reduce(blend, [own, *entries], start))


def chex_close(got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_drawn_compositions_are_never_pure_and_follow_the_baselines_rule():
    drawn = np.asarray(
        jax.vmap(lambda k: draw_switch(k, 4))(jax.random.split(jax.random.key(0), 4000))
    )
    counts = drawn.sum(1)
    assert counts.min() >= 1 and counts.max() <= 3
    switches = (drawn[:, 1:] != drawn[:, :-1]).sum(1)
    # Half have one switch by rule; of the free half, 6 of 16 patterns do and 2 of 16 are mended
    # by one flip, which gives one switch for 2 of 4 positions: 1/2 + (6 + 1) / 32 = 0.719.
    # Four standard errors of 4000 draws are 0.028.
    assert abs((switches == 1).mean() - 0.719) < 0.03
    assert abs(drawn.mean() - 0.5) < 0.03


@pytest.mark.slow
def test_mixed_compositions_may_train_converters_alone():
    hybrid, variables, images, labels = setting()
    stacked = prefix_masks(hybrid, variables)

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(mixed_trains, params):
        objective = Objective(
            mixed_compositions=1, mixed_rule="crossing", mixed_trains=mixed_trains
        )

        def mixed(params):
            moved = {name: {**variables[name], "params": params[name]} for name in variables}
            _, outputs = distillation_loss(
                hybrid, objective, moved, images, labels, stacked, jax.random.key(2)
            )
            return outputs.terms["mixed"]

        return jax.grad(mixed)(params)

    params = {name: tree["params"] for name, tree in variables.items()}
    alone, both = (gradient(what, params) for what in ("converters", "all"))
    assert not any(leaf.any() for leaf in jax.tree.leaves(alone["student"]))
    assert any(leaf.any() for leaf in jax.tree.leaves(both["student"]))
    assert any(leaf.any() for leaf in jax.tree.leaves(alone["decoders"]))
    chex_close(alone["decoders"], both["decoders"])


def test_drawn_crossings_are_no_prefixes_and_all_others_come():
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = np.asarray(jax.vmap(lambda k: draw_crossing(k, 4))(keys))
    names = ["".join("T" if source else "S" for source in row) for row in drawn]
    counts = {str(c): names.count(str(c)) for c in Composition.all(4) if not c.is_prefix}
    assert sum(counts.values()) == 2000
    # Three boundaries and two free blocks make twelve equal chances, two of them STST.
    for name, count in counts.items():
        expected = 2000 * name.count("ST") / 12
        assert abs(count - expected) < 4 * expected**0.5, name
    np.testing.assert_array_equal(draw_crossing(jax.random.key(1), 2), [False, True])


def test_terms_of_no_weight_are_not_computed():
    kd = {"cross": "none", "align_streams": False, "w_sync": 0.0, "w_recon": 0.0}
    student = separate()[0]["SSS"].logits
    hard = float(losses.cross_entropy(student, setting()[3]))
    terms, stats = terms_of(Objective(**kd))
    assert terms.keys() == {"hard", "soft"}
    assert terms["hard"] + terms["soft"] == pytest.approx(distilled("SSS"), rel=1e-5)
    alone, _ = terms_of(Objective(**kd, alpha=1.0))
    assert alone == {"hard": pytest.approx(hard, rel=1e-5)}
    # Streams that were not run keep their statistics.
    before = setting()[1]["student"]["batch_stats"]
    chex_close(stats["entry0"], before["entry0"])


def test_decoupled_distillation_takes_the_place_of_every_soft_loss():
    outputs, _, teacher = separate()
    labels = setting()[3]
    terms, _ = terms_of(Objective(soft="dkd", temperature=4.0, w_others=2.0, align_streams=False))

    def soft(name):
        return float(
            losses.decoupled_distillation(
                teacher.logits, outputs[name].logits, labels, 4.0, 1.0, 2.0
            )
        )

    assert terms["soft"] == pytest.approx((1 - ALPHA) * soft("SSS"), rel=1e-4)
    cross = [
        ALPHA * float(losses.cross_entropy(outputs[name].logits, labels)) + (1 - ALPHA) * soft(name)
        for name in ("TSS", "TTS")
    ]
    assert terms["cross"] == pytest.approx(2 * np.mean(cross), rel=1e-4)


@pytest.mark.slow
def test_each_prefix_may_imitate_the_next_one():
    hybrid, variables, images, labels = setting()
    outputs, _, teacher = separate()
    objective = Objective(soft_target="next", align_streams=False)
    terms, _ = terms_of(objective)
    logits = [outputs[name].logits for name in ("SSS", "TSS", "TTS")] + [teacher.logits]

    def soft(k):
        return (1 - ALPHA) * float(losses.soft_cross_entropy(logits[k + 1], logits[k], TEMPERATURE))

    assert terms["soft"] == pytest.approx(soft(0), rel=1e-4)
    hard = [ALPHA * float(losses.cross_entropy(logits[k], labels)) for k in (1, 2)]
    expected = 2 * np.mean([hard[0] + soft(1), hard[1] + soft(2)])
    assert terms["cross"] == pytest.approx(expected, rel=1e-4)

    def own_soft(entry):
        moved = {**variables, "encoders": {**variables["encoders"], "params": entry}}
        stacked = prefix_masks(hybrid, variables)
        run = distillation_loss(
            hybrid, objective, moved, images, labels, stacked, jax.random.key(0)
        )
        return run[1].terms["soft"]

    # What is imitated is a constant: the encoders feed the next prefix and get nothing from it.
    gradient = jax.jit(jax.grad(own_soft))(variables["encoders"]["params"])
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_ramps_follow_the_progress_without_a_recompile():
    hybrid, variables, images, labels = setting()
    plain, _ = terms_of(Objective())
    objective = Objective(ramps=[["align", 1, 0.2, 0.5], ["soft", 0, 1, 1]])
    assert objective == Objective(ramps=(("align", 1.0, 0.2, 0.5), ("soft", 0.0, 1.0, 1.0)))
    stacked = prefix_masks(hybrid, variables)

    @jax.jit
    def terms(progress):
        return distillation_loss(
            hybrid, objective, variables, images, labels, stacked, jax.random.key(2), progress
        )

    for progress, align, soft in ((0.0, 1.0, 0.0), (0.25, 0.6, 0.25), (0.75, 0.2, 0.75)):
        total, outputs = terms(progress)
        factors = {"align": align, "soft": soft}
        assert outputs.terms.keys() == plain.keys()
        for name, value in plain.items():
            # The last bits of a sum in another program.
            expected = factors.get(name, 1.0) * value
            assert float(outputs.terms[name]) == pytest.approx(expected, rel=1e-4), name
        np.testing.assert_allclose(total, sum(outputs.terms.values()), rtol=1e-6)
    assert terms._cache_size() == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"cross": "some"},
        {"temperature": 0.0},
        {"alpha": 1.5},
        {"mixed_compositions": -1},
        {"soft": "hard"},
        {"mixed_rule": "any"},
        {"ramps": [["nothing", 0, 1, 1]]},
        {"ramps": [["align", 0, 1, 0]]},
        {"soft_target": "next", "cross": "random"},
    ],
)
def test_impossible_objectives_are_refused(fields):
    with pytest.raises(UserError, match=next(iter(fields)).removesuffix("s")):
        Objective(**fields)
