"""The first answer of ONNX Runtime by itself: model, image, where to write the logits."""

import sys
import time

import numpy as np
import onnxruntime

model, image, output = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
(logits,) = session.run(None, {session.get_inputs()[0].name: np.load(image)})
print(time.monotonic())
np.save(output, logits)
