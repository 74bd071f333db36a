"""The models that requests switch between: for each its bundle and its teacher as ONNX, also int8."""

import dataclasses
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.step_cases import drawn_variables
from pwl_jax.bundle import Preprocessing
from pwl_jax.data import pipeline
from pwl_jax.errors import UserError
from pwl_jax.export import DEFAULT_BUDGET, BundleOptions, export_bundle
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.interop import ComposedWeights
from pwl_jax.interop.onnx_weights import write_onnx
from pwl_jax.ladder import EXACT, Bits, Composition
from pwl_jax.models import registry
from pwl_jax.training import loop, workdir
from pwl_jax.training.config import DataConfig, RunConfig, run_config

BITS: tuple[Bits, ...] = (4, EXACT)
CALIBRATION_IMAGES = 64
"""Training images that the ranges of int8 activations are taken from."""

_REQUESTS = 64
"""Drawn images, where there are no real ones."""


@dataclasses.dataclass(frozen=True)
class Model:
    """What every policy may read of one model, and what it is asked.

    Attributes:
      name: of the model.
      folder: holds `bundle/`, `teacher.onnx`, `teacher_int8.onnx` and `requests.npz` (`images`,
        uint8[n, height, width, channels], and `labels`, int[n]; -1 where none are known).
    """

    name: str
    folder: Path

    @property
    def bundle(self) -> Path:
        """The folder of shards and programs."""
        return self.folder / "bundle"

    def teacher(self, precision: str) -> Path:
        """The teacher by itself, `float32` or `int8`."""
        return self.folder / {"float32": "teacher.onnx", "int8": "teacher_int8.onnx"}[precision]

    @property
    def teacher_bytes(self) -> int:
        """Of the teacher's weights in float32."""
        return int(json.loads((self.folder / "model.json").read_text())["teacher_bytes"])


def trained_models(
    config_name: str, count: int, folder: Path, epochs: int | None, say: Callable[[str], None]
) -> list[Model]:
    """Pairs trained on scikit-learn's digits from different seeds; what is there is kept.

    Args:
      config_name: of experiments/configs, such as `lenet5_digits`.
      count: how many.
      folder: where they lie or will.
      epochs: of teacher and of student; as the config says if None.
      say: where progress goes.
    """
    models = []
    for seed in range(count):
        where = folder / f"{config_name}_seed{seed}{'' if epochs is None else f'_epochs{epochs}'}"
        model = Model(f"{config_name} {seed}", where)
        models.append(model)
        if (where / "model.json").exists():
            continue
        say(f"training model {seed + 1} of {count}")
        config = importlib.import_module(f"experiments.configs.{config_name}").get_config()
        config.seed = seed
        if epochs is not None:
            config.teacher.epochs = config.distill.epochs = epochs
        teacher, distilled = where / "teacher", where / "pwl"
        for task, run_dir, source in (("teacher", teacher, None), ("distill", distilled, teacher)):
            if not loop.train(run_config(config, task), run_dir, source, progress=False).finished:
                raise UserError(f"the training in '{run_dir}' was stopped; the same command goes on")
        _write(model, workdir.load_model(distilled))
    return models


def workdir_models(workdirs: Sequence[Path], folder: Path) -> list[Model]:
    """Pairs that `launch.distill` left, measured on their own data."""
    models = []
    for index, run_dir in enumerate(workdirs):
        model = Model(f"{run_dir.name} {index}", folder / f"{run_dir.name}_{index}")
        models.append(model)
        if not (model.folder / "model.json").exists():
            _write(model, workdir.load_model(run_dir))
    return models


def drawn_models(
    pair_name: str, count: int, folder: Path, say: Callable[[str], None]
) -> list[Model]:
    """Pairs of the registry with drawn weights: bytes and times are real, answers are not."""
    models = []
    for seed in range(count):
        model = Model(f"{pair_name} {seed}", folder / f"{pair_name}_drawn{seed}")
        models.append(model)
        if (model.folder / "model.json").exists():
            continue
        say(f"drawing model {seed + 1} of {count}")
        pair = registry.pair(pair_name)
        config = RunConfig(task="distill", pair=pair, data=DataConfig(name="drawn"), seed=seed)
        variables = jax.device_get(drawn_variables(HybridNetwork.from_pair(pair), seed))
        drawn = workdir.TrainedModel(config, HybridNetwork.from_pair(pair), variables, 0)
        _write(model, drawn)
    return models


def _write(model: Model, trained: workdir.TrainedModel) -> None:
    """All files of a model; `model.json` last, which says that the others are whole."""
    model.folder.mkdir(parents=True, exist_ok=True)
    config, preprocessing = trained.config, workdir.preprocessing_of(trained.config)
    if config.data.name == "drawn":
        validation = test = None
        rng = np.random.default_rng(config.seed)
        images = rng.integers(0, 256, (_REQUESTS, *config.pair.teacher.input_shape), np.uint8)
        labels = np.full(_REQUESTS, -1)
        calibration = images
    else:
        validation, test = (workdir.open_data(config, split) for split in ("validation", "test"))
        images, labels = pipeline.in_memory(test, preprocessing)
        train = workdir.open_data(config, "train")
        calibration = np.stack([train[i]["image"] for i in range(CALIBRATION_IMAGES)])
    options = BundleOptions(
        base_budget=None if validation is None else DEFAULT_BUDGET, programs=("onnx",)
    )
    export_bundle(trained, model.bundle, BITS, validation, test, options=options)
    blocks = trained.hybrid.num_blocks
    weights = ComposedWeights(
        config.pair, Composition.prefix(blocks, blocks), trained.variables, (), preprocessing
    )
    size = write_onnx(model.teacher("float32"), weights)
    _quantize(model, preprocessing, calibration)
    np.savez(model.folder / "requests.npz", images=images, labels=labels)
    (model.folder / "model.json").write_text(json.dumps({"teacher_bytes": size}) + "\n")


def _quantize(model: Model, preprocessing: Preprocessing, images: np.ndarray) -> None:
    """The teacher in int8 by ONNX Runtime's own tool: weights by channel, activations calibrated."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._left, None)
            return None if image is None else {"images": preprocessing(image)}

    quantization.quantize_static(
        model.teacher("float32"), model.teacher("int8"), Reader(), per_channel=True
    )
