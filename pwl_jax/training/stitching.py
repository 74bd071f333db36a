"""Stitching after the fact: converters fitted to two networks that never met in training.

SN-Net (Pan et al. 2023, arXiv 2302.06586) joins trained networks by linear layers that begin as the
least-squares map between their features. Here they stay what they begin as.
"""

import jax
import jax.numpy as jnp

from pwl_jax.data import pipeline, sources
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.models.block_network import Variables
from pwl_jax.training import workdir
from pwl_jax.training.calibration import calibrated, initialised_converters, make_moments
from pwl_jax.training.step import AXIS, device_mesh, replicate


def stitched(
    model: workdir.TrainedModel,
    training: sources.Source,
    examples: int = 10_000,
    batch_size: int = 256,
) -> Variables:
    """A pair's variables with converters by least squares, and statistics measured with these.

    Args:
      model: a pair whose student was trained, in whatever way.
      training: images to fit on.
      examples: how many of them.
      batch_size: images a step.
    """
    preprocessing = workdir.preprocessing_of(model.config)
    source = pipeline.PreparedSource(training, preprocessing)
    mesh = device_mesh()
    moments_of = make_moments(HybridNetwork.from_pair(model.config.pair, AXIS), mesh)
    seed = model.config.seed

    def batches() -> list[pipeline.Batch]:
        return list(pipeline.sampled_batches(source, examples, batch_size, seed, mesh.size))

    def measured(variables: Variables) -> Variables:
        return calibrated(
            model.hybrid, variables, batches(), preprocessing.normalize, moments_of, mesh
        )

    variables = measured(replicate(model.variables, mesh))
    images = (jnp.asarray(preprocessing.normalize(batch["image"])) for batch in batches())
    fitted = initialised_converters(model.hybrid, variables, images, train=False)
    return jax.device_get(measured(fitted))
