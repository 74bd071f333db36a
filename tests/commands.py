"""Entry points as processes of their own, and what must be true of how they end."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
READS_EXECUTABLES = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"}
"""For processes that are killed: what one of them half wrote would be there for all others."""


def command(module, *arguments, devices=1):
    """The command line of an entry point and its environment."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return [sys.executable, "-m", module, *map(str, arguments)], environment


def launched(module, *arguments, devices=1, timeout=300):
    """An entry point run to its end, output captured."""
    return finished(*command(module, *arguments, devices=devices), timeout=timeout)


def finished(line, environment, timeout=300):
    """A command run to its end, output captured."""
    return subprocess.run(
        line,
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def started(module, *arguments, devices=1):
    """An entry point that runs, and may be killed; output piped."""
    line, environment = command(module, *arguments, devices=devices)
    return subprocess.Popen(
        line,
        env={**environment, **READS_EXECUTABLES},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(result):
    """What a command printed that ended well, with nothing on stderr."""
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout


def failed(result, message, status=1):
    """Whether a command said `message` and its own name in one line on stderr, and nothing else."""
    assert result.returncode == status, (result.stdout, result.stderr)
    assert message in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith(f"{result.args[2]}: "), result.stderr
    assert not result.stdout
    return True
