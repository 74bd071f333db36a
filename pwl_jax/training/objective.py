"""The distillation objective: every prefix of every batch, trained and aligned in one walk."""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork, HybridOutputs, masks, statistics, walk
from pwl_jax.hybrid.walk import WalkOutputs
from pwl_jax.ladder import Composition, Unit
from pwl_jax.models.block_network import Variables
from pwl_jax.training import losses
from pwl_jax.training.drawing import RULES

TERMS = ("hard", "soft", "sync", "recon", "cross", "align", "mixed")
"""Every term that an objective can have, by the name it is reported under."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Weights and switches of the distillation loss (PWL; defaults are the baseline's).

    With `align_streams=False` and `mixed_compositions=0` it is the PyTorch baseline's objective,
    in its mode `all` or `random`. With `cross="none"` and feature weights of 0 as well it is plain
    distillation of the student; with `alpha=1` besides, no teacher is looked at. `soft`, `sync`,
    `recon` and `align` are not computed where their weight is 0.

    Attributes:
      temperature: T of the softened distributions.
      alpha: weight of the hard loss; the soft one has 1 - alpha.
      soft: `kd`, or `dkd` for decoupled distillation (see `losses.decoupled_distillation`).
      w_target, w_others: of `dkd`, weights of its two parts (alpha and beta there).
      soft_target: what a prefix's soft loss imitates: the `teacher`, or the `next` prefix, which
        has one more of the teacher's blocks. Mixed compositions imitate the teacher.
      w_sync, w_recon: weights of the feature terms of the student's own stream.
      cross: `all` trains every prefix stream's logits; `random` one drawn composition a step;
        `none` only the student's own.
      w_cross: weight of the cross term.
      align_streams: also align the features of every prefix stream with the teacher's.
      w_align: weight of that.
      mixed_compositions: random compositions a step whose logits are trained besides: pairs of
        opposite ones, which share a run of both networks, and of an odd number one by itself.
      w_mixed: weight of each of them.
      mixed_rule: how they, or the first of each pair, are drawn, one of `drawing.RULES`.
      mixed_trains: what they train: `all`, or only the `converters`, which prefixes share; the
        student is then touched by the clipping of gradients and by running averages alone.
      ramps: weights over time: `(term, first, last, share)` multiplies a term of `TERMS` by a
        factor that goes straight from `first` to `last` over that share of the run, and stays.
      batch_streams: whether a student block computes all its streams in one call, or one after
        the other; the loss is the same. None takes what is quicker: one call on accelerators, one
        after the other on CPU (BUILD_NOTES).
    """

    temperature: float = 2.0
    alpha: float = 0.4
    soft: Literal["kd", "dkd"] = "kd"
    w_target: float = 1.0
    w_others: float = 8.0
    soft_target: Literal["teacher", "next"] = "teacher"
    w_sync: float = 1.0
    w_recon: float = 1.0
    cross: Literal["all", "random", "none"] = "all"
    w_cross: float = 2.0
    align_streams: bool = True
    w_align: float = 1.0
    mixed_compositions: int = 0
    w_mixed: float = 1.0
    mixed_rule: Literal["switch", "crossing"] = "switch"
    mixed_trains: Literal["all", "converters"] = "all"
    ramps: tuple[tuple[str, float, float, float], ...] = ()
    batch_streams: bool | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("soft", ("kd", "dkd")),
            ("soft_target", ("teacher", "next")),
            ("cross", ("all", "random", "none")),
            ("mixed_rule", tuple(RULES)),
            ("mixed_trains", ("all", "converters")),
        ):
            if getattr(self, name) not in known:
                raise UserError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}"
                )
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
        if self.soft_target == "next" and self.cross != "all":
            raise UserError(f"soft_target 'next' needs cross 'all', not '{self.cross}'")
        object.__setattr__(self, "ramps", tuple(_checked_ramp(ramp) for ramp in self.ramps))

    @property
    def trains_hybrids(self) -> bool:
        """Whether any composition but the student alone is trained."""
        return self.cross != "none" or self.mixed_compositions > 0

    def factor(self, term: str, progress: jax.Array | float) -> jax.Array | float:
        """What multiplies a term's weight at that share of the run, 0 to 1; may be traced."""
        factor: jax.Array | float = 1.0
        for name, first, last, share in self.ramps:
            if name == term:
                factor *= first + (last - first) * jnp.clip(progress / share, 0.0, 1.0)
        return factor


def _checked_ramp(ramp: Any) -> tuple[str, float, float, float]:
    match ramp:
        case [str(term), *numbers] if (
            term in TERMS
            and len(numbers) == 3
            and all(isinstance(n, int | float) and n >= 0 for n in numbers)
            and 0 < numbers[2] <= 1
        ):
            first, last, share = map(float, numbers)
            return term, first, last, share
    raise UserError(
        f"{ramp!r} is no ramp; expected (term, first, last, share): a term of {', '.join(TERMS)}, "
        "two factors of at least 0, and the share of the run from the one to the other, above 0 "
        "and up to 1"
    )


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


