"""Ways to serve more models than fit into memory: what is loaded, what answers, what has to go.

Runs in the process that is measured, so nothing here imports JAX.
"""

import dataclasses
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pwl_jax.bundle import BundleReader, Preprocessing
from pwl_jax.runtime import Event, LiveModel, ModelPool

FULL, INT8, STUDENTS, OURS = "full models, LRU", "int8 models, LRU", "students only", "ours"
POLICIES = (FULL, INT8, STUDENTS, OURS)


@dataclasses.dataclass(frozen=True)
class Model:
    """What a policy may read of one model.

    Attributes:
      name: of the model.
      folder: holds `bundle/`, `teacher.onnx`, `teacher_int8.onnx` and `requests.npz` (`images`,
        uint8[n, height, width, channels], and `labels`, int[n]; -1 where none are known).
      float32_bytes, int8_bytes: of the teacher's weights in these files.
      preprocessing: from image to network, as in the bundle's manifest.
    """

    name: str
    folder: str
    float32_bytes: int
    int8_bytes: int
    preprocessing: Mapping[str, Any]

    @property
    def bundle(self) -> Path:
        """The folder of shards and programs."""
        return Path(self.folder) / "bundle"

    @property
    def float32(self) -> Path:
        """The teacher by itself."""
        return Path(self.folder) / "teacher.onnx"

    @property
    def int8(self) -> Path:
        """The same, quantized by ONNX Runtime's tool."""
        return Path(self.folder) / "teacher_int8.onnx"

    @property
    def requests(self) -> Path:
        """Images and labels."""
        return Path(self.folder) / "requests.npz"


class Policy(Protocol):
    """Answers requests to any of its models; what is not resident is loaded first."""

    def answer(self, name: str, image: np.ndarray) -> tuple[int, str]:
        """The class of uint8[height, width, channels], and what computed it."""
        ...

    def settle(self) -> None:
        """What is done between two requests and is no part of either."""
        ...

    def close(self) -> None:
        """Frees everything."""
        ...


def policy(name: str, models: Mapping[str, Model], budget: int, executor: str) -> Policy:
    """The policy called `name`, with nothing loaded yet.

    Args:
      name: one of `POLICIES`.
      models: by name.
      budget: bytes of weights that may be held at a time.
      executor: of live models; models under LRU are bare sessions of ONNX Runtime.
    """
    if name in (FULL, INT8):
        return _Sessions(models, budget, name == INT8)
    return (_Students if name == STUDENTS else _Pool)(models, budget, executor)


class _Sessions:
    """Whole models in ONNX Runtime. The least recently used ones make room before one is loaded."""

    def __init__(self, models: Mapping[str, Model], budget: int, int8: bool) -> None:
        import onnxruntime

        self._runtime = onnxruntime
        self._models, self._budget, self._int8 = models, budget, int8
        self._preprocessing = {
            name: Preprocessing.from_dict(model.preprocessing) for name, model in models.items()
        }
        self._loaded: OrderedDict[str, Any] = OrderedDict()
        self._evicted: list[str] = []

    def answer(self, name: str, image: np.ndarray) -> tuple[int, str]:
        if name not in self._loaded:
            while self._held() + self._bytes(name) > self._budget and self._loaded:
                self._evicted.append(self._loaded.popitem(last=False)[0])
            self._loaded[name] = self._runtime.InferenceSession(
                self._file(name), providers=["CPUExecutionProvider"]
            )
        self._loaded.move_to_end(name)
        images = self._preprocessing[name](image)
        (logits,) = self._loaded[name].run(["logits"], {"images": images})
        return int(logits[0].argmax()), "int8" if self._int8 else "teacher"

    def settle(self) -> None:
        while self._evicted:
            forget(self._file(self._evicted.pop()))

    def close(self) -> None:
        self._loaded.clear()

    def _held(self) -> int:
        return sum(map(self._bytes, self._loaded))

    def _bytes(self, name: str) -> int:
        model = self._models[name]
        return model.int8_bytes if self._int8 else model.float32_bytes

    def _file(self, name: str) -> Path:
        return self._models[name].int8 if self._int8 else self._models[name].float32


class _Students:
    """Each model's student, in the best precision that its ladder has; all of them stay."""

    def __init__(self, models: Mapping[str, Model], budget: int, executor: str) -> None:
        self._models, self._executor = models, executor
        self._loaded: dict[str, LiveModel] = {}

    def answer(self, name: str, image: np.ndarray) -> tuple[int, str]:
        if name not in self._loaded:
            bundle = self._models[name].bundle
            self._loaded[name] = LiveModel.open(
                bundle, executor=self._executor, rung=_best_student(bundle), climb=False
            )
        prediction = self._loaded[name].predict(image)
        return int(prediction.classes[0]), prediction.rung

    def settle(self) -> None:
        pass

    def close(self) -> None:
        for model in self._loaded.values():
            model.close()


class _Pool:
    """The library's own: students stay, models in demand climb, the others go back down."""

    def __init__(self, models: Mapping[str, Model], budget: int, executor: str) -> None:
        self._models = models
        self._pool = ModelPool(budget, executor=executor)
        self._demoted: list[str] = []
        self._open: set[str] = set()

    def answer(self, name: str, image: np.ndarray) -> tuple[int, str]:
        if name not in self._open:
            self._pool.open(name, self._models[name].bundle, on_event=self._noted(name))
            self._open.add(name)
        prediction = self._pool.predict(name, image)
        return int(prediction.classes[0]), prediction.rung

    def settle(self) -> None:
        while self._demoted:
            forget(self._models[self._demoted.pop()].bundle)

    def close(self) -> None:
        self._pool.close()

    def _noted(self, name: str) -> Callable[[Event], None]:
        return lambda event: self._demoted.append(name) if event.kind == "demoting" else None


def _best_student(bundle: Path) -> str:
    rungs = [entry.rung for entry in BundleReader.open(bundle).ladder.rungs]
    return [rung for rung in rungs if set(str(rung.composition)) == {"S"}][-1].name


def forget(path: Path) -> bool:
    """Asks the system to drop a file, or all files below a folder, from its page cache.

    Returns:
      Whether the system can be asked so.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True
