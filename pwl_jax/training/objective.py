"""The distillation objective: every prefix of every batch, trained and aligned in one walk."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork, masks, statistics, walk
from pwl_jax.hybrid.walk import WalkOutputs
from pwl_jax.ladder import Composition, Unit
from pwl_jax.models.block_network import Variables
from pwl_jax.training import losses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Weights and switches of the distillation loss (PWL; defaults are the baseline's).

    With `align_streams=False` and `mixed_compositions=0` it is the PyTorch baseline's objective,
    in its mode `all` or `random`.

    Attributes:
      temperature: T of the softened distributions.
      alpha: weight of the hard loss; the soft one has 1 - alpha.
      w_sync, w_recon: weights of the feature terms of the student's own stream.
      cross: `all` trains every prefix stream's logits; `random` one drawn composition a step.
      w_cross: weight of the cross term.
      align_streams: also align the features of every prefix stream with the teacher's.
      w_align: weight of that.
      mixed_compositions: random compositions a step whose logits are trained besides.
      w_mixed: weight of each of them.
      batch_streams: whether a student block computes all its streams in one call, or one after
        the other; the loss is the same. None takes what is quicker: one call on accelerators, one
        after the other on CPU (BUILD_NOTES).
    """

    temperature: float = 2.0
    alpha: float = 0.4
    w_sync: float = 1.0
    w_recon: float = 1.0
    cross: Literal["all", "random"] = "all"
    w_cross: float = 2.0
    align_streams: bool = True
    w_align: float = 1.0
    mixed_compositions: int = 0
    w_mixed: float = 1.0
    batch_streams: bool | None = None

    def __post_init__(self) -> None:
        if self.cross not in ("all", "random"):
            raise UserError(f"cross is '{self.cross}'; expected 'all' or 'random'")
        if self.temperature <= 0:
            raise UserError(f"temperature is {self.temperature}; expected more than 0")
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha is {self.alpha}; expected 0 to 1")
        if self.batch_streams not in (None, False, True):
            raise UserError(
                f"batch_streams is {self.batch_streams!r}; expected true, false or null"
            )
        if self.mixed_compositions < 0:
            raise UserError(f"mixed_compositions is {self.mixed_compositions}; expected 0 or more")


class LossOutputs(NamedTuple):
    """What a loss reports besides its value.

    Attributes:
      terms: each weighted term, f32 scalars; they sum to the loss.
      batch_stats: the trained network's statistics after this batch.
    """

    terms: dict[str, jax.Array]
    batch_stats: dict[str, Any]


def prefix_masks(hybrid: HybridNetwork, variables: Variables) -> Variables:
    """Stacked masks of all prefixes that read student blocks: bool[N] leaves."""
    prefixes = Composition.prefixes(hybrid.num_blocks)[:-1]
    return masks.stack_masks([hybrid.mask_of(variables, prefix) for prefix in prefixes])


def trained_streams(stacked_masks: Variables) -> jax.Array:
    """Which prefix streams the masks ask for: f32[N] of 0 and 1, stream s has s teacher blocks.

    The masks may be traced: training other prefixes takes no recompile.
    """
    sources = masks.sources_of(stacked_masks)
    blocks = sources.shape[-1]
    prefixes = jnp.arange(blocks)[None, :] < jnp.arange(blocks)[:, None]
    equal = (sources[:, None, :] == prefixes[None, :, :]).all(-1)
    return equal.any(0).astype(jnp.float32)


def draw_sources(rng: jax.Array, blocks: int) -> jax.Array:
    """A random mixed composition by the baseline's rule: bool[N], never all equal.

    With probability 1/2 there is one switch point (a prefix or a suffix), else every block is
    drawn alone.
    """
    coin, start, pivot, bits, flip = jax.random.split(rng, 5)
    first = jax.random.bernoulli(start)
    positions = jnp.arange(blocks)
    single = jnp.where(positions < jax.random.randint(pivot, (), 1, blocks), first, ~first)
    free = jax.random.bernoulli(bits, shape=(blocks,))
    uniform = (free == free[0]).all()
    flipped = positions == jax.random.randint(flip, (), 0, blocks)
    free = jnp.where(uniform & flipped, ~free, free)
    return jnp.where(jax.random.bernoulli(coin), single, free)


