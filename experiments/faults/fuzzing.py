"""Mutants of bundles, and what becomes of them: refused, or read to the exact original."""

import collections
import dataclasses
import faulthandler
import hashlib
import random
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.faults.mutations import MUTATIONS, Changes
from experiments.faults.sample_bundles import Sample, sample_bundles
from experiments.peak_memory import peak_bytes
from pwl_jax.bundle import BundleReader
from pwl_jax.bundle.safetensors_file import SafetensorsLayout, read_safetensors
from pwl_jax.bundle.tensor_bundle import metadata_of
from pwl_jax.bundle.whole_file import written_whole
from pwl_jax.errors import UserError
from pwl_jax.ladder import EXACT, Unit

OUTCOMES = ("refused", "original", "own content", "failed")
SECONDS = 20
MEMORY = 1 << 30
# Far above the samples' tensors and far below MEMORY: what a reader with little memory would set.
_LARGEST_TENSOR = 64 << 20


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one mutant; `problem` says why it failed."""

    mutation: str
    sample: str
    outcome: str
    seconds: float
    problem: str = ""


class Hang(BaseException):
    """A case that does not end; no handler of errors may take it for one."""


def fuzzed(count: int, seed: int, folder: Path, only: int | None = None) -> Iterator[Outcome]:
    """Makes and reads `count` mutants of bundles written to `folder`."""
    samples = sample_bundles(folder / "good")
    pristine = [sample.files() for sample in samples]
    for sample in samples:
        mutant = folder / "mutants" / sample.name
        shutil.copytree(sample.folder, mutant)
        outcome, problem = _read(sample, mutant)
        if outcome != "original":
            raise AssertionError(f"the undamaged bundle '{sample.name}' is {outcome}: {problem}")
    names = sorted(MUTATIONS)
    # What the process held before is not the mutants' doing.
    most = peak_bytes() + MEMORY
    for index in range(count) if only is None else (only,):
        rng = random.Random(f"{seed}/{index}")
        which, name = index % len(samples), names[index // len(samples) % len(names)]
        sample, whole = samples[which], pristine[which]
        changes = MUTATIONS[name](rng, whole)
        mutant = folder / "mutants" / sample.name
        _apply(mutant, changes)
        start = time.perf_counter()
        try:
            with _limited():
                outcome, problem = _read(sample, mutant)
        except Hang:
            outcome, problem = "failed", f"no end after {SECONDS} s"
        except Exception:
            outcome, problem = "failed", traceback.format_exc()
        if peak_bytes() > most:
            outcome, problem = "failed", f"memory: {peak_bytes():,} bytes"
        if problem and outcome == "failed":
            problem = f"--seed={seed} --only={index}: {problem}"
        yield Outcome(name, sample.name, outcome, time.perf_counter() - start, problem)
        _apply(mutant, {changed: whole.get(changed) for changed in changes})


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Mutations by outcomes, one mutation a line."""
    counts = collections.Counter((each.mutation, each.outcome) for each in outcomes)
    width = max(map(len, MUTATIONS))
    lines = [" ".join([f"{'mutation':{width}}", *(f"{name:>12}" for name in OUTCOMES)])]
    for mutation in (*MUTATIONS, "all"):
        row = [
            sum(
                number
                for (name, outcome), number in counts.items()
                if outcome == wanted and mutation in (name, "all")
            )
            for wanted in OUTCOMES
        ]
        lines.append(" ".join([f"{mutation:{width}}", *(f"{number:12,}" for number in row)]))
    return lines


def _read(sample: Sample, folder: Path) -> tuple[str, str]:
    """Reads all of a bundle: its outcome, and what speaks against it."""
    # Its flags are this command's too once it is imported.
    from launch.inspect import description

    outcome = "original"
    try:
        reader = BundleReader.open(
            sample.opened or folder,
            against=sample.against if sample.opened is None else (folder,),
            public_key=sample.public_key,
            largest_tensor=_LARGEST_TENSOR,
        )
        "\n".join(description(reader)).encode()
        tensors = reader.manifest.tensors
        with written_whole(str(folder.parent / "restored")) as file:
            declared = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
            layout = SafetensorsLayout(declared, metadata_of(reader.manifest))
            layout.write_header(file)
            for unit, stages in reader.manifest.stages.items():
                for stage in stages:
                    for name, array in reader.each_tensor(Unit.parse(unit), stage):
                        if stage != EXACT:
                            continue
                        layout.write_tensor(file, name, array)
                        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
                        if hashlib.sha256(data).hexdigest() != tensors[name].sha256:
                            return "failed", f"tensor '{name}' is not what the manifest declares"
                        if data != sample.originals.get(name):
                            outcome = "own content"
                for entry in reader.manifest.programs.get(unit, ()):
                    reader.program(Unit.parse(unit), entry.format)
        restored = (folder.parent / "restored").read_bytes()
        if read_safetensors(restored, "restored").keys() != tensors.keys():
            return "failed", "the restored file has other tensors"
        if sample.originals.keys() != tensors.keys():
            outcome = "own content"
    except UserError as error:
        return "refused", str(error)
    if outcome != "original" and (sample.public_key is not None or sample.opened is not None):
        return "failed", "what a signature or a delta's hash vouches for was changed"
    return outcome, ""


def _apply(folder: Path, changes: Changes) -> None:
    for name, data in changes.items():
        path = folder / name
        if data is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(data)


@contextmanager
def _limited() -> Iterator[None]:
    """Ends what takes too long; what Python cannot interrupt ends the process with a traceback."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def limit_memory() -> None:
    """Lets this process map 1 GiB more than it has, so that a huge allocation raises at once."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
