"""Training runs of seconds: the tiny VGG pair on scikit-learn's digits, augmentation on."""

import json
import time
from pathlib import Path

import jax
import numpy as np

from pwl_jax.hybrid import HybridNetwork
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.training import checkpoints, loop, workdir
from pwl_jax.training.config import RunConfig, run_config
from tests.tiny_pairs import tiny_pair


def fields(**changes):
    """What a config file holds; four steps an epoch, eight in all."""
    return {
        "pair": tiny_pair("vgg").to_dict(),
        "data": {"name": "digits"},
        "augmentation": {"flip": True, "crop_padding": 1},
        "optimizer": {"learning_rate": 0.02},
        "batch_size": 256,
        "epochs": 2,
        "checkpoint_every_steps": 3,
        "calibration_examples": 256,
        "eval_batch_size": 128,
        **changes,
    }


def config(task, **changes) -> RunConfig:
    """The run that `fields` describe."""
    return run_config(fields(**changes), task)


def config_file(path, **changes):
    """A config file with a complete spec as its pair."""
    path.write_text(
        "from ml_collections import ConfigDict\n\n"
        f"def get_config():\n    return ConfigDict({fields(**changes)!r})\n"
    )
    return path


def train(run, where, teacher=None):
    """`loop.train` without a progress bar."""
    return loop.train(run, where, teacher, progress=False)


def stop_after(monkeypatch, *dispatches):
    """Lets the next runs stop after so many dispatches, one each, as a signal would."""
    waiting = list(dispatches)

    def heard(request):
        if not waiting:
            return False
        waiting[0] -= 1
        if waiting[0] >= 0:
            return False
        del waiting[0]
        return True

    monkeypatch.setattr(loop.StopRequest, "heard", heard)


def wait_for_step(process, where, step):
    """Returns once the run has written the metrics of `step` or of a later one."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        written = (where / "metrics.jsonl").exists()
        if written and max(trained_steps(where), default=0) >= step:
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"step {step} was never seen: {process.communicate()}")


def leaves(where, which="last"):
    """Every leaf of a result by name, as NumPy arrays."""
    run = workdir.read_config(where)
    if run.task == "distill":
        like = workdir.abstract_variables(HybridNetwork.from_pair(run.pair))
    else:
        network = run.pair.teacher.build()
        like = {"teacher": jax.eval_shape(network.init, jax.random.key(0))}
    _, variables = checkpoints.restore_variables(where, like, which)
    arrays = map(np.asarray, jax.tree.leaves(variables))
    return dict(zip(leaf_names(variables), arrays, strict=True))


def assert_same_bits(ours, theirs):
    """Both workdirs ended with the same bits in every leaf."""
    a, b = leaves(ours), leaves(theirs)
    assert a.keys() == b.keys()
    for name, leaf in a.items():
        assert leaf.tobytes() == b[name].tobytes(), name


def metric_lines(where):
    """The parsed lines of `metrics.jsonl` without speeds, which no two runs share.

    A last line that is still being written is left out.
    """
    *lines, _ = (Path(where) / "metrics.jsonl").read_text().split("\n")
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith("speed/")}
        for line in lines
    ]


def trained_steps(where):
    """The steps whose training metrics were written, in the order of the file."""
    return [line["step"] for line in metric_lines(where) if "train/loss" in line]
