"""The first answer by the PWL baseline's own class: clone, folder, image, where to write logits."""

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np

clone, folder, image, output = sys.argv[1:]
sys.path.append(clone)
name = {"resnet": "ResNet", "vgg": "VGG", "vit": "ViT"}[
    json.loads((Path(folder) / "config.json").read_text())["model_type"].removeprefix("block_")
]

import torch  # noqa: E402

module = importlib.import_module(f"pwl_model.models.{name.lower()}.block_{name.lower()}")
network = getattr(module, f"Block{name}ForImageClassification").from_pretrained(folder).eval()
images = torch.from_numpy(np.load(image).transpose(0, 3, 1, 2).copy())
with torch.inference_mode():
    answer = network(images)
    logits = getattr(answer, "logits", answer).numpy()
print(time.monotonic())
np.save(output, logits)
