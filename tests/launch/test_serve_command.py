import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_bundle as tiny
from tests.commands import failed, launched
from tests.http_call import call

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_climbs_and_stops_on_a_signal(bundle, number):
    command = [sys.executable, "-m", "launch.serve", f"--bundle={bundle}", "--port=0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            url, lines = "", []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("serving on "):
                    url = line.split()[-1]
                if url and any("top of the ladder" in seen for seen in lines):
                    break
            images = np.zeros((1, *tiny.INPUT_SHAPE)).tolist()
            status, _, body = call(
                f"{url}/predict",
                json.dumps({"instances": images}).encode(),
                {"Content-Type": "application/json"},
            )
            assert (status, json.loads(body)["rung"]) == (200, "TTT@exact")
            assert json.loads(call(f"{url}/v2/models/pwl")[2])["name"] == "pwl"
        finally:
            process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--bundle=/no/such/bundle"], 1, "/no/such/bundle"),
        (["--port=8000"], 2, "flag --bundle=None: Flag --bundle must have a value other than None"),
        (["--bundle=x", "--port=70000"], 2, "flag --port=70000"),
        (["--bundle=x", "--quality_floor=2"], 2, "flag --quality_floor=2"),
        (["--bundle=x", "--order=best"], 2, "flag --order=best"),
    ],
)
def test_mistakes_end_in_one_line(arguments, status, message):
    assert failed(launched("launch.serve", *arguments), message, status)
