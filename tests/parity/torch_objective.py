"""PWL's objective and the baseline's optimizer in PyTorch, from the published definitions."""

import torch
from torch import nn
from torch.nn import functional

TEMPERATURE, ALPHA, CROSS_WEIGHT = 2.0, 0.4, 2.0
MOMENTUM, WEIGHT_DECAY, CONVERTER_RATE = 0.9, 5e-4, 0.2


def soft_loss(teacher: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """T^2 KL(teacher || other), mean over the batch."""
    p = functional.softmax(teacher / TEMPERATURE, -1)
    log_q = functional.log_softmax(other / TEMPERATURE, -1)
    return TEMPERATURE**2 * functional.kl_div(log_q, p, reduction="batchmean")


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """MSE and mean of 1 - cosine."""
    cosine = functional.cosine_similarity(a.flatten(1), b.flatten(1))
    return functional.mse_loss(a, b) + (1 - cosine).mean()


class Distiller(nn.Module):
    """The objective on a hybrid of `torch_networks`.

    Running averages are updated in the order own stream, then entry boundary 0, 1, ... or the
    drawn composition.
    """

    def __init__(self, hybrid: nn.Module, cross: str) -> None:
        super().__init__()
        self.swapnet = hybrid
        self.cross = cross

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, sources: list[bool]
    ) -> dict[str, torch.Tensor]:
        """Each weighted term; `sources` is what mode `random` drew."""
        h, blocks = self.swapnet, len(sources)
        *student_features, last = h.student.features(images)
        student = h.student.classifier(last)
        with torch.no_grad():
            *teacher_features, last = h.teacher.features(images)
            teacher = h.teacher.classifier(last)
        sync, recon = [], []
        for s, t, encoder, decoder in zip(
            student_features, teacher_features, h.encoders, h.decoders, strict=True
        ):
            sync.append(distance(s, encoder(t)) + distance(t, decoder(s)))
            recon.append(distance(t, decoder(encoder(t))) + distance(s, encoder(decoder(s))))
        if self.cross == "random":
            cross = soft_loss(teacher, h(images, sources))
        else:
            own = [False] * blocks
            streams = [
                h.run_from(h.encoders[k](feature), own, k + 1)
                for k, feature in enumerate(teacher_features)
            ]
            cross = sum(
                ALPHA * functional.cross_entropy(x, labels) + (1 - ALPHA) * soft_loss(teacher, x)
                for x in streams
            ) / len(streams)
        return {
            "hard": ALPHA * functional.cross_entropy(student, labels),
            "soft": (1 - ALPHA) * soft_loss(teacher, student),
            "sync": sum(sync) / len(sync),
            "recon": sum(recon) / len(recon),
            "cross": CROSS_WEIGHT * cross,
        }


def make_optimizer(
    hybrid: nn.Module, learning_rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """SGD of student and converters, and the cosine that all groups share the floor of."""
    groups = [
        {"params": list(module.parameters()), "lr": learning_rate * rate}
        for module, rate in (
            (hybrid.student, 1.0),
            (hybrid.encoders, CONVERTER_RATE),
            (hybrid.decoders, CONVERTER_RATE),
        )
    ]
    optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=steps, eta_min=min(learning_rate / 20, 1e-5)
    )
    return optimizer, schedule


def train_step(
    distiller: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    sources: list[bool],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """One step of training, the schedule's included."""
    optimizer.zero_grad()
    torch.stack(list(distiller(images, labels, sources).values())).sum().backward()
    optimizer.step()
    schedule.step()
