"""The hybrid network: teacher, student and converters as one tree, configured by a mask."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pwl_jax.hybrid import masks
from pwl_jax.hybrid.converters import Converter
from pwl_jax.ladder import OWN_STREAM, Composition, Unit
from pwl_jax.models.block_network import BlockNetwork, Variables
from pwl_jax.models.registry import PairSpec


class HybridOutputs(NamedTuple):
    """What one composition computes.

    Attributes:
      logits: f32[batch, classes].
      moments: batch moments of the student's blocks by part, zeros where the teacher's block ran;
        empty unless training.
    """

    logits: jax.Array
    moments: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class HybridNetwork:
    """Every composition of a teacher and a student, over one tree of variables.

    The tree is `{teacher, student, encoders, decoders}`, each with `params` and `batch_stats`.
    The student's statistics are kept by stream: `own`, and, with `per_stream`, `entry<k>` for
    what enters behind teacher block k.

    Attributes:
      teacher, student: block networks with the same number of blocks.
      encoders, decoders: one converter for each of the N-1 inner boundaries.
      per_stream: statistics per stream; otherwise `own` serves every stream.
    """

    teacher: BlockNetwork
    student: BlockNetwork
    encoders: tuple[Converter, ...]
    decoders: tuple[Converter, ...]
    per_stream: bool

    @classmethod
    def from_pair(
        cls, pair: PairSpec, axis_name: str | None = None, *, remat: bool = False
    ) -> "HybridNetwork":
        """Builds both networks and fits converters between their boundaries.

        Converters are the identity where the pair says so and both networks compute in the same
        type: an identity has no program, which could change it.

        Args:
          pair: the complete spec.
          axis_name: see `NetworkSpec.build`.
          remat: see `BlockNetwork`; of both networks.
        """
        teacher, student = (
            dataclasses.replace(spec.build(axis_name), remat=remat)
            for spec in (pair.teacher, pair.student)
        )
        teacher_type, student_type = pair.teacher.compute_dtype, pair.student.compute_dtype
        allowed = pair.converters == "identity" and teacher_type == student_type
        converters = [
            (
                Converter(wide, narrow, allowed and wide == narrow, student_type),
                Converter(narrow, wide, allowed and wide == narrow, teacher_type),
            )
            for wide, narrow in pair.boundary_widths
        ]
        return cls(
            teacher=teacher,
            student=student,
            encoders=tuple(encoder for encoder, _ in converters),
            decoders=tuple(decoder for _, decoder in converters),
            per_stream=pair.statistics == "per_stream",
        )

    @property
    def num_blocks(self) -> int:
        """N."""
        return self.teacher.num_blocks

    def init(self, rng: jax.Array, teacher: Variables | None = None) -> Variables:
        """Fresh variables; the teacher's are `teacher` where given. Pure."""
        teacher_rng, student_rng, converter_rng = jax.random.split(rng, 3)
        student = self.student.init(student_rng)
        own = student["batch_stats"]
        streams = {OWN_STREAM: own}
        if self.per_stream:
            for k in range(self.num_blocks - 1):
                later = {p for i in range(k + 1, self.num_blocks) for p in self.student.parts_of(i)}
                streams[masks.entry_name(k)] = {p: own[p] for p in own if p in later}
        converters = {}
        for salt, (name, group) in enumerate(
            (("encoders", self.encoders), ("decoders", self.decoders))
        ):
            params = {
                f"boundary{k}": converter.init(
                    jax.random.fold_in(jax.random.fold_in(converter_rng, salt), k)
                )
                for k, converter in enumerate(group)
            }
            converters[name] = {
                "params": {k: p for k, p in params.items() if p},
                "batch_stats": {},
            }
        return {
            "teacher": self.teacher.init(teacher_rng) if teacher is None else teacher,
            "student": {"params": student["params"], "batch_stats": streams},
            **converters,
        }

    def mask_of(self, variables: Variables, composition: Composition) -> Variables:
        """The mask of a composition over this tree; see `masks.mask_of`."""
        return masks.mask_of(variables, composition, streams=self.per_stream)

    def composition_of(self, mask: Variables) -> Composition:
        """The composition of a mask; see `masks.composition_of`."""
        return masks.composition_of(mask, streams=self.per_stream)

    def mask_from_sources(self, variables: Variables, sources: jax.Array) -> Variables:
        """The mask of traced sources, bool[N]; see `masks.mask_from_sources`."""
        return masks.mask_from_sources(variables, sources, streams=self.per_stream)

    def unit_variables(
        self, variables: Variables, unit: Unit, entry: int | None = None
    ) -> Variables:
        """The variables that one unit's program takes.

        Args:
          variables: the whole tree (or a tree of names or masks of the same structure).
          unit: block or converter.
          entry: for a student block, the boundary where its stream began; None for its own.

        Returns:
          `{"params": {part: tree}, "batch_stats": {part: tree}}` for a block, `{"kernel", "bias"}`
          or nothing for a converter.
        """
        kind, index = unit
        if kind in ("encoder", "decoder"):
            return variables[f"{kind}s"]["params"].get(f"boundary{index}", {})
        tree, network = variables[kind], self._network(unit)
        stats = tree["batch_stats"]
        if kind == "student":
            stats = stats[masks.entry_name(entry if self.per_stream else None)]
        parts = network.parts_of(index)
        return {
            "params": {p: tree["params"][p] for p in parts if p in tree["params"]},
            "batch_stats": {p: stats[p] for p in parts if p in stats},
        }

    def run(self, unit: Unit, unit_variables: Variables, x: jax.Array) -> jax.Array:
        """The unit's program, `(variables, x) -> y`: what evaluation, export and runtime compute.

        Args:
          unit: which block or converter.
          unit_variables: what `unit_variables` gives for it.
          x: images for block 0, else features at the boundary before it.

        Returns:
          Features at the boundary behind it; logits f32[batch, classes] behind the last block.
        """
        if unit.kind == "encoder":
            return self.encoders[unit.index].apply(unit_variables, x)
        if unit.kind == "decoder":
            return self.decoders[unit.index].apply(unit_variables, x)
        return self._network(unit).apply_block(unit.index, unit_variables, x)[0]

    def apply(
        self, variables: Variables, images: jax.Array, mask: Variables, *, train: bool = False
    ) -> HybridOutputs:
        """The composition that `mask` names; the mask may be traced, so one compile serves all.

        Each block is a conditional on the mask: only the chosen network's block runs (in training
        both do, and one is chosen). Leaves outside the mask are never read and get zero
        gradients. Teacher variables are constants, activations that pass through teacher blocks
        carry gradients.

        Args:
          variables: the whole tree.
          images: f32[batch, height, width, channels], normalised.
          mask: tree of booleans as `mask_of` gives it. A concrete mask is checked.
          train: the student's blocks normalise by the batch's moments; the teacher's never do.

        Raises:
          masks.MaskError: if the mask is concrete and no composition has it.
        """
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(mask)):
            self.composition_of(mask)
        sources = masks.sources_of(mask)
        read = masks.masked(variables, mask)
        read["teacher"] = jax.lax.stop_gradient(read["teacher"])
        moments: dict[str, Any] = {}
        features = (images, images)
        for i in range(self.num_blocks):
            features, block_moments = self._apply_block(i, read, mask, sources, features, train)
            moments |= block_moments
        return HybridOutputs(features[0], moments)

    def apply_opposites(
        self, variables: Variables, images: jax.Array, sources: jax.Array
    ) -> tuple[HybridOutputs, HybridOutputs]:
        """A training step's composition and its opposite, which has the other network's blocks.

        At every block one of the two takes the teacher's and one the student's, so that both
        together cost one run of either network. Teacher variables are constants.

        Args:
          variables: the whole tree.
          images: f32[batch, height, width, channels], normalised.
          sources: bool[N], True for the teacher's block; may be traced.

        Returns:
          What the composition computes, and what its opposite does. The moments of every student
          block stand in both, whichever of them it is a block of.
        """
        read = {**variables, "teacher": jax.lax.stop_gradient(variables["teacher"])}
        moments: dict[str, Any] = {}
        wide = narrow = images
        for i in range(self.num_blocks):
            if i:
                crossing = sources[i] != sources[i - 1]
                encoder, decoder = Unit("encoder", i - 1), Unit("decoder", i - 1)
                encoded = self.run(encoder, self.unit_variables(read, encoder), wide)
                decoded = self.run(decoder, self.unit_variables(read, decoder), narrow)
                wide = jnp.where(crossing, decoded, wide)
                narrow = jnp.where(crossing, encoded, narrow)
            teacher = Unit("teacher", i)
            wide = self.run(teacher, self.unit_variables(read, teacher), wide)
            student = self.unit_variables(read, Unit("student", i))
            narrow, of_block = self.student.apply_block(i, student, narrow, train=True)
            moments |= of_block
        return (
            HybridOutputs(jnp.where(sources[-1], wide, narrow), moments),
            HybridOutputs(jnp.where(sources[-1], narrow, wide), moments),
        )

    def _network(self, unit: Unit) -> BlockNetwork:
        return self.teacher if unit.kind == "teacher" else self.student

    def _apply_block(
        self,
        index: int,
        read: Variables,
        mask: Variables,
        sources: jax.Array,
        features: tuple[jax.Array, jax.Array],
        train: bool,
    ) -> tuple[tuple[jax.Array, jax.Array], dict[str, Any]]:
        """Block `index` from whichever network; features come and go in both widths."""
        teacher = Unit("teacher", index)
        encoder, decoder = Unit("encoder", index), Unit("decoder", index)
        last = index == self.num_blocks - 1
        student_variables = self._selected_statistics(index, read, mask)
        no_moments = jax.tree.map(jnp.zeros_like, student_variables["batch_stats"]) if train else {}

        def from_teacher(wide: jax.Array, narrow: jax.Array) -> Any:
            del narrow
            y = self.run(teacher, self.unit_variables(read, teacher), wide)
            z = y if last else self.run(encoder, self.unit_variables(read, encoder), y)
            return (y, z), no_moments

        def from_student(wide: jax.Array, narrow: jax.Array) -> Any:
            del wide
            y, moments = self.student.apply_block(index, student_variables, narrow, train=train)
            z = y if last else self.run(decoder, self.unit_variables(read, decoder), y)
            return (z, y), moments

        if not train:
            return jax.lax.cond(sources[index], from_teacher, from_student, *features)
        # Synchronised BatchNorm communicates, and XLA's CPU runtime crashes on collectives that
        # two conditionals hold (BUILD_NOTES): in training both run, and one is chosen.
        return jax.tree.map(
            lambda t, s: jnp.where(sources[index], t, s),
            from_teacher(*features),
            from_student(*features),
        )

    def _selected_statistics(self, index: int, read: Variables, mask: Variables) -> Variables:
        """The student block's variables with the statistics of the stream that the mask reads."""
        unit = Unit("student", index)
        variables = self.unit_variables(read, unit)
        entries = range(index) if self.per_stream else ()
        for k in entries:
            candidate = self.unit_variables(read, unit, k)["batch_stats"]
            chosen = self.unit_variables(mask, unit, k)["batch_stats"]
            variables["batch_stats"] = jax.tree.map(
                jnp.where, chosen, candidate, variables["batch_stats"]
            )
        return variables
