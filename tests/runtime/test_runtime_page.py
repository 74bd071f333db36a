"""docs/runtime.md: its Python has the types it should, and runs as one program."""

import io
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pwl_jax.serving import serve_folder
from tests import doc_page

PROGRAM = "\n\n".join(text for kind, text in doc_page.blocks("runtime.md") if kind == "python")
ADDRESS = '"https://host/B"'


def test_the_page_runs(bundle, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    shutil.copytree(bundle, tmp_path / "B")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWL_EXECUTABLE_CACHE", str(tmp_path / "executables"))
    assert PROGRAM.count(ADDRESS) == 1
    printed = io.StringIO()
    with serve_folder(Path("B")) as url, redirect_stdout(printed):
        exec(compile(PROGRAM.replace(ADDRESS, repr(url)), "runtime.md", "exec"), {})
    said = printed.getvalue()
    assert "SSS@4" in said.splitlines()[0] and said.splitlines()[1].endswith("TTT@exact")
    for line in (
        "TTT@4 because told to stop at TTT@4",
        "['SSS@4', 'TTT@exact']",
        "SSS@4 True",
        "{'cats': 'SSS@4', 'dogs': 'TTT@exact', 'birds': 'SSS@4'}",
        "TTT@exact True",
    ):
        assert line in said, said


@pytest.mark.slow
def test_the_page_is_type_checked(tmp_path):
    pytest.importorskip("mypy")
    page = tmp_path / "runtime_page.py"
    page.write_text(PROGRAM)
    assert checked(page).returncode == 0, checked(page).stdout
    # It is the page that is checked, and strictly.
    page.write_text(PROGRAM + '\nmodel.wait(timeout="soon")\n\n\ndef untyped(x):\n    return x\n')
    assert "Found 2 errors" in checked(page).stdout


def checked(page):
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=pyproject.toml", str(page)],
        cwd=doc_page.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
