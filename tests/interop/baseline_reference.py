"""The PyTorch baseline's networks in NumPy, under its names, and checkpoints that it could save.

Written from its modules alone: NCHW, kernels as PyTorch has them, float64. A forward pass asks for
its tensors by name and shape and so defines what a checkpoint holds.
"""

import functools
import json
import math

import numpy as np

from pwl_jax.bundle.safetensors_file import write_safetensors

CONFIGS = {
    "lenet5": (
        {"model_type": "block_lenet5", "cnn_channels": [4, 6], "fc_sizes": [150, 12, 10]},
        {"model_type": "block_lenet5", "cnn_channels": [2, 3], "fc_sizes": [75, 12, 5]},
    ),
    "vgg": (
        {"model_type": "block_vgg", "hidden_sizes": [6, 8, 8], "depths": [2, 1, 3]},
        {"model_type": "block_vgg", "hidden_sizes": [4, 8, 6], "depths": [1, 1, 1]},
    ),
    "resnet": (
        {
            "model_type": "block_resnet", "layer_type": "basic", "embedding_size": 6,
            "hidden_sizes": [6, 8, 10], "depths": [2, 1, 2],
            "embedder_kernel_size": 3, "embedder_kernel_stride": 1, "embedder_use_pooler": False,
        },
        {
            "model_type": "block_resnet", "layer_type": "basic", "embedding_size": 5,
            "hidden_sizes": [6, 6, 6], "depths": [1, 1, 1],
            "embedder_kernel_size": 3, "embedder_kernel_stride": 1, "embedder_use_pooler": False,
        },
    ),
    "resnet_stem": tuple(
        {
            "model_type": "block_resnet", "layer_type": "basic", "embedding_size": width,
            "hidden_sizes": [width, 8], "depths": [1, 1], "downsample_in_first_stage": True,
        }
        for width in (6, 4)
    ),
    "resnet_bottleneck": tuple(
        {
            "model_type": "block_resnet", "embedding_size": 4, "hidden_sizes": [8, 12],
            "depths": [depth, 1], "downsample_in_bottleneck": depth == 2,
            "embedder_kernel_size": 3, "embedder_kernel_stride": 1, "embedder_use_pooler": False,
        }
        for depth in (2, 1)
    ),
    "vit": (
        {
            "model_type": "block_vit", "image_size": 32, "patch_size": 8, "hidden_size": 12,
            "num_attention_heads": 3, "intermediate_size": 20, "num_hidden_layers": 6,
            "layers_per_block": 2,
        },
        {
            "model_type": "block_vit", "image_size": 32, "patch_size": 8, "hidden_size": 8,
            "num_attention_heads": 2, "intermediate_size": 12, "num_hidden_layers": 3,
            "layers_per_block": 1,
        },
    ),
    "vit_variant": tuple(
        {
            "model_type": "block_vit", "image_size": 32, "patch_size": 16, "hidden_size": width,
            "num_attention_heads": 2, "intermediate_size": 12, "num_hidden_layers": 2,
            "layer_norm_eps": 0.1, "hidden_act": "gelu_pytorch_tanh", "qkv_bias": False,
        }
        for width in (8, 6)
    ),
}  # fmt: skip
"""Teacher's and student's fields that differ from the defaults of the baseline's config classes."""

CLASSES = 10
LABELS = {"id2label": {str(i): f"label{i}" for i in range(CLASSES)}, "torch_dtype": "float32"}


class Tensors(dict):
    """Tensors by name; one that is asked for and not there is drawn."""

    def __init__(self, drawn=()):
        super().__init__(drawn)
        self._rng = np.random.default_rng(0)

    def get(self, name, *shape):
        if name not in self:
            one_sided = name.endswith("running_var") or (
                name.endswith(".weight") and len(shape) == 1
            )
            deviation = 1 / math.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.2
            values = self._rng.normal(0, deviation, shape)
            values = self._rng.uniform(0.5, 1.5, shape) if one_sided else values
            self[name] = values.astype(np.float32)
        assert self[name].shape == shape, name
        return self[name].astype(np.float64)

    def counter(self, name):
        self.setdefault(name, np.array(len(self), np.int64))


def convolution(t, name, x, width, size, stride=1, padding=0, bias=True):
    kernel = t.get(f"{name}.weight", width, x.shape[1], size, size)
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
    y = np.tensordot(windows[:, :, ::stride, ::stride], kernel, ((1, 4, 5), (1, 2, 3)))
    y = y.transpose(0, 3, 1, 2)
    return y + t.get(f"{name}.bias", width).reshape(1, -1, 1, 1) if bias else y


def pooled(x, size, stride, reduce, padding=0):
    edges = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    x = np.pad(x, edges, constant_values=-np.inf) if padding else x
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
    return reduce(windows[:, :, ::stride, ::stride], axis=(4, 5))


