"""The first answer of JAX as a script has it: weights, spec, image, where to write the logits.

The network is our own in Flax, jitted in this process; nothing is cached.
"""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from pwl_jax.models.spec import NetworkSpec

weights, spec, image, output = sys.argv[1:]
network = NetworkSpec.from_dict(json.loads(Path(spec).read_text())).build()
variables = {"params": {}, "batch_stats": {}} | unflatten_dict(load_file(weights), sep="/")
logits = np.asarray(jax.jit(network.apply)(variables, np.load(image)).logits)
print(time.monotonic())
np.save(output, logits)
