r"""How long the devices wait for input, by the way of feeding.

  python -m experiments.benchmarks.feeding [--pair=resnet] [--batch=128] [--steps=100] \
      [--steps_per_dispatch=10] [--repeats=5] [--dtype=bfloat16]

Trains a registry pair, all prefixes in each step, on drawn images of its input size, fed as a run
is: by Grain, placed ahead, and from the devices' own memory. Every timing stands beside one of the
same number of steps whose inputs lie ready; what a step takes longer than that is its input wait.
Before a timing as many steps are done without a clock, so that what was read ahead does not flatter
it; where steps are quick, time 100 or more.
Prints a table and writes experiments/results/feeding/<name>.json.
"""

import dataclasses
import functools
import time
from typing import Any, Literal

import jax
import numpy as np
from absl import flags

from experiments.benchmarks import step_cases
from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.data.augmentation import AugmentationConfig, augment
from pwl_jax.data.pipeline import PreparedSource
from pwl_jax.data.source import Source
from pwl_jax.models.registry import pair
from pwl_jax.training import workdir
from pwl_jax.training.config import DataConfig, RunConfig
from pwl_jax.training.feeding import Feed, make_feed
from pwl_jax.training.step import TrainState, device_mesh, replicate, settled
from pwl_jax.training.tasks import distillation_task

_PAIR = flags.DEFINE_string("pair", "resnet_digits", "Registry name of the pair.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Type of the computation: float32 or bfloat16.")
_BATCH = flags.DEFINE_integer("batch", 128, "Examples a step.", lower_bound=1)
_EXAMPLES = flags.DEFINE_integer("examples", 10_000, "Images of the set.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 20, "Steps in a timing.", lower_bound=1)
_DISPATCH = flags.DEFINE_integer("steps_per_dispatch", 10, "Of device feeding.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timings of each way.", lower_bound=1)
_NAME = flags.DEFINE_string("name", "feeding", "Name of the JSON file.")

Mode = Literal["grain", "device"]
MODES: tuple[Mode, ...] = ("grain", "device")

WAIT_TARGETS = {"grain": "< 0.1", "device": "< 0.03"}
"""Share of the step's time, on an accelerator."""


@dataclasses.dataclass
class Fed:
    """A feed and the state that it trains."""

    feed: Feed
    state: TrainState
    masks: Any
    mesh: jax.sharding.Mesh

    def seconds(self, steps: int) -> tuple[float, float]:
        """Of so many steps as a run does them, and of these, of the host taking inputs."""
        taking = 0.0
        start = time.perf_counter()
        for count in self._dispatches(steps):
            before = time.perf_counter()
            inputs = self.feed.take(count)
            taking += time.perf_counter() - before
            self._advance(inputs)
        jax.block_until_ready(self.state)
        return time.perf_counter() - start, taking

    def ready_seconds(self, steps: int) -> float:
        """Of so many steps on one dispatch's inputs, which are there before the clock starts."""
        inputs = {count: self.feed.take(count) for count in set(self._dispatches(steps))}
        jax.block_until_ready((inputs, self.state))
        start = time.perf_counter()
        for count in self._dispatches(steps):
            self._advance(inputs[count])
        jax.block_until_ready(self.state)
        return time.perf_counter() - start

    def _advance(self, inputs: Any) -> None:
        self.state, _ = settled(self.feed.run(self.state, inputs, self.masks), self.mesh)

    def _dispatches(self, steps: int) -> list[int]:
        longest = self.feed.longest
        return [min(longest, steps - done) for done in range(0, steps, longest)]


def main() -> None:
    """Measures both ways, interleaved."""
    fed = {mode: prepared(mode) for mode in MODES}
    for one in fed.values():
        one.seconds(max(_DISPATCH.value, 3))
    whole: dict[str, list[tuple[float, float]]] = {mode: [] for mode in fed}
    ready: dict[str, list[float]] = {mode: [] for mode in fed}
    for _ in range(_REPEATS.value):
        for mode, one in fed.items():
            # What was read ahead while others were timed is used up before the clock starts.
            one.seconds(_STEPS.value)
            whole[mode].append(one.seconds(_STEPS.value))
            ready[mode].append(one.ready_seconds(_STEPS.value))
    rows = [row for mode in fed for row in rows_of(mode, whole[mode], ready[mode])]
    print("\n".join(table(rows)))
    print(f"\nwritten to {write_results('feeding', _NAME.value, rows, more=step_cases.machine())}")
    for one in fed.values():
        one.feed.iterator.close()


def rows_of(mode: str, whole: list[tuple[float, float]], ready: list[float]) -> list[Row]:
    """One way of feeding."""
    case = f"{mode}, {_PAIR.value} {_DTYPE.value}, batch {_BATCH.value}"
    target = WAIT_TARGETS[mode] if jax.default_backend() != "cpu" else None
    return step_cases.wait_rows(case, whole, ready, _STEPS.value, _BATCH.value, target)


def prepared(mode: Mode) -> Fed:
    """A distillation of drawn images, fed in one way."""
    spec = pair(_PAIR.value, dtype=_DTYPE.value)
    config = RunConfig(
        task="distill",
        pair=spec,
        data=DataConfig(name="drawn"),
        augmentation=AugmentationConfig(rotation=15.0, flip=True, crop_padding=-1),
        batch_size=_BATCH.value,
        feeding=mode,
        steps_per_dispatch=_DISPATCH.value if mode == "device" else 1,
    )
    mesh = device_mesh()
    preprocessing = workdir.preprocessing_of(config)
    transform = functools.partial(augment, config=config.augmentation, preprocessing=preprocessing)
    task = distillation_task(
        config, mesh, transform, preprocessing.normalize, 1000, step_cases.drawn_variables
    )
    source = PreparedSource(drawn_source(spec.teacher.input_shape), preprocessing)
    source.batch(np.arange(len(source)))
    feed = make_feed(config, task.program, source, mesh)
    state = replicate(task.program.init(task.init()), mesh)
    return Fed(feed, state, replicate(task.masks(task.abstract), mesh), mesh)


def drawn_source(shape: tuple[int, int, int]) -> Source:
    """Random images of ten classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (_EXAMPLES.value, *shape), dtype=np.uint8)
    records = [{"image": image, "label": i % 10} for i, image in enumerate(images)]
    names = tuple(map(str, range(10)))
    return Source("drawn", "train", names, records, np.arange(len(records)))


if __name__ == "__main__":
    cli.run(main)