def batch_norm(t, name, x):
    t.counter(f"{name}.num_batches_tracked")
    scale, bias, mean, var = (
        t.get(f"{name}.{leaf}", x.shape[1]).reshape(1, -1, 1, 1)
        for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def layer_norm(t, name, x, epsilon):
    scale, bias = (t.get(f"{name}.{leaf}", x.shape[-1]) for leaf in ("weight", "bias"))
    centered = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt(np.square(centered).mean(-1, keepdims=True) + epsilon)
    return centered / deviation * scale + bias


def linear(t, name, x, width, bias=True):
    y = x @ t.get(f"{name}.weight", width, x.shape[-1]).T
    return y + t.get(f"{name}.bias", width) if bias else y


def relu(x):
    return np.maximum(x, 0)


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def gelu_tanh(x):
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def lenet5(config, t, name, naming):
    channels, sizes = config["cnn_channels"], config["fc_sizes"]

    def convolved(i):
        return lambda x: pooled(
            relu(convolution(t, f"{name}lenet.blocks.{i}.0", x, channels[i], 5)), 2, 2, np.mean
        )

    def flat(x):
        return relu(linear(t, f"{name}lenet.blocks.2.1", x.reshape(len(x), -1), sizes[1]))

    def dense(x):
        return relu(linear(t, f"{name}lenet.blocks.3.0", x, sizes[2]))

    blocks = [convolved(0), convolved(1), flat, dense]
    return blocks, lambda x: linear(t, f"{name}classifier.1", x, CLASSES)


def pooled_classifier(t, name):
    return lambda x: linear(t, f"{name}classifier.2", x.mean((2, 3)), CLASSES)


def vgg(config, t, name, naming):
    def stage(i, width, depth):
        def block(x):
            for j in range(depth):
                x = convolution(t, f"{name}vgg.blocks.{i}.0.{3 * j}", x, width, 3, padding=1)
                x = relu(batch_norm(t, f"{name}vgg.blocks.{i}.0.{3 * j + 1}", x))
            return pooled(x, 2, 2, np.max)

        return block

    sizes = zip(config["hidden_sizes"], config["depths"], strict=True)
    return [stage(i, *size) for i, size in enumerate(sizes)], pooled_classifier(t, name)


def resnet(config, t, name, naming):
    def convolved(at, x, width, size, stride):
        y = convolution(t, f"{at}.convolution", x, width, size, stride, size // 2, bias=False)
        return batch_norm(t, f"{at}.normalization", y)

    def embedded(x):
        size, stride = (
            config.get("embedder_kernel_size", 7),
            config.get("embedder_kernel_stride", 2),
        )
        at = f"{name}resnet.embedder.embedder"
        x = relu(convolved(at, x, config["embedding_size"], size, stride))
        return pooled(x, 3, 2, np.max, 1) if config.get("embedder_use_pooler", True) else x

    def layer(at, x, width, stride):
        basic = [(width, 3, stride), (width, 3, 1)]
        first, second = (stride, 1) if config.get("downsample_in_bottleneck") else (1, stride)
        deep = [(width // 4, 1, first), (width // 4, 3, second), (width, 1, 1)]
        y = x
        for k, sizes in enumerate(basic if config.get("layer_type") == "basic" else deep):
            y = convolved(f"{at}.layer.{k}", relu(y) if k else y, *sizes)
        if x.shape[1] != width or stride != 1:
            x = convolved(f"{at}.shortcut", x, width, 1, stride)
        return relu(x + y)

    def stage(i, width, depth):
        def block(x):
            x = embedded(x) if i == 0 else x
            first = 1 if i == 0 and not config.get("downsample_in_first_stage") else 2
            for j in range(depth):
                at, stride = f"{name}resnet.blocks.{i}.0.layers.{j}", first if j == 0 else 1
                x = layer(at, x, width, stride)
            return x

        return block

    sizes = zip(config["hidden_sizes"], config["depths"], strict=True)
    return [stage(i, *size) for i, size in enumerate(sizes)], pooled_classifier(t, name)


VIT_NAMES = {
    "4": (
        "attention.attention.query", "attention.attention.key", "attention.attention.value",
        "attention.output.dense", "intermediate.dense", "output.dense",
    ),
    "5": (
        "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj",
        "mlp.fc1", "mlp.fc2",
    ),
}  # fmt: skip


def vit(config, t, name, naming):
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    each = config.get("layers_per_block", 1)
    blocks = config["num_hidden_layers"] // each
    norm = functools.partial(layer_norm, t, epsilon=config.get("layer_norm_eps", 1e-12))
    activation = gelu_tanh if "tanh" in config.get("hidden_act", "gelu") else gelu
    bias = config.get("qkv_bias", True)

    def embedded(x):
        at, size = f"{name}vit.embedder", config["patch_size"]
        x = convolution(t, f"{at}.patch_embeddings.projection", x, hidden, size, size)
        x = x.reshape(len(x), hidden, -1).transpose(0, 2, 1)
        token = np.repeat(t.get(f"{at}.cls_token", 1, 1, hidden), len(x), 0)
        x = np.concatenate([token, x], 1)
        return x + t.get(f"{at}.position_embeddings", 1, x.shape[1], hidden)

    def layer(at, x):
        query, key, value, output, first, second = (f"{at}.{leaf}" for leaf in VIT_NAMES[naming])
        y = norm(f"{at}.layernorm_before", x)
        q, k, v = (
            linear(t, leaf, y, hidden, bias).reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)
            for leaf in (query, key, value)
        )
        scores = np.exp(q @ k.transpose(0, 1, 3, 2) / math.sqrt(hidden // heads))
        y = (scores / scores.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3)
        x = x + linear(t, output, y.reshape(x.shape), hidden)
        y = norm(f"{at}.layernorm_after", x)
        y = activation(linear(t, first, y, config["intermediate_size"]))
        return x + linear(t, second, y, hidden)

    def block(i):
        def run(x):
            x = embedded(x) if i == 0 else x
            for j in range(each):
                x = layer(f"{name}vit.blocks.{i}.{j}.module", x)
            if i == blocks - 1:
                # It holds a norm here, and does not call it.
                norm(f"{name}vit.blocks.{i}.{each}.module", x)
                x = x[:, 0]
            return x

        return run

    return list(map(block, range(blocks))), lambda x: linear(t, f"{name}classifier", x, CLASSES)


NETWORKS = {"lenet5": lenet5, "vgg": vgg, "resnet": resnet, "vit": vit}


def kind_of(case):
    """The family of a case of CONFIGS, which is what its name begins with."""
    return case.partition("_")[0]


def logits(family, t, composition, images, prefix="swapnet.", naming="5"):
    """Logits of a composition: f32[batch, height, width, 3] to f64[batch, classes]."""
    networks = {
        letter: NETWORKS[kind_of(family)](config, t, f"{prefix}{role}.", naming)
        for letter, role, config in zip("TS", ("teacher", "student"), CONFIGS[family], strict=True)
    }
    widths = {letter: boundary_widths(family, letter) for letter in "TS"}
    x = images.astype(np.float64).transpose(0, 3, 1, 2)
    for i, letter in enumerate(composition):
        x = networks[letter][0][i](x)
        following = composition[i + 1 : i + 2]
        if following and following != letter and widths["T"][i] != widths["S"][i]:
            group = "encoders" if letter == "T" else "decoders"
            axis = 2 if kind_of(family) == "vit" else 1
            x = np.moveaxis(x, axis, -1)
            x = linear(t, f"{prefix}{group}.{i}.linear", x, widths[following][i])
            x = np.moveaxis(x, -1, axis)
    return networks[composition[-1]][1](x)


def boundary_widths(family, letter):
    config = CONFIGS[family]["TS".index(letter)]
    if family == "lenet5":
        return [*config["cnn_channels"], config["fc_sizes"][1]]
    if kind_of(family) == "vit":
        layers_per_block = config.get("layers_per_block", 1)
        return [config["hidden_size"]] * (config["num_hidden_layers"] // layers_per_block - 1)
    return config["hidden_sizes"][:-1]


def images_of(count=3):
    return np.random.default_rng(1).normal(size=(count, 32, 32, 3)).astype(np.float32)


def num_blocks(family):
    return len(boundary_widths(family, "T")) + 1


def pair_tensors(family, prefix="swapnet.", naming="5"):
    """What a pair's checkpoint holds, in a dictionary of one's own."""
    return Tensors(drawn=_pair_tensors(family, prefix, naming))


@functools.cache
def _pair_tensors(family, prefix, naming):
    t, blocks = Tensors(), num_blocks(family)
    for letter in "TS":
        logits(family, t, letter * blocks, images_of(1), prefix, naming)
    for k in range(1, blocks):
        for letters in ("TS", "ST"):
            composition = letters[0] * k + letters[1] * (blocks - k)
            logits(family, t, composition, images_of(1), prefix, naming)
    return t


def network_tensors(family, naming="5"):
    """What the checkpoint of the teacher alone holds."""
    t, x = Tensors(), images_of(1).astype(np.float64).transpose(0, 3, 1, 2)
    blocks, classifier = NETWORKS[kind_of(family)](CONFIGS[family][0], t, "", naming)
    for block in blocks:
        x = block(x)
    classifier(x)
    return t


def write(folder, tensors, **configs):
    """A checkpoint folder: tensors, and configs by role, `alone` for one network."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(write_safetensors(tensors, {"format": "pt"}))
    for name, config in configs.items():
        place = folder / (f"{name}_config/config.json" if name != "alone" else "config.json")
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps({**LABELS, **config}, indent=1))
    return folder


def write_pair(folder, family, tensors=None, teacher=None, student=None, **kind):
    """A pair's checkpoint folder, with other tensors or changed fields."""
    configs = {
        role: {**config, **(change or {})}
        for role, config, change in zip(
            ("teacher", "student"), CONFIGS[family], (teacher, student), strict=True
        )
    }
    return write(folder, pair_tensors(family, **kind) if tensors is None else tensors, **configs)
