"""Block networks and their hybrid in PyTorch, written for the tests from the published description.

Names of the state dict, layouts and semantics are those of the PWL baseline's checkpoints: bodies
`lenet`, `vgg`, `resnet` and `vit` with `embedder` and `blocks`, then `classifier`; a hybrid's
`teacher`, `student`, `encoders` and `decoders`. ViT layers are named as transformers 5 or 4 names
them, and its last block holds a LayerNorm that it does not apply.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pwl_jax.models.lenet5 import LeNet5Spec
from pwl_jax.models.registry import PairSpec
from pwl_jax.models.resnet import ResNetSpec
from pwl_jax.models.spec import NetworkSpec
from pwl_jax.models.vgg import VGGSpec
from pwl_jax.models.vit import EPSILON, ViTSpec


class Body(nn.Module):
    def __init__(self, embedder: nn.Module, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.embedder = embedder
        self.blocks = nn.ModuleList(blocks)


class Network(nn.Module):
    """`<body>.embedder`, `<body>.blocks` and `classifier`."""

    def __init__(
        self, body: str, embedder: nn.Module, blocks: list[nn.Module], classifier: nn.Module
    ) -> None:
        super().__init__()
        self.add_module(body, Body(embedder, blocks))
        self.body_name = body
        self.classifier = classifier

    @property
    def embedder(self) -> nn.Module:
        return getattr(self, self.body_name).embedder

    @property
    def blocks(self) -> nn.ModuleList:
        return getattr(self, self.body_name).blocks

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images)[-1])

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What each block puts out."""
        x, found = self.embedder(images), []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found