def distillation_loss(
    hybrid: HybridNetwork,
    objective: Objective,
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    stacked_masks: Variables,
    rng: jax.Array,
) -> tuple[jax.Array, LossOutputs]:
    """The whole objective on one device's batch.

    Args:
      hybrid, objective: static.
      variables: the hybrid's tree; the teacher's part is constant.
      images: f32[batch, height, width, channels], augmented and normalised.
      labels: int[batch].
      stacked_masks: bool[M] leaves, the prefixes to train (see `prefix_masks`).
      rng: of this step, the same on all devices; draws compositions.

    Returns:
      The loss, and its terms with the student's new statistics.
    """
    o = objective
    active = trained_streams(stacked_masks)
    out = walk(
        hybrid,
        variables,
        images,
        train=True,
        entries=o.cross == "all",
        batched=jax.default_backend() != "cpu" if o.batch_streams is None else o.batch_streams,
    )
    stats = statistics.blend_walk(hybrid, variables["student"]["batch_stats"], out.moments)

    def distilled(logits: jax.Array) -> jax.Array:
        return losses.distillation(out.teacher_logits, logits, labels, o.temperature, o.alpha)

    terms = {
        "hard": active[0] * o.alpha * losses.cross_entropy(out.logits[0], labels),
        "soft": active[0]
        * (1 - o.alpha)
        * losses.soft_cross_entropy(out.teacher_logits, out.logits[0], o.temperature),
        **_feature_terms(hybrid, objective, variables, out, active),
    }
    drawn = o.mixed_compositions
    if o.cross == "all":
        terms["cross"] = o.w_cross * _mean(jax.vmap(distilled)(out.logits[1:]), active[1:])
    else:
        drawn += 1
    for i, key in enumerate(jax.random.split(rng, drawn) if drawn else ()):
        mask = hybrid.mask_from_sources(variables, draw_sources(key, hybrid.num_blocks))
        mixed = hybrid.apply(variables, images, mask, train=True)
        stats = statistics.blend_hybrid(stats, mixed.moments, mask)
        if o.cross == "random" and i == 0:
            soft = losses.soft_cross_entropy(out.teacher_logits, mixed.logits, o.temperature)
            terms["cross"] = o.w_cross * soft
        else:
            terms["mixed"] = terms.get("mixed", jnp.zeros(())) + o.w_mixed * distilled(mixed.logits)
    return sum(terms.values(), jnp.zeros(())), LossOutputs(terms, stats)


def _feature_terms(
    hybrid: HybridNetwork,
    objective: Objective,
    variables: Variables,
    out: WalkOutputs,
    active: jax.Array,
) -> dict[str, jax.Array]:
    """`sync` and `recon` of the own stream, `align` of the others, each a mean over its pairs."""
    sync, recon = [], []
    align, weights = [], []
    for k, (teacher, encoded, streams) in enumerate(
        zip(out.teacher_features, out.encoded, out.features, strict=True)
    ):
        encoder, decoder = (
            lambda x, unit=Unit(kind, k): hybrid.run(
                unit, hybrid.unit_variables(variables, unit), x
            )
            for kind in ("encoder", "decoder")
        )

        def distance(
            x: jax.Array, t: jax.Array = teacher, e: jax.Array = encoded, d: Any = decoder
        ) -> jax.Array:
            return losses.synchronisation(x, t, e, d)

        sync.append(distance(streams[0]))
        recon.append(losses.reconstruction(streams[0], teacher, encoded, encoder, decoder))
        if streams.shape[0] > 1:
            align.append(jax.vmap(distance)(streams[1:]))
            weights.append(active[1 : streams.shape[0]])
    boundaries = max(len(sync), 1)
    terms = {
        "sync": active[0] * objective.w_sync * sum(sync, jnp.zeros(())) / boundaries,
        "recon": objective.w_recon * sum(recon, jnp.zeros(())) / boundaries,
    }
    if objective.align_streams and align:
        terms["align"] = objective.w_align * _mean(jnp.concatenate(align), jnp.concatenate(weights))
    return terms


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean; zero where all weights are."""
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1.0)
