"""The process in which PyTorch is timed: one JSON request a line on stdin, one answer on stdout.

Started by `torch_side`; arrays travel as files. An answer holds `error` where a request fails.
"""

import copy
import json
import os
import sys
from importlib import metadata
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.torch_steps import BestSteps, Steps, swap_net

COLUMNS = {"baseline": Steps, "best": BestSteps}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Worker:
    """Answers requests by the method that they name.

    Attributes:
      steps: by column and type, of the pair that was opened last.
    """

    def __init__(self) -> None:
        self.steps: dict[tuple[str, str], Steps] = {}

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sets precision; what everything runs on."""
        tf32 = bool(request["tf32"])
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True
        return {
            "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": torch.get_num_threads(),
        }

    def open(self, request: dict[str, Any]) -> dict[str, Any]:
        """Builds both columns on the same weights; notes of each."""
        self.steps.clear()
        torch._dynamo.reset()
        with np.load(request["data"]) as file:
            data = dict(file)
        net = swap_net(request["baseline_dir"], request)
        with np.load(request["weights"]) as file:
            weights = {name: torch.from_numpy(file[name]) for name in file.files}
        net.load_state_dict(weights, strict=True)
        for dtype in request["dtypes"]:
            for column, kind in COLUMNS.items():
                self.steps[column, dtype] = kind(
                    copy.deepcopy(net),
                    data,
                    request["batch"],
                    request["learning_rate"],
                    DTYPES[dtype],
                )
        return {"notes": {f"{c} {d}": steps.note for (c, d), steps in self.steps.items()}}

    def losses(self, request: dict[str, Any]) -> dict[str, Any]:
        """Of the first steps of one column."""
        steps = self.steps[request["column"], request["dtype"]]
        return {"losses": steps.losses(request["steps"])}

    def seconds(self, request: dict[str, Any]) -> dict[str, Any]:
        """Of a step of one column."""
        steps = self.steps[request["column"], request["dtype"]]
        return {"seconds": steps.seconds(request["steps"], request["end_to_end"])}


def main() -> None:
    """Answers requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    # What the packages print must not come between the answers.
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request["method"])(request)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {lines[0]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
