"""The page on networks of one's own: its excerpts are the file's, its commands and code run."""

import io
import json
import os
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.examples.mobilenet_v2 import MobileNetV2Spec, digits_pair
from pwl_jax.data import sources
from pwl_jax.ladder import Composition
from pwl_jax.models import SpecError, check_network
from tests import doc_page

ROOT = Path(__file__).parents[2]
BLOCKS = doc_page.blocks("bring_your_own_network.md")
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
EXCERPTS = [text for kind, text in BLOCKS if kind == "python" and text.startswith("# ")]
SNIPPETS = [text for kind, text in BLOCKS if kind == "python" and not text.startswith("# ")]
MODULE = "experiments.examples.mobilenet_v2"
# About half of what the config says.
FEWER = {
    "launch.train_teacher": "--config.teacher.epochs=8",
    "launch.distill": "--config.distill.epochs=5",
}


def run(arguments):
    # As a user runs it: one device.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's W after all its commands: workdirs, the bundle, and two files of logits."""
    where = tmp_path_factory.mktemp("W")
    test = sources.load("digits", "test")
    pixels = np.stack([test[i]["image"] for i in range(200)])
    np.save(where / "digits.npy", pixels)
    Image.fromarray(pixels[0].squeeze()).save(where / "digit.png")
    for command in COMMANDS:
        python, *arguments = shlex.split(command.replace("W/", f"{where}/"))
        assert python == "python"
        fewer = [FEWER[arguments[1]]] if arguments[1] in FEWER else []
        done = run([*arguments, *fewer])
        assert done.returncode == 0, (command, done.stderr[-2000:])
    return where


def test_excerpts_are_in_the_files_that_they_name():
    assert len(EXCERPTS) >= 5
    for excerpt in EXCERPTS:
        name, text = excerpt.removeprefix("# ").split("\n", 1)
        assert text in (ROOT / name).read_text(), excerpt


def test_the_page_says_how_each_command_knows_the_family():
    assert [command.split()[2] for command in COMMANDS] == [
        "launch.train_teacher", "launch.distill", "launch.evaluate", "launch.export",
        "launch.predict", "launch.predict",
    ]  # fmt: skip
    for command in COMMANDS:
        reads_workdir = "--config=" not in command and "--bundle=W/bundle --input" not in command
        assert (f"--import={MODULE}" in command) == reads_workdir, command


@pytest.mark.long
def test_the_pair_is_better_than_chance_and_every_composition_runs(folder):
    rows = json.loads((folder / "pwl" / "compositions.json").read_text())
    assert [row["composition"] for row in rows] == [str(c) for c in Composition.all(4)]
    top1 = {row["composition"]: row["top1"] for row in rows}
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert all(row["examples"] == sources.DIGITS_TEST for row in rows)
    # Chance is 10 %.
    assert top1["TTTT"] > 0.9
    assert top1["SSSS"] > 0.4


@pytest.mark.slow
def test_the_last_rung_is_the_teacher_to_the_bit(folder):
    last, teacher = (np.load(folder / f"{name}.npy") for name in ("last_rung", "teacher"))
    assert last.shape == (200, 10) and last.dtype == np.float32
    assert last.tobytes() == teacher.tobytes()
    assert len(np.unique(last)) > 1000


@pytest.mark.slow
def test_the_bundle_answers_where_nothing_of_the_network_is_imported(folder):
    program = f"""
import sys
import numpy as np
from pwl_jax.runtime import LiveModel

options = {{"executor": "onnxruntime", "exact_batches": True}}
with LiveModel.open({str(folder / "bundle")!r}, **options) as model:
    model.wait("TTTT@exact", timeout=120)
    logits = model.predict(np.load({str(folder / "digits.npy")!r})).logits
assert logits.tobytes() == np.load({str(folder / "teacher.npy")!r}).tobytes()
print(sorted(m for m in sys.modules if m.split(".")[0] in ("experiments", "flax", "launch")))
print([m for m in sys.modules if m.startswith("pwl_jax.models")])
"""
    done = run(["-c", program])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "[]\n[]\n"


@pytest.mark.slow
def test_the_code_of_the_page_runs(folder):
    assert len(SNIPPETS) == 2
    printed = io.StringIO()
    for snippet in SNIPPETS:
        with redirect_stdout(printed):
            exec(snippet.replace("W/", f"{folder}/"), {})
    assert printed.getvalue() == "SSSS@4\nTTTT@exact\n"


@pytest.mark.slow
def test_the_teacher_keeps_every_promise_as_well():
    check_network(digits_pair().teacher)


def test_the_table_of_the_paper():
    """Table 2 of the paper at 224x224: shapes behind the stages, and 3.4 million parameters."""
    import jax

    spec = MobileNetV2Spec(
        input_shape=(224, 224, 3), classes=1000, stem_stride=2, strides=(1, 2, 2, 2, 1, 2, 1)
    )
    network = spec.build()
    variables = jax.eval_shape(network.init, jax.random.key(0))
    shapes = network.boundary_shapes()
    assert shapes == (
        (112, 112, 16), (56, 56, 24), (28, 28, 32), (14, 14, 64), (14, 14, 96), (7, 7, 160),
    )  # fmt: skip
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    # The paper says 3.4 M; torchvision's mobilenet_v2 has exactly as many.
    assert count == 3_504_872


def test_widths_are_multiples_of_eight_and_sizes_are_checked():
    spec = digits_pair().student
    assert spec.build().boundary_shapes() == ((8, 8, 8), (8, 8, 8), (4, 4, 8))
    for fields, message in (
        ({"strides": (1, 1)}, "strides"),
        ({"depths": (1, 0, 1, 1)}, "depths"),
        ({"width": 0.0}, "width"),
    ):
        with pytest.raises(SpecError, match=message):
            MobileNetV2Spec(input_shape=(16, 16, 1), classes=10, **fields)
