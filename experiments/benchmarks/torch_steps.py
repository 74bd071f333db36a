"""Training steps in PyTorch: the baseline's modules in a bare loop, and PyTorch at its best.

Imported by `torch_worker` alone, in a process without JAX. Both columns train the baseline's
`SwapNet` in its mode `all`, the teacher in evaluation mode, by the baseline's SGD. Losses stay on
the device.
"""

import contextlib
import importlib
import io
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

TEMPERATURE, ALPHA, CROSS_WEIGHT = 2.0, 0.4, 2.0
MOMENTUM, WEIGHT_DECAY, CONVERTER_RATE = 0.9, 5e-4, 0.2
SCHEDULE_STEPS = 1000
ROTATION = 15.0
WORKERS = min(6, len(os.sched_getaffinity(0)))
"""Of the loader: six in the baseline, here no more than there are cores."""

_NETWORKS = {
    "block_resnet": "ResNet",
    "block_vgg": "VGG",
    "block_vit": "ViT",
    "block_lenet5": "LeNet5",
}


def swap_net(baseline_dir: str, request: dict[str, Any]) -> nn.Module:
    """The clone's hybrid of two configs; needs transformers and no torchvision."""
    if baseline_dir not in sys.path:
        sys.path.append(baseline_dir)
    networks = []
    for config in (request["teacher"], request["student"]):
        name = _NETWORKS[config["model_type"]]
        family = importlib.import_module(f"pwl_model.models.{name.lower()}.block_{name.lower()}")
        made = getattr(family, f"Block{name}Config").from_dict(config)
        networks.append(getattr(family, f"Block{name}ForImageClassification")(made))
    height, width, channels = request["input_shape"]
    with contextlib.redirect_stdout(io.StringIO()):  # It prints the shapes of its features.
        return importlib.import_module("pwl_model.core.swap_net").SwapNet(
            *networks,
            input_shape=(channels, height, width),
            channel_last=request["teacher"]["model_type"] == "block_vit",
        )


