"""A process of its own for runtime_memory: serves a bundle under a budget and says what it took.

  python -m experiments.benchmarks.runtime_memory_worker BUNDLE EXECUTOR BUDGET

BUDGET is in bytes; with 0 the first rung is served alone. Imports only what serving a bundle needs.
Prints one JSON object: the peak of memory, the most bytes of weights, and the highest rung.
"""

import json
import sys
import threading

import numpy as np

from experiments.peak_memory import peak_bytes
from pwl_jax.bundle import BundleReader
from pwl_jax.runtime import Event, LiveModel


def main() -> None:
    """Climbs while it answers, goes down to the first rung, and up again."""
    bundle, executor, budget = sys.argv[1:]
    live = [0]

    def note(event: Event) -> None:
        live.append(event.live_bytes)

    reader = BundleReader.open(bundle)
    first = reader.ladder[0].name
    limits = {"memory_budget": int(budget)} if int(budget) else {"rung": first, "climb": False}
    done = threading.Event()
    with LiveModel(reader, executor=executor, on_event=note, **limits) as model:
        image = np.zeros((1, *model.input_shape), np.float32)

        def ask() -> None:
            while not done.is_set():
                model.predict(image)

        model.wait(first)
        asking = threading.Thread(target=ask)
        asking.start()
        reached = model.wait()
        if reached != first:
            model.demote(first)
            model.promote()
            model.wait(reached)
        model.predict(image)
        done.set()
        asking.join()
    print(json.dumps({"peak": peak_bytes(), "live": max(live), "rung": reached}))


if __name__ == "__main__":
    main()
