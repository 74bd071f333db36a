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
import tempfile
import time
from pathlib import Path

from absl import flags

from experiments.faults.fuzzing import (
    MEMORY,
    OUTCOMES,
    SECONDS,
    fuzzed,
    limit_memory,
    table,
)
from experiments.peak_memory import peak_bytes
from experiments.results_file import Row, write_results
from launch import cli
from pwl_jax.errors import UserError

_COUNT = flags.DEFINE_integer("count", 10_000, "Mutants to make.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of all randomness.")
_ONLY = flags.DEFINE_integer("only", None, "Repeat the one case of this number.")


def main() -> None:
    """Runs the command from its flags."""
    start = time.perf_counter()
    limit_memory()
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
        f"{slowest:.3f} s, peak memory {peak_bytes() / 2**20:.0f} MiB"
    )
    failed = sum(each.outcome == "failed" for each in outcomes)
    if _ONLY.value is None:
        counts = collections.Counter(each.outcome for each in outcomes)
        rows = [Row(each, "mutants", "count", (counts[each],)) for each in OUTCOMES[:3]]
        rows.append(Row("failed", "mutants", "count", (failed,), "== 0"))
        rows.append(Row("slowest mutant", "time", "s", (slowest,), f"< {SECONDS}"))
        rows.append(Row("process", "peak memory", "bytes", (peak_bytes(),), f"<= {MEMORY}"))
        name = f"count{len(outcomes)}_seed{_SEED.value}"
        print(f"written to {write_results('bundle_fuzz', name, rows)}")
    if failed:
        raise UserError(f"{failed} of {len(outcomes)} mutants were neither refused nor exact")


if __name__ == "__main__":
    cli.run(main)
