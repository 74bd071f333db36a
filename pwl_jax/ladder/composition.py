"""Which network each block of a hybrid comes from, and what that makes it read."""

import dataclasses
import itertools
from typing import Literal, NamedTuple, get_args

from pwl_jax.errors import UserError

Kind = Literal["teacher", "student", "encoder", "decoder"]

TEACHER = "T"
STUDENT = "S"

OWN_STREAM = "own"
"""The stream that starts at the image; others are called after the boundary they enter behind."""


class CompositionError(UserError):
    """A composition, unit or rung name that does not parse."""


def shown(text: str) -> str:
    """A wrong value as a message quotes it: cut where it is long."""
    return text if len(text) <= 40 else f"{text[:40]}..."


class Unit(NamedTuple):
    """The smallest thing that is loaded as a whole: one block, or one converter.

    The embedder belongs to block 0, the head to the last block. Encoder and decoder k sit on
    boundary k, behind block k; an encoder maps teacher width to student width.
    """

    kind: Kind
    # A tuple's method of this name is not missed.
    index: int  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"{self.kind}/{self.index}"

    @classmethod
    def parse(cls, text: str) -> "Unit":
        """Reads `"teacher/0"`; raises CompositionError on anything else."""
        kind, _, index = text.partition("/")
        # Python refuses to read numbers of thousands of digits, in words of its own.
        number = index.isascii() and index.isdigit() and len(index) < 10
        if kind not in get_args(Kind) or not number:
            raise CompositionError(
                f"'{shown(text)}' is no unit; expected <kind>/<index> with kind one of "
                f"{', '.join(get_args(Kind))}"
            )
        return cls(kind, int(index))  # type: ignore[arg-type]


def stream_name(entry: int | None) -> str:
    """The name of the stream that began at a boundary, `own` for None."""
    return OWN_STREAM if entry is None else str(entry)


@dataclasses.dataclass(frozen=True)
class Composition:
    """N letters, one a block: T for the teacher's block, S for the student's.

    Prefixes have all their T first; the empty prefix is the student, the full one the teacher.
    """

    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.sources or set(self.sources) - {TEACHER, STUDENT}:
            raise CompositionError(
                f"'{''.join(self.sources)}' is no composition; expected one letter T or S a block, "
                "such as TTSS"
            )

    @classmethod
    def parse(cls, text: str, blocks: int | None = None) -> "Composition":
        """Reads `"TTSS"`; with `blocks` given, the number of letters is checked too."""
        composition = cls(tuple(text.strip()))
        if blocks is not None and len(composition) != blocks:
            raise CompositionError(
                f"composition '{text}' has {len(composition)} blocks; this network has {blocks}"
            )
        return composition

    @classmethod
    def prefix(cls, blocks: int, teachers: int) -> "Composition":
        """The first `teachers` blocks from the teacher, the rest from the student."""
        if not 0 <= teachers <= blocks:
            raise CompositionError(f"a prefix of {blocks} blocks has 0 to {blocks} teacher blocks")
        return cls((TEACHER,) * teachers + (STUDENT,) * (blocks - teachers))

    @classmethod
    def prefixes(cls, blocks: int) -> list["Composition"]:
        """All N + 1 prefixes, the student first, the teacher last."""
        return [cls.prefix(blocks, k) for k in range(blocks + 1)]

    @classmethod
    def suffixes(cls, blocks: int) -> list["Composition"]:
        """All N + 1 compositions whose last blocks are the teacher's, the student first."""
        return [cls((STUDENT,) * (blocks - k) + (TEACHER,) * k) for k in range(blocks + 1)]

    @classmethod
    def contiguous(cls, blocks: int) -> list["Composition"]:
        """All compositions whose teacher blocks form one run, in order of its start and length."""
        runs = [
            cls((STUDENT,) * start + (TEACHER,) * length + (STUDENT,) * (blocks - start - length))
            for start in range(blocks)
            for length in range(1, blocks - start + 1)
        ]
        return [cls.prefix(blocks, 0), *runs]

    @classmethod
    def all(cls, blocks: int) -> list["Composition"]:
        """All 2^N compositions, from the student to the teacher in binary order."""
        return [cls(s) for s in itertools.product((STUDENT, TEACHER), repeat=blocks)]

    def __str__(self) -> str:
        return "".join(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def is_teacher(self) -> bool:
        """Whether every block is the teacher's."""
        return STUDENT not in self.sources

    @property
    def is_student(self) -> bool:
        """Whether every block is the student's."""
        return TEACHER not in self.sources

    @property
    def is_prefix(self) -> bool:
        """Whether no teacher block comes after a student block."""
        return "ST" not in str(self)

    def block(self, index: int) -> Unit:
        """The unit that computes block `index`."""
        return Unit("teacher" if self.sources[index] == TEACHER else "student", index)

    def converter(self, boundary: int) -> Unit | None:
        """The converter behind block `boundary`; None where the source does not change."""
        if boundary >= len(self) - 1:
            return None
        here, there = self.sources[boundary : boundary + 2]
        if here == there:
            return None
        return Unit("encoder" if here == TEACHER else "decoder", boundary)

    def units(self) -> tuple[Unit, ...]:
        """All that this composition reads, in the order of execution."""
        order = []
        for index in range(len(self)):
            order.append(self.block(index))
            converter = self.converter(index)
            if converter is not None:
                order.append(converter)
        return tuple(order)

    def entry(self, unit: Unit) -> int | None:
        """The boundary at which the stream that reaches a student block began.

        It is the latest boundary before the block with T on its left and S on its right; None
        for the student's own stream, which starts at the image, and for any other unit.
        """
        if unit.kind != "student":
            return None
        for boundary in range(unit.index - 1, -1, -1):
            if self.sources[boundary] == TEACHER and self.sources[boundary + 1] == STUDENT:
                return boundary
        return None

    def stream(self, unit: Unit) -> str:
        """The name of the stream that `unit` stands in, which says what statistics it reads."""
        return stream_name(self.entry(unit))


ORDERS = {
    "prefix": Composition.prefixes,
    "suffix": Composition.suffixes,
    "contiguous": Composition.contiguous,
    "all": Composition.all,
}


def compositions_of(orders: list[str], blocks: int) -> list[Composition]:
    """All compositions of the named orders, each once, in order of first appearance."""
    unknown = [order for order in orders if order not in ORDERS]
    if unknown:
        raise CompositionError(
            f"unknown order '{unknown[0]}'; expected some of {', '.join(ORDERS)}"
        )
    return list(dict.fromkeys(c for order in orders for c in ORDERS[order](blocks)))