class Steps:
    """The baseline's modules, its distiller and its loader, in a bare loop.

    Attributes:
      note: what a reader of its timings must know.
      fused: whether the optimizer is one kernel.
      memory_format: of images, features and kernels.
      read_ahead: batches that may lie ready before a timing starts.
    """

    fused = False
    memory_format = torch.contiguous_format
    read_ahead = 2 * WORKERS

    def __init__(
        self,
        net: nn.Module,
        data: dict[str, np.ndarray],
        batch: int,
        learning_rate: float,
        dtype: torch.dtype,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.net = net.to(self.device, memory_format=self.memory_format)
        self.dtype, self.batch, self.data = dtype, batch, data
        self.note = ""
        self.loss = self.distiller()
        converters = [net.encoders, net.decoders]
        groups = [{"params": list(net.student.parameters()), "lr": learning_rate}] + [
            {"params": list(m.parameters()), "lr": CONVERTER_RATE * learning_rate}
            for m in converters
        ]
        self.optimizer = torch.optim.SGD(
            groups, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, fused=self.fused or None
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, T_max=SCHEDULE_STEPS, eta_min=min(learning_rate / 20, 1e-5)
        )
        self.ready = self.placed(*normalised(data, batch))
        self.fed = self.feed()

    def distiller(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """`(images, labels)` to the loss."""
        code = importlib.import_module("pwl_model.core.feature_distiller")
        module = code.FeatureDistiller(self.net, cross_mode="all")
        return lambda images, labels: module(images, labels).loss

    def placed(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A batch on the device."""
        moved = images.to(self.device, memory_format=self.memory_format, non_blocking=True)
        return moved, labels.to(self.device, non_blocking=True)

    def feed(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches without end, as the baseline has them: Pillow in processes of a loader."""
        loader = DataLoader(
            PillowAugmented(self.data),
            batch_size=self.batch,
            shuffle=True,
            drop_last=True,
            num_workers=WORKERS,
            persistent_workers=True,
            pin_memory=self.device.type == "cuda",
        )
        while True:
            for images, labels in loader:
                yield self.placed(images, labels)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One step of training; the loss before it, on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype != torch.float32):
            loss = self.loss(images, labels)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss

    def losses(self, steps: int) -> list[float]:
        """Of the first steps, all on the batch that lies ready."""
        return [float(self.step(*self.ready).detach()) for _ in range(steps)]

    def seconds(self, steps: int, end_to_end: bool) -> float:
        """Of one step, the mean of some that follow each other."""
        batches = self.fed if end_to_end else itertools.repeat(self.ready)
        if end_to_end:
            # What the loader has read ahead in the meantime must not count as read for nothing.
            for _ in range(self.read_ahead):
                self.step(*next(batches))
        self.synchronise()
        start = time.perf_counter()
        for _ in range(steps):
            self.step(*next(batches))
        self.synchronise()
        seconds = (time.perf_counter() - start) / steps
        if end_to_end and self.read_ahead > 1:
            # Until the loader's processes have read ahead again: they would disturb what is next.
            time.sleep(self.read_ahead * seconds)
        return seconds

    def synchronise(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class BestSteps(Steps):
    """The same loss compiled, channels last, fused SGD, the set and augmentation on the device."""

    fused = True
    memory_format = torch.channels_last
    read_ahead = 1

    def distiller(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Compiled, with CUDA graphs where there is CUDA; as it is where that fails."""
        self.net.teacher.eval()
        images, labels = self.placed(*normalised(self.data, self.batch))
        enabled = self.dtype != torch.float32
        for mode in ("reduce-overhead", "default") if self.device.type == "cuda" else ("default",):
            compiled = torch.compile(self._loss, mode=mode)
            kept = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
            try:
                for _ in range(3):
                    self.net.zero_grad(set_to_none=True)
                    self._mark_step()
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
                        compiled(images, labels).backward()
            except Exception as error:
                self.note += f"torch.compile({mode}) failed: {_one_line(error)}; "
            else:
                self.note += f"torch.compile({mode})"
                self._compiled = True
                return compiled
            finally:
                self.net.zero_grad(set_to_none=True)
                self.net.load_state_dict(kept)
        self.note += "not compiled"
        self._compiled = False
        return self._loss

    def feed(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches gathered and augmented on the device."""
        images = torch.from_numpy(self.data["images"]).permute(0, 3, 1, 2).to(self.device)
        labels = torch.from_numpy(self.data["labels"]).long().to(self.device)
        made = torch.compile(augmented) if self._compiled else augmented
        while True:
            order = torch.randperm(len(labels), device=self.device)
            for chosen in order[: len(order) // self.batch * self.batch].split(self.batch):
                yield made(images[chosen]), labels[chosen]

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """As there; tells CUDA graphs where a step begins."""
        self._mark_step()
        return super().step(images, labels)

    def _mark_step(self) -> None:
        if self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return all_prefix_loss(self.net, images, labels)


def all_prefix_loss(net: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The baseline's objective in its mode `all`, written without its bookkeeping."""
    with torch.no_grad():
        teacher_features, teacher = features(net.teacher, images)
    student_features, own = features(net.student, images)
    hard, soft = distilled(teacher, own, labels)
    aligned: Any = 0.0
    crossed: Any = 0.0
    for i, (t, s) in enumerate(zip(teacher_features, student_features, strict=True)):
        encoder, decoder = net.encoders[i], net.decoders[i]
        encoded, decoded = encoder(t), decoder(s)
        aligned += distance(s, encoded) + distance(t, decoded)
        aligned += distance(t, decoder(encoded)) + distance(s, encoder(decoded))
        x = encoded
        for block in net.student.blocks[i + 1 :]:
            x = block(x)
        crossed += sum(distilled(teacher, net.student.classifier(x), labels))
    boundaries = max(len(teacher_features), 1)
    return hard + soft + aligned / boundaries + CROSS_WEIGHT * crossed / boundaries


def features(network: Any, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What every block but the last puts out, and the logits."""
    x, found = network.embedder(images), []
    for block in network.blocks:
        x = block(x)
        found.append(x)
    return found[:-1], network.classifier(x)


def distilled(
    teacher: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted hard and soft loss."""
    soft = functional.kl_div(
        functional.log_softmax(logits / TEMPERATURE, -1),
        functional.softmax(teacher / TEMPERATURE, -1),
        reduction="batchmean",
    )
    hard = functional.cross_entropy(logits, labels)
    return ALPHA * hard, (1 - ALPHA) * TEMPERATURE**2 * soft


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """MSE and mean of 1 - cosine."""
    cosine = functional.cosine_similarity(a.flatten(1), b.flatten(1), dim=-1)
    return functional.mse_loss(a, b) + (1 - cosine).mean()


MEAN, DEVIATION = 0.5, 0.25


def normalised(data: dict[str, np.ndarray], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images and labels as a batch, not augmented."""
    images = torch.from_numpy(data["images"][:count]).permute(0, 3, 1, 2).float()
    return (images / 255 - MEAN) / DEVIATION, torch.from_numpy(data["labels"][:count]).long()


def augmented(images: torch.Tensor) -> torch.Tensor:
    """Rotation, flip and reflected crop of uint8[batch, channels, size, size], normalised."""
    batch, _, height, width = images.shape
    device = images.device
    turn = (2 * torch.rand(batch, device=device) - 1) * math.radians(ROTATION)
    cosine, sine, zero = turn.cos(), turn.sin(), torch.zeros_like(turn)
    matrix = torch.stack([cosine, -sine, zero, sine, cosine, zero], 1).reshape(batch, 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    x = functional.grid_sample(images.float(), grid, align_corners=False)
    flip = torch.rand(batch, 1, 1, 1, device=device) < 0.5
    x = torch.where(flip, x.flip(-1), x)
    rows, columns = height // 8, width // 8
    x = functional.pad(x, (columns, columns, rows, rows), mode="reflect")
    row = torch.randint(0, 2 * rows + 1, (batch, 1, 1), device=device)
    column = torch.randint(0, 2 * columns + 1, (batch, 1, 1), device=device)
    row = row + torch.arange(height, device=device).reshape(1, -1, 1)
    column = column + torch.arange(width, device=device).reshape(1, 1, -1)
    example = torch.arange(batch, device=device).reshape(-1, 1, 1)
    x = x.permute(0, 2, 3, 1)[example, row, column].permute(0, 3, 1, 2)
    return (x / 255 - MEAN) / DEVIATION


class PillowAugmented(Dataset):
    """What the baseline's transforms do to an example, by the calls that torchvision makes."""

    def __init__(self, data: dict[str, np.ndarray]) -> None:
        self.images, self.labels = data["images"], data["labels"]

    def __len__(self) -> int:
        """Of the set."""
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        """An augmented, normalised image, channels first, and its label."""
        draw = torch.rand(4).tolist()
        image = Image.fromarray(self.images[i]).rotate((2 * draw[0] - 1) * ROTATION)
        if draw[1] < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        array = np.asarray(image)
        (height, width), rows, columns = array.shape[:2], *(size // 8 for size in array.shape[:2])
        array = np.pad(array, ((rows, rows), (columns, columns), (0, 0)), mode="reflect")
        row, column = int(draw[2] * (2 * rows + 1)), int(draw[3] * (2 * columns + 1))
        array = array[row : row + height, column : column + width].transpose(2, 0, 1)
        tensor = torch.from_numpy(np.ascontiguousarray(array)).float() / 255
        return (tensor - MEAN) / DEVIATION, int(self.labels[i])


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
