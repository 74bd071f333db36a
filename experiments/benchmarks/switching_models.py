"""Makes the models that requests switch between: bundles, and their teachers alone as ONNX."""

import dataclasses
import importlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.step_cases import drawn_variables
from experiments.benchmarks.switching_policies import Model
from pwl_jax.bundle import BundleError, BundleReader, Preprocessing
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
_IMAGES = 64
"""Training images that the ranges of int8 activations are taken from; drawn ones to be asked."""

_DRAWN = "drawn"
_DONE = "model.json"


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
        if (kept := _kept(where)) is not None:
            models.append(kept)
            continue
        say(f"training model {seed + 1} of {count}")
        config = importlib.import_module(f"experiments.configs.{config_name}").get_config()
        config.seed = seed
        if epochs is not None:
            config.teacher.epochs = config.distill.epochs = epochs
        teacher, distilled = where / "teacher", where / "pwl"
        for task, run_dir, source in (("teacher", teacher, None), ("distill", distilled, teacher)):
            if not loop.train(run_config(config, task), run_dir, source, progress=False).finished:
                raise UserError(f"the training in '{run_dir}' was stopped; run it again")
        models.append(_written(where, workdir.load_model(distilled)))
    return models


def workdir_models(workdirs: Sequence[Path], folder: Path) -> list[Model]:
    """Pairs that `launch.distill` left, measured on their own data."""
    models = []
    for run_dir in workdirs:
        where = folder / "_".join(run_dir.absolute().parts[-2:])
        models.append(_kept(where) or _written(where, workdir.load_model(run_dir)))
    return models


def drawn_models(
    pair_name: str, count: int, folder: Path, say: Callable[[str], None]
) -> list[Model]:
    """Pairs of the registry with drawn weights: bytes and times are real, answers are not."""
    models = []
    for seed in range(count):
        where = folder / f"{pair_name}_drawn{seed}"
        if (kept := _kept(where)) is not None:
            models.append(kept)
            continue
        say(f"drawing model {seed + 1} of {count}")
        pair = registry.pair(pair_name)
        config = RunConfig(task="distill", pair=pair, data=DataConfig(name=_DRAWN), seed=seed)
        hybrid = HybridNetwork.from_pair(pair)
        variables = jax.device_get(drawn_variables(hybrid, seed))
        models.append(_written(where, workdir.TrainedModel(config, hybrid, variables, 0)))
    return models


def _kept(folder: Path) -> Model | None:
    """What an earlier run left, if it is whole and its bundle is one that can be read."""
    try:
        fields = json.loads((folder / _DONE).read_text())
        BundleReader.open(folder / "bundle")
    except (FileNotFoundError, BundleError):
        return None
    return Model(folder=str(folder), **fields)


def _written(folder: Path, trained: workdir.TrainedModel) -> Model:
    """All files of a model; the last one says that the others are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    config = trained.config
    if config.data.name == _DRAWN:
        shape = config.pair.teacher.input_shape
        preprocessing = Preprocessing(shape, (0.5,) * shape[-1], (0.25,) * shape[-1])
        validation = test = None
        rng = np.random.default_rng(config.seed)
        images = rng.integers(0, 256, (_IMAGES, *shape), np.uint8)
        labels, calibration = np.full(_IMAGES, -1), images
    else:
        preprocessing = workdir.preprocessing_of(config)
        validation, test = (workdir.open_data(config, split) for split in ("validation", "test"))
        images, labels = pipeline.in_memory(test, preprocessing)
        train = workdir.open_data(config, "train")
        calibration = np.stack([train[i]["image"] for i in range(_IMAGES)])
    options = BundleOptions(
        base_budget=None if validation is None else DEFAULT_BUDGET, programs=("onnx",)
    )
    model = Model(folder.name, str(folder), 0, 0, preprocessing.to_dict())
    # One that cannot be read is never replaced by an export.
    shutil.rmtree(model.bundle, ignore_errors=True)
    export_bundle(trained, model.bundle, BITS, validation, test, options=options)
    blocks = trained.hybrid.num_blocks
    whole = Composition.prefix(blocks, blocks)
    weights = ComposedWeights(config.pair, whole, trained.variables)
    with tempfile.TemporaryDirectory() as scratch:
        size = write_onnx(Path(scratch) / "teacher.onnx", weights)
        int8_size = _optimised(model, Path(scratch) / "teacher.onnx", preprocessing, calibration)
    np.savez(model.requests, images=images, labels=labels)
    model = dataclasses.replace(model, float32_bytes=size, int8_bytes=int8_size)
    fields = {key: value for key, value in dataclasses.asdict(model).items() if key != "folder"}
    (folder / _DONE).write_text(json.dumps(fields) + "\n")
    return model


def _optimised(
    model: Model, teacher: Path, preprocessing: Preprocessing, images: np.ndarray
) -> int:
    """Writes a teacher as ONNX Runtime's tools leave it: optimised, and that in int8.

    What can be computed beforehand is, so that loading does not have to. In int8, weights have a
    scale for each channel, and activations the ranges that some training images give them.

    Returns:
      Bytes of the int8 model's constants.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    class Images(quantization.CalibrationDataReader):
        left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {"images": preprocessing(image)}

    # Symbolic shapes would need another package; ours are known but for the batch.
    shape_inference.quant_pre_process(teacher, model.float32, skip_symbolic_shape=True)
    quantization.quantize_static(model.float32, model.int8, Images(), per_channel=True)
    constants = onnx.load(model.int8).graph.initializer
    return sum(onnx.numpy_helper.to_array(constant).nbytes for constant in constants)