def lenet5(spec: LeNet5Spec) -> Network:
    (first, second), (third, fourth) = spec.channels, spec.features
    height, width, channels = spec.input_shape
    positions = ((height - 4) // 2 - 4) // 2 * (((width - 4) // 2 - 4) // 2)

    def convolved(into: int, out: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(into, out, 5), nn.ReLU(), nn.AvgPool2d(2))

    return Network(
        "lenet",
        nn.Identity(),
        [
            convolved(channels, first),
            convolved(first, second),
            nn.Sequential(nn.Flatten(), nn.Linear(second * positions, third), nn.ReLU()),
            nn.Sequential(nn.Linear(third, fourth), nn.ReLU()),
        ],
        nn.Sequential(nn.Flatten(), nn.Linear(fourth, spec.classes)),
    )


def pooled_classifier(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def vgg(spec: VGGSpec) -> Network:
    blocks, into = [], spec.input_shape[-1]
    for width, depth in zip(spec.widths, spec.depths, strict=True):
        stage: list[nn.Module] = []
        for _ in range(depth):
            stage += [nn.Conv2d(into, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            into = width
        blocks.append(nn.Sequential(nn.Sequential(*stage, nn.MaxPool2d(2))))
    return Network("vgg", nn.Identity(), blocks, pooled_classifier(into, spec.classes))


class NormalisedConvolution(nn.Module):
    def __init__(self, into: int, out: int, kernel: int, stride: int, relu: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False)
        self.normalization = nn.BatchNorm2d(out)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.normalization(self.convolution(x))
        return functional.relu(y) if self.relu else y


class Stem(nn.Module):
    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.embedder = NormalisedConvolution(
            spec.input_shape[-1], spec.stem_width, spec.stem_kernel, spec.stem_stride, relu=True
        )
        self.pooler = nn.MaxPool2d(3, 2, 1) if spec.stem_pool else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pooler(self.embedder(x))


class BasicLayer(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        changes = into != out or stride != 1
        self.shortcut = (
            NormalisedConvolution(into, out, 1, stride, relu=False) if changes else nn.Identity()
        )
        self.layer = nn.Sequential(
            NormalisedConvolution(into, out, 3, stride, relu=True),
            NormalisedConvolution(out, out, 3, 1, relu=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.layer(x) + self.shortcut(x))


class Stage(nn.Module):
    def __init__(self, into: int, out: int, stride: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(BasicLayer(out if i else into, out, 1 if i else stride) for i in range(depth))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def resnet(spec: ResNetSpec) -> Network:
    blocks, into = [], spec.stem_width
    for i, (width, depth) in enumerate(zip(spec.widths, spec.depths, strict=True)):
        stride = 2 if i or spec.downsample_first else 1
        blocks.append(nn.Sequential(Stage(into, width, stride, depth)))
        into = width
    return Network("resnet", Stem(spec), blocks, pooled_classifier(into, spec.classes))


class PatchProjection(nn.Module):
    def __init__(self, channels: int, hidden: int, patch: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, hidden, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection(x).flatten(2).transpose(1, 2)


class Embeddings(nn.Module):
    def __init__(self, spec: ViTSpec) -> None:
        super().__init__()
        height, width, channels = spec.input_shape
        patches = height // spec.patch * (width // spec.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.hidden))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + patches, spec.hidden))
        self.patch_embeddings = PatchProjection(channels, spec.hidden, spec.patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        token = self.cls_token.expand(len(x), -1, -1)
        return torch.cat([token, self.patch_embeddings(x)], 1) + self.position_embeddings


ATTENTION_NAMES = {
    5: ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    4: (
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
        "attention.output.dense",
    ),
}
MLP_NAMES = {5: ("mlp.fc1", "mlp.fc2"), 4: ("intermediate.dense", "output.dense")}


def add_at(root: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Puts a module at a dotted path below `root`, with empty modules on the way; returns it."""
    *way, name = path.split(".")
    for step in way:
        if not hasattr(root, step):
            root.add_module(step, nn.Module())
        root = getattr(root, step)
    root.add_module(name, module)
    return module


class Layer(nn.Module):
    """A pre-norm transformer layer; its linear maps are named by a version of transformers."""

    def __init__(self, spec: ViTSpec, naming: int) -> None:
        super().__init__()
        self.heads = spec.heads
        self.layernorm_before = nn.LayerNorm(spec.hidden, EPSILON)
        self.layernorm_after = nn.LayerNorm(spec.hidden, EPSILON)
        for name in ATTENTION_NAMES[naming]:
            add_at(self, name, nn.Linear(spec.hidden, spec.hidden))
        into, out = MLP_NAMES[naming]
        add_at(self, into, nn.Linear(spec.hidden, spec.mlp))
        add_at(self, out, nn.Linear(spec.mlp, spec.hidden))
        self.attention_names, self.mlp_names = ATTENTION_NAMES[naming], (into, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self._attended(self.layernorm_before(x))
        into, out = map(self.get_submodule, self.mlp_names)
        return x + out(functional.gelu(into(self.layernorm_after(x))))

    def _attended(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value, output = map(self.get_submodule, self.attention_names)

        def split(y: torch.Tensor) -> torch.Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        scores = split(query(x)) @ split(key(x)).transpose(2, 3)
        weights = torch.softmax(scores / (x.shape[-1] // self.heads) ** 0.5, dim=-1)
        return output((weights @ split(value(x))).transpose(1, 2).flatten(2))


class Wrapped(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)


class ClassToken(nn.Module):
    """Takes the class token; holds a LayerNorm that it never applies."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.module = nn.LayerNorm(hidden, EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


def vit(spec: ViTSpec, naming: int = 5) -> Network:
    depth = spec.layers_per_block
    blocks = [
        nn.Sequential(*(Wrapped(Layer(spec, naming)) for _ in range(depth)))
        for _ in range(spec.layers // depth)
    ]
    blocks[-1].append(ClassToken(spec.hidden))
    return Network("vit", Embeddings(spec), blocks, nn.Linear(spec.hidden, spec.classes))


def network(spec: NetworkSpec, naming: int = 5) -> Network:
    """The spec's network in PyTorch; `naming` is a version of transformers and concerns ViT."""
    if isinstance(spec, ViTSpec):
        return vit(spec, naming)
    builders: dict[str, Callable[[Any], Network]] = {"lenet5": lenet5, "vgg": vgg, "resnet": resnet}
    return builders[spec.family](spec)


class ChannelMap(nn.Module):
    """A linear map over channels, which lie on axis 1, or last."""

    def __init__(self, into: int, out: int, channels_last: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(into, out)
        self.axis = -1 if channels_last else 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.movedim(self.axis, -1)).movedim(-1, self.axis)


class Hybrid(nn.Module):
    """Teacher, student and converters; `forward` takes which blocks are the teacher's."""

    def __init__(self, teacher: nn.Module, student: nn.Module, pair: PairSpec) -> None:
        super().__init__()
        self.teacher, self.student = teacher, student
        self.teacher.requires_grad_(False)
        channels_last = pair.teacher.family == "vit"
        widths = pair.boundary_widths
        self.encoders, self.decoders = (
            nn.ModuleList(
                nn.Identity() if a == b else ChannelMap(a, b, channels_last) for a, b in ends
            )
            for ends in (widths, [(b, a) for a, b in widths])
        )

    def forward(self, images: torch.Tensor, sources: list[bool]) -> torch.Tensor:
        return self.run_from(images, sources, 0)

    def run_from(self, x: torch.Tensor, sources: list[bool], first: int) -> torch.Tensor:
        """Logits of a composition from block `first` on, x being that block's input."""
        for i in range(first, len(sources)):
            network = self.teacher if sources[i] else self.student
            x = network.blocks[i](network.embedder(x) if i == 0 else x)
            if i + 1 < len(sources) and sources[i] != sources[i + 1]:
                x = (self.encoders if sources[i] else self.decoders)[i](x)
        return (self.teacher if sources[-1] else self.student).classifier(x)


def hybrid(pair: PairSpec, naming: int = 5) -> Hybrid:
    """The pair's hybrid in PyTorch."""
    build = functools.partial(network, naming=naming)
    return Hybrid(build(pair.teacher), build(pair.student), pair)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Fills every tensor by its name's order, statistics and unused tensors too.

    Kernels keep the scale of what passes through them, so that logits are of order one.
    """
    rng = np.random.default_rng(seed)
    state = module.state_dict()
    for name in sorted(state):
        tensor, leaf = state[name], name.rsplit(".", 1)[-1]
        shape = tuple(tensor.shape)
        if leaf == "num_batches_tracked":
            values: Any = np.array(rng.integers(1, 1000))
        elif leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
            values = rng.uniform(0.5, 1.5, shape)
        elif leaf == "weight":
            values = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        else:
            values = rng.normal(0, 0.2, shape)
        tensor.copy_(torch.from_numpy(values).to(tensor.dtype))
