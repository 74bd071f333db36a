import os
import sys
import threading

import pytest

from pwl_jax.runtime.background import NICENESS, in_background, return_freed_memory


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has threads of different niceness")
def test_work_stands_back_and_its_caller_does_not():
    before = niceness()
    assert in_background(niceness) == min(before + NICENESS, 19)
    assert niceness() == before


def test_an_error_comes_back():
    def fail():
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        in_background(fail)


def test_freed_memory_can_always_be_returned():
    return_freed_memory()
