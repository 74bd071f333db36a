"""Damages bundles in thousands of ways; each must be refused, or read to the exact original.

  python -m experiments.faults.bundle_fuzz --count=10000
  python -m experiments.faults.bundle_fuzz --seed=0 --only=1234

Small bundles are written (a ladder of three stages, a signed one, a delta, a delta against that),
and a file or two of one, or of what a delta is told against, are changed, by chance or by an author
who makes every hash fit. Then all is read: every tensor at every stage, every program, what
launch.inspect prints and launch.restore writes.

A mutant passes if it is refused by a UserError, or if all that it declares exact hashes to what
its manifest says. Where the manifest declares the original's hash the bytes are then the
original's. An author may also declare the hash of other content and bring that content, which is
his own bundle and no forgery; in a signed bundle nothing but the originals may be read. Anything
else fails: another exception, 20 s without an end, more than 1 GiB of memory. --only repeats one
case. Ten thousand take some minutes on one core.
"""

import collections
import dataclasses
import faulthandler
import hashlib
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from absl import flags

from experiments.benchmarks.result_file import result_row, write_results
from experiments.faults.mutations import MUTATIONS, Changes
from experiments.faults.sample_bundles import Sample, sample_bundles
from launch import cli, files
from pwl_jax.bundle import BundleReader
from pwl_jax.bundle.safetensors_file import SafetensorsLayout, read_safetensors
from pwl_jax.bundle.tensor_bundle import metadata_of
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
        if _peak_bytes() > MEMORY:
            outcome, problem = "failed", f"memory: {_peak_bytes():,} bytes"
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
        with files.written_whole(str(folder.parent / "restored")) as file:
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


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _limit_memory() -> None:
    """Lets this process map 1 GiB more than it has, so that a huge allocation raises at once."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


_COUNT = flags.DEFINE_integer("count", 10_000, "Mutants to make.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of all randomness.")
_ONLY = flags.DEFINE_integer("only", None, "Repeat the one case of this number.")


def main() -> None:
    """Runs the command from its flags."""
    start = time.perf_counter()
    _limit_memory()
    with tempfile.TemporaryDirectory(prefix="bundle-fuzz-") as folder:
        outcomes = []
        for each in fuzzed(_COUNT.value, _SEED.value, Path(folder), _ONLY.value):
            outcomes.append(each)
            if each.outcome == "failed" or _ONLY.value is not None:
                print(f"{each.outcome}: {each.mutation} of '{each.sample}', {each.problem}")
    print("\n".join(table(outcomes)))
    slowest = max(each.seconds for each in outcomes)
    print(
        f"{len(outcomes):,} mutants in {time.perf_counter() - start:.0f} s, slowest "
        f"{slowest:.3f} s, peak memory {_peak_bytes() / 2**20:.0f} MiB"
    )
    failed = sum(each.outcome == "failed" for each in outcomes)
    if _ONLY.value is None:
        counts = collections.Counter(each.outcome for each in outcomes)
        rows = [result_row(each, "mutants", "count", [counts[each]]) for each in OUTCOMES[:3]]
        rows.append(result_row("failed", "mutants", "count", [failed], 0, not failed))
        rows.append(
            result_row("slowest mutant", "time", "s", [slowest], SECONDS, slowest < SECONDS)
        )
        peak = _peak_bytes()
        rows.append(result_row("process", "peak memory", "bytes", [peak], MEMORY, peak <= MEMORY))
        print(f"written to {write_results('bundle_fuzz', rows)}")
    if failed:
        raise UserError(f"{failed} of {len(outcomes)} mutants were neither refused nor exact")


if __name__ == "__main__":
    cli.run(main)
