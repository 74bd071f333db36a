"""The main job, end to end: train, distil, evaluate, export, climb while answering, report."""

import dataclasses
import importlib
import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.peak_memory import peak_bytes
from pwl_jax.bundle import BundleReader
from pwl_jax.data import pipeline
from pwl_jax.errors import UserError
from pwl_jax.export import DEFAULT_BUDGET, BundleOptions, export_bundle
from pwl_jax.ladder import EXACT, Bits, Composition, Ladder
from pwl_jax.runtime import Event, LiveModel
from pwl_jax.serving.bundle_server import serve_folder
from pwl_jax.training import composition_report, loop, workdir
from pwl_jax.training.config import run_config

PAIRS = ("lenet5", "vgg", "resnet", "vit")
BITS: tuple[Bits, ...] = (4, EXACT)
CLIMB_SECONDS = 8.0
"""The server's speed is set so that the whole bundle takes about this long."""

_MARKER = ".quickstart"
_OWN = ("teacher", "pwl", "bundle", "report.md", "ladder.json", "accuracy.png", "climb.png")


@dataclasses.dataclass(frozen=True)
class Answer:
    """One request during the climb: when it was answered, by which rung, how well."""

    seconds: float
    rung: str
    top1: float
    milliseconds: float


@dataclasses.dataclass(frozen=True)
class Climb:
    """What was seen while the bundle was loaded over a slow link.

    Attributes:
      reached: seconds after opening at which each rung answered.
      fetched: bytes read from the bundle by then.
      answers: every request that was answered.
      errors: what failed requests said.
      last_logits: of the test images, from the last rung.
      bytes_per_second: speed of the link.
    """

    reached: dict[str, float]
    fetched: dict[str, int]
    answers: list[Answer]
    errors: list[str]
    last_logits: np.ndarray
    bytes_per_second: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All that the report tells."""

    pair: str
    rows: list[dict[str, Any]]
    ladder: Ladder
    climb: Climb
    teacher_top1: float
    examples: int
    last_rung_equals_teacher: bool
    last_rung_difference: float
    falls: list[str]
    seconds: dict[str, float]
    peak_bytes: int


def run(pair: str, output: Path, say: Callable[[str], None] = print) -> Outcome:
    """Runs everything below `output`, which it clears of an earlier run first.

    Args:
      pair: one of `PAIRS`; its digits variant is used.
      output: folder of workdirs, bundle and report.
      say: where progress goes.

    Raises:
      UserError: an unknown pair, or a folder that cannot be used.
    """
    if pair not in PAIRS:
        raise UserError(f"pair '{pair}' is unknown; expected one of {', '.join(PAIRS)}")
    _clear(output)
    config = importlib.import_module(f"experiments.configs.{pair}_digits").get_config()
    clock = _Clock()
    say(f"[1/5] teacher of '{config.pair}' on digits")
    teacher_dir, distilled_dir = output / "teacher", output / "pwl"
    _must_finish(loop.train(run_config(config, "teacher"), teacher_dir))
    clock.lap("teacher")
    say("[2/5] student, every prefix in every step")
    _must_finish(loop.train(run_config(config, "distill"), distilled_dir, teacher_dir))
    clock.lap("distill")
    say("[3/5] all compositions on the test set")
    model = workdir.load_model(distilled_dir)
    test = workdir.open_data(model.config, "test")
    validation = workdir.open_data(model.config, "validation")
    compositions = Composition.all(model.hybrid.num_blocks)
    rows = composition_report.composition_rows(
        model,
        workdir.measure(model, compositions, test),
        checkpoint="best",
        data=test.name,
        split="test",
    )
    composition_report.write_report(distilled_dir, rows, f"{model.config.pair.name}, test split")
    clock.lap("evaluate")
    say("[4/5] bundle")
    options = BundleOptions(base_budget=DEFAULT_BUDGET)
    export_bundle(model, output / "bundle", BITS, validation, test, options=options)
    ladder = BundleReader.open(output / "bundle").ladder
    clock.lap("export")
    say("[5/5] climb over a slow link, while answering")
    preprocessing = workdir.preprocessing_of(model.config)
    images, labels = pipeline.in_memory(test, preprocessing)
    climb = climb_while_answering(output / "bundle", images, labels, ladder)
    clock.lap("climb")
    teacher = model.hybrid.teacher
    logits = np.asarray(
        jax.jit(lambda v, x: teacher.apply(v, x).logits)(
            model.variables["teacher"], preprocessing.normalize(images)
        )
    )
    return Outcome(
        pair=model.config.pair.name,
        rows=rows,
        ladder=ladder,
        climb=climb,
        teacher_top1=float((logits.argmax(-1) == labels).mean()),
        examples=len(labels),
        last_rung_equals_teacher=bool((logits.argmax(-1) == climb.last_logits.argmax(-1)).all()),
        last_rung_difference=float(np.abs(logits - climb.last_logits).max()),
        falls=falls(rows, len(labels)) + rung_falls(ladder, len(labels)),
        seconds=clock.laps,
        peak_bytes=peak_bytes(),
    )


def climb_while_answering(
    bundle: Path, images: np.ndarray, labels: np.ndarray, ladder: Ladder
) -> Climb:
    """Serves a bundle at a limited speed, opens it from there, and asks until it has climbed.

    Args:
      bundle: its folder.
      images: uint8[n, height, width, channels], one request.
      labels: int[n].
      ladder: of the bundle.
    """
    speed = ladder.rungs[-1].cumulative_bytes / CLIMB_SECONDS
    answers: list[Answer] = []
    errors: list[str] = []
    reached: dict[str, float] = {}
    fetched: dict[str, int] = {}
    done = threading.Event()

    def note(event: Event) -> None:
        # From before opening: the manifest comes over the same link.
        if event.kind == "rung" and event.rung:
            reached[event.rung] = time.monotonic() - opened
            fetched[event.rung] = event.bytes_fetched

    def ask(model: LiveModel) -> None:
        while True:
            last = done.is_set()
            start = time.monotonic()
            try:
                prediction = model.predict(images)
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")
            else:
                now = time.monotonic()
                top1 = float((prediction.classes == labels).mean())
                answers.append(Answer(now - opened, prediction.rung, top1, 1e3 * (now - start)))
            if last:
                return
            time.sleep(0.01)

    with serve_folder(bundle, speed) as url:
        opened = time.monotonic()
        with LiveModel.open(url, executor="jax", on_event=note) as model:
            asking = threading.Thread(target=ask, args=(model,))
            asking.start()
            try:
                model.wait(ladder.rungs[-1].name, timeout=20 * CLIMB_SECONDS)
            finally:
                done.set()
                asking.join()
            last_logits = model.predict(images).logits
    return Climb(
        reached,
        fetched,
        answers,
        errors,
        last_logits,
        speed,
    )


def falls(rows: list[dict[str, Any]], examples: int) -> list[str]:
    """Prefixes whose accuracy falls below the one before by more than its standard error."""
    prefixes = [row for row in rows if Composition.parse(row["composition"]).is_prefix]
    prefixes.sort(key=lambda row: row["composition"].count("T"))
    found = []
    for before, after in itertools.pairwise(prefixes):
        error = (before["top1"] * (1 - before["top1"]) / examples) ** 0.5
        if after["top1"] < before["top1"] - error:
            found.append(f"{before['composition']} to {after['composition']}")
    return found


def rung_falls(ladder: Ladder, examples: int) -> list[str]:
    """Rungs whose test accuracy falls below the one before by more than its standard error."""
    found = []
    for before, after in itertools.pairwise(ladder.rungs):
        top1 = before.top1_test or 0.0
        error = (top1 * (1 - top1) / examples) ** 0.5
        if (after.top1_test or 0.0) < top1 - error:
            found.append(f"{before.name} to {after.name}")
    return found


def broken_promises(outcome: Outcome) -> list[str]:
    """What must hold whatever was trained, and did not in this run."""
    broken = []
    if not outcome.last_rung_equals_teacher:
        broken.append("the last rung does not predict what the teacher predicts")
    if outcome.climb.errors:
        broken.append(f"a request failed: {outcome.climb.errors[0]}")
    return broken


def write_ladder(outcome: Outcome, path: Path) -> None:
    """Writes `ladder.json`."""
    document = {
        "pair": outcome.pair,
        "rungs": [
            {
                "name": rung.name,
                "composition": str(rung.rung.composition),
                "bits": list(rung.rung.bits),
                "top1": rung.top1_test,
                "top1_validation": rung.top1,
                "shard_bytes": rung.shard_bytes,
                "cumulative_bytes": rung.cumulative_bytes,
                "seconds": outcome.climb.reached.get(rung.name),
            }
            for rung in outcome.ladder.rungs
        ],
        "teacher_top1": outcome.teacher_top1,
        "examples": outcome.examples,
        "last_rung_equals_teacher": outcome.last_rung_equals_teacher,
        "requests": {
            "sent": len(outcome.climb.answers) + len(outcome.climb.errors),
            "failed": len(outcome.climb.errors),
        },
        "job_seconds": round(sum(outcome.seconds.values()), 2),
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def _must_finish(result: loop.RunResult) -> None:
    if not result.finished:
        raise UserError(f"stopped at step {result.steps} of {result.total}")


def _clear(output: Path) -> None:
    """Removes what an earlier quickstart left, and nothing that anybody else did."""
    present = [name for name in _OWN if (output / name).exists()]
    if present and not (output / _MARKER).exists():
        raise UserError(
            f"'{output / present[0]}' is not of an earlier quickstart; choose another --output"
        )
    for name in _OWN:
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    (output / _MARKER).touch()


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now