def distillation_loss(
    hybrid: HybridNetwork,
    objective: Objective,
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    stacked_masks: Variables,
    rng: jax.Array,
    progress: jax.Array | float = 0.0,
) -> tuple[jax.Array, LossOutputs]:
    """The whole objective on one device's batch.

    Args:
      hybrid, objective: static.
      variables: the hybrid's tree; the teacher's part is constant.
      images: f32[batch, height, width, channels], augmented and normalised.
      labels: int[batch].
      stacked_masks: bool[M] leaves, the prefixes to train (see `prefix_masks`).
      rng: of this step, the same on all devices; draws compositions.
      progress: share of the run that is done, 0 to 1; only ramps look at it.

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
    targets = jnp.broadcast_to(out.teacher_logits, out.logits.shape)
    if o.soft_target == "next":
        later = jax.lax.stop_gradient(out.logits[1:])
        targets = jnp.concatenate([later, out.teacher_logits[None]])
    soft = functools.partial(_soft, o, labels=labels)

    def distilled(target: jax.Array, logits: jax.Array) -> jax.Array:
        hard = o.alpha * losses.cross_entropy(logits, labels)
        return hard + (1 - o.alpha) * soft(target, logits)

    terms = {"hard": active[0] * o.alpha * losses.cross_entropy(out.logits[0], labels)}
    if o.alpha < 1:
        terms["soft"] = active[0] * (1 - o.alpha) * soft(targets[0], out.logits[0])
    terms |= _feature_terms(hybrid, objective, variables, out, active)
    if o.cross == "all":
        each = jax.vmap(distilled)(targets[1:], out.logits[1:])
        terms["cross"] = o.w_cross * _mean(each, active[1:])
    drawing, rng = jax.random.split(rng)
    if o.cross == "random":
        mask = hybrid.mask_from_sources(variables, RULES["switch"](drawing, hybrid.num_blocks))
        crossed = hybrid.apply(variables, images, mask, train=True)
        stats = statistics.blend_hybrid(stats, crossed.moments, mask)
        terms["cross"] = o.w_cross * soft(out.teacher_logits, crossed.logits)
    if o.mixed_compositions:
        mixed, stats = _mixed(hybrid, objective, variables, images, stats, rng)
        summed = sum((distilled(out.teacher_logits, m.logits) for m in mixed), jnp.zeros(()))
        terms["mixed"] = o.w_mixed * summed
    terms = {name: o.factor(name, progress) * term for name, term in terms.items()}
    return sum(terms.values(), jnp.zeros(())), LossOutputs(terms, stats)


def _mixed(
    hybrid: HybridNetwork,
    objective: Objective,
    variables: Variables,
    images: jax.Array,
    stats: dict[str, Any],
    rng: jax.Array,
) -> tuple[list[HybridOutputs], dict[str, Any]]:
    """What the drawn mixed compositions compute, and the statistics after them."""
    o = objective
    if o.mixed_trains == "converters":
        variables = {**variables, "student": jax.lax.stop_gradient(variables["student"])}
    found: list[HybridOutputs] = []
    for key in jax.random.split(rng, -(-o.mixed_compositions // 2)):
        sources = RULES[o.mixed_rule](key, hybrid.num_blocks)
        mask = hybrid.mask_from_sources(variables, sources)
        if len(found) + 1 == o.mixed_compositions:
            drawn = [(hybrid.apply(variables, images, mask, train=True), mask)]
        else:
            opposite = hybrid.mask_from_sources(variables, ~sources)
            both = hybrid.apply_opposites(variables, images, sources)
            drawn = list(zip(both, (mask, opposite), strict=True))
        for outputs, read in drawn:
            stats = statistics.blend_hybrid(stats, outputs.moments, read)
            found.append(outputs)
    return found, stats


def _soft(
    objective: Objective, target: jax.Array, logits: jax.Array, labels: jax.Array
) -> jax.Array:
    """The soft loss of logits that imitate others, f32[batch, classes] both."""
    o = objective
    if o.soft == "kd":
        return losses.soft_cross_entropy(target, logits, o.temperature)
    return losses.decoupled_distillation(
        target, logits, labels, o.temperature, o.w_target, o.w_others
    )


def _feature_terms(
    hybrid: HybridNetwork,
    objective: Objective,
    variables: Variables,
    out: WalkOutputs,
    active: jax.Array,
) -> dict[str, jax.Array]:
    """`sync` and `recon` of the own stream, `align` of the others, each a mean over its pairs."""
    o = objective
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

        if o.w_sync:
            sync.append(distance(streams[0]))
        if o.w_recon:
            recon.append(losses.reconstruction(streams[0], teacher, encoded, encoder, decoder))
        if o.align_streams and o.w_align and streams.shape[0] > 1:
            align.append(jax.vmap(distance)(streams[1:]))
            weights.append(active[1 : streams.shape[0]])
    terms = {}
    if sync:
        terms["sync"] = active[0] * o.w_sync * sum(sync, jnp.zeros(())) / len(sync)
    if recon:
        terms["recon"] = o.w_recon * sum(recon, jnp.zeros(())) / len(recon)
    if align:
        terms["align"] = o.w_align * _mean(jnp.concatenate(align), jnp.concatenate(weights))
    return terms


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean; zero where all weights are."""
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1.0)
