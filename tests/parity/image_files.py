"""From image files to top-1, through the reference's preprocessing and ours."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import torch
from PIL import Image

from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.data.source import Source
from pwl_jax.ladder import Composition
from tests.parity import references, theirs
from tests.parity.pairs import sized, small_pair
from tests.parity.references import Reference
from tests.parity.settings import MEAN, STD, Setting, setting_of, tree_of

COUNT, BATCH = 500, 100
SIZES = (("resnet", 32), ("vit", 224))
"""Family and size of its images, as the baseline has them."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Of two ways from files to answers.

    Attributes:
      pixels: largest difference behind the resizing, in 0..1.
      same: share of equal top-1 by composition: student, first prefix, teacher.
      classes: how many classes the teacher answered.
    """

    pixels: float
    same: dict[Composition, float]
    classes: int


def png_files(source: Source, folder: Path) -> list[Path]:
    """The first images of 32x32 pixels; the digits have 8x8, each pixel becomes a square."""
    paths = [folder / f"{i}.png" for i in range(COUNT)]
    for i, path in enumerate(paths):
        image = source[i]["image"].squeeze()
        times = 32 // len(image)
        Image.fromarray(image.repeat(times, 0).repeat(times, 1)).save(path)
    return paths


def agreement(reference: Reference, paths: list[Path], family: str, size: int) -> Agreement:
    """On a small pair for images of that size."""
    given = setting_of(sized(small_pair(family), size))
    given = discerning(given, reference.images(paths[:BATCH], size))
    preprocessing = Preprocessing((size, size, 3), MEAN, STD)
    module = theirs.module_of(reference, given).eval()
    blocks = given.network.num_blocks
    prefixes = [Composition.prefix(blocks, teachers) for teachers in (0, 1, blocks)]
    apply = jax.jit(lambda x, mask: given.network.apply(given.variables, x, mask).logits)
    pixels, tops = 0.0, np.zeros((2, len(prefixes), 0), int)
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        expected, got = reference.images(batch, size), preprocessing(batch)
        difference = np.abs(expected.movedim(1, -1).numpy() - got) * np.array(STD, np.float32)
        pixels = max(pixels, float(difference.max()))
        found = []
        for prefix in prefixes:
            with torch.no_grad():
                their_logits = module(expected, [s == "T" for s in prefix.sources]).numpy()
            our_logits = np.asarray(apply(got, given.network.mask_of(given.variables, prefix)))
            found.append([their_logits.argmax(-1), our_logits.argmax(-1)])
        tops = np.concatenate([tops, np.array(found).swapaxes(0, 1)], axis=-1)
    same = dict(zip(prefixes, (tops[0] == tops[1]).mean(-1).tolist(), strict=True))
    return Agreement(pixels, same, len(set(tops[0, -1])))


def discerning(given: Setting, images: torch.Tensor) -> Setting:
    """With heads that give these images all ten classes; drawn ones give nearly all the same."""
    module = theirs.module_of(references.reference("written_here"), given).eval()
    for teacher in (True, False):
        classifier = (module.teacher if teacher else module.student).classifier
        head = classifier[-1] if isinstance(classifier, torch.nn.Sequential) else classifier
        with torch.no_grad():
            logits = module(images, [teacher] * given.network.num_blocks)
            deviation = logits.std(0)
            head.bias.sub_(logits.mean(0)).div_(deviation)
            head.weight.div_(deviation[:, None])
    state = module.state_dict()
    return dataclasses.replace(given, state=state, variables=tree_of(state, given.pair))
