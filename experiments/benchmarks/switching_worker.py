"""One policy on one trace, in a process of its own: work as JSON on stdin, findings on stdout."""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import switching_policies
from experiments.benchmarks.control_group import join
from experiments.benchmarks.switching_policies import Model
from experiments.peak_memory import peak_bytes


@dataclasses.dataclass(frozen=True)
class Work:
    """What the process does.

    Attributes:
      policy: one of `switching_policies.POLICIES`.
      models: what requests switch between.
      trace: (index of the model, number of the image) of each request.
      budget: bytes of weights.
      executor: of live models.
      pause: seconds between an answer and the next request, while models go on climbing.
      groups: control groups to join before the first model, by their folders.
      cores: processors to stay on; none: all.
    """

    policy: str
    models: tuple[Model, ...]
    trace: tuple[tuple[int, int], ...]
    budget: int
    executor: str
    pause: float = 0.0
    groups: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "Work":
        """What `dataclasses.asdict` gave."""
        models = tuple(Model(**model) for model in data.pop("models"))
        return Work(models=models, **data)


def measured(work: Work) -> dict[str, Any]:
    """Answers every request, one after the other.

    Returns:
      `seconds`, `right` (1, 0, or -1 where the label is not known) and `answered_by` (what computed
      it) of every request, `read_bytes` and `stored_bytes` (by system
      calls, and of these from the disk; None where the system does not tell), `base_bytes` and
      `peak_bytes` of memory before the first model and at most, and `dropped` (whether files could
      be dropped from the page cache before).
    """
    files = [np.load(model.requests) for model in work.models]
    requests = [(file["images"], file["labels"]) for file in files]
    dropped = False
    for model in work.models:
        dropped = switching_policies.forget(Path(model.folder))
    join(work.groups)
    base, read = peak_bytes(), _read_bytes()
    models = {model.name: model for model in work.models}
    names = [model.name for model in work.models]
    policy = switching_policies.policy(work.policy, models, work.budget, work.executor)
    seconds, right, answered_by = [], [], []
    try:
        for which, number in work.trace:
            images, labels = requests[which]
            image, label = images[number % len(images)], int(labels[number % len(labels)])
            began = time.perf_counter()
            found, by = policy.answer(names[which], image)
            seconds.append(time.perf_counter() - began)
            right.append(-1 if label < 0 else int(found == label))
            answered_by.append(by)
            policy.settle()
            time.sleep(work.pause)
        end = _read_bytes()
        peak = peak_bytes()
    finally:
        policy.close()
    return {
        "seconds": seconds,
        "right": right,
        "answered_by": answered_by,
        "read_bytes": end and read and end[0] - read[0],
        "stored_bytes": end and read and end[1] - read[1],
        "base_bytes": base,
        "peak_bytes": peak,
        "dropped": dropped,
    }


def _read_bytes() -> tuple[int, int] | None:
    """Read by this process so far by system calls, and of that from storage."""
    path = Path("/proc/self/io")
    if not path.exists():
        return None
    fields = dict(line.split(": ") for line in path.read_text().splitlines())
    return int(fields["rchar"]), int(fields["read_bytes"])


if __name__ == "__main__":
    given = Work.from_dict(json.loads(sys.stdin.read()))
    if given.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, given.cores)
    print(json.dumps(measured(given)))
