"""The first answer of a bundle: bundle, rung, executor, image, where to write the logits."""

import sys
import time

import numpy as np

from pwl_jax.runtime import LiveModel

bundle, rung, executor, image, output = sys.argv[1:]
# What `launch.predict` asks for: nothing is warmed but by the request itself.
with LiveModel.open(
    bundle, rung=rung, executor=executor, climb=False, exact_batches=True, warm_batches=()
) as model:
    logits = model.predict(np.load(image)).logits
    print(time.monotonic())
np.save(output, logits)
