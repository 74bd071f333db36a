"""Answers from a training workdir as a bundle's executor would: same programs, same batches."""

import os
from typing import Any

import numpy as np

from pwl_jax.errors import UserError
from pwl_jax.export.exporter import Model, as_hybrid, unit_tensors
from pwl_jax.export.programs import FORMATS, export_program, tensor_names, units_of
from pwl_jax.interop.onnx_graph import OnnxError
from pwl_jax.ladder import EXACT, Composition, Rung
from pwl_jax.runtime import Prediction
from pwl_jax.runtime.batching import LARGEST_BATCH, padded_batches
from pwl_jax.runtime.executor import Chain, Executor, Step, create_executor
from pwl_jax.training import workdir
from pwl_jax.training.checkpoints import Which


def workdir_prediction(
    path: str | os.PathLike[str],
    inputs: Any,
    rung: str | None = None,
    which: Which = "best",
    executor: str = "auto",
) -> Prediction:
    """What the networks of a workdir answer, equal bit for bit to a bundle's exact rungs.

    Args:
      path: workdir of a distillation, or of a network trained alone.
      inputs: as `LiveModel.predict` takes them.
      rung: any composition, bare or exact; None for the teacher, or for the network that is alone.
      which: checkpoint.
      executor: name of the executor that computes; "auto" takes that which answers first from a
        bundle.

    Raises:
      UserError: no such workdir, a rung that no checkpoint holds, or wrong inputs.
    """
    model: Model
    if workdir.read_config(path).task == "distill":
        model = workdir.load_model(path, which)
        exact = exact_rung(rung, model.hybrid.num_blocks)
    else:
        model = workdir.load_network(path, which)
        exact = exact_rung(rung or str(model.composition), model.network.num_blocks)
        if exact.composition != model.composition:
            raise UserError(
                f"'{path}' holds a {model.config.task} alone, {model.composition}; no weights for "
                f"{exact.composition}"
            )
    images = workdir.preprocessing_of(model.config)(inputs)
    if not len(images):
        raise UserError("the batch is empty; expected at least one image")
    runner = create_executor(executor, tuple(FORMATS))
    try:
        chain = _chain(model, exact.composition, runner)
    except OnnxError:
        if executor != "auto":
            raise
        # A bundle of it has no ONNX programs either.
        runner = create_executor()
        chain = _chain(model, exact.composition, runner)
    logits = [
        runner.run(chain, batch)[:count]
        for batch, count in padded_batches(images, LARGEST_BATCH, exact=True)
    ]
    return Prediction(
        np.concatenate(logits), exact.name, runner.name, workdir.class_names(model.config)
    )


def exact_rung(text: str | None, blocks: int) -> Rung:
    """The exact rung of a composition that is named alone or with `@exact`.

    Raises:
      UserError: it does not parse, has another number of blocks, or another precision.
    """
    if text is None:
        return Rung.uniform(Composition.prefix(blocks, blocks), EXACT)
    composition = Composition.parse(text.partition("@")[0], blocks)
    exact = Rung.uniform(composition, EXACT)
    if "@" in text and Rung.parse(text) != exact:
        raise UserError(f"rung {text}: a workdir holds exact weights only; expected {exact}")
    return exact


def _chain(model: Model, composition: Composition, runner: Executor) -> Chain:
    """The blocks of a composition, loaded from the checkpoint; identities are nothing."""
    hybrid, variables = as_hybrid(model)
    tensors, held = unit_tensors(hybrid, variables), set(units_of(hybrid))
    steps = []
    for unit in (unit for unit in composition.units() if unit in held):
        data = export_program(hybrid, variables, unit, runner.program_format)
        program = runner.read_program(unit, data, tensor_names(hybrid, variables, unit))
        steps.append(Step(runner.load(program, tensors[unit]), composition.stream(unit)))
    return runner.join(steps)
