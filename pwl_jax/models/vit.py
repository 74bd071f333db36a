"""Vision Transformer (Dosovitskiy et al., arXiv 2010.11929); a block is a run of its layers."""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from pwl_jax.models.block_network import BlockNetwork
from pwl_jax.models.heads import LinearHead
from pwl_jax.models.sizes import check_positive
from pwl_jax.models.spec import NetworkSpec, SpecError

EPSILON = 1e-12
"""Added to LayerNorm's variance, as in the configuration of Hugging Face's ViT."""

ACTIVATIONS = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
}

TOKEN_INIT = nn.initializers.truncated_normal(0.02)
DENSE_INIT = nn.initializers.xavier_uniform()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTSpec(NetworkSpec, family="vit"):
    """Pre-LayerNorm transformer over image patches and a class token.

    Attributes:
      hidden: width of a token.
      heads: attention heads; divides `hidden`.
      mlp: inner width of a layer's MLP.
      layers: transformer layers.
      layers_per_block: layers in a block, a divisor of `layers`; or one number for each block,
        `layers` in all (equal ones are kept as a single number).
      patch: height and width of a patch; divides the image's.
      final_norm: whether the last block ends in a LayerNorm, as ViT defines it. Without it there
        is no such parameter; the PyTorch baseline holds one and never applies it.
      epsilon: added to LayerNorm's variance; 1e-12 in Hugging Face's ViT, 1e-6 in timm's.
      activation: of the MLP, "gelu" (exact) or "gelu_tanh" (its approximation by tanh).
      qkv_bias: whether queries, keys and values have a bias.
      tokens: learned tokens before the patches: the class token and, in DeiT (arXiv 2012.12877),
        the distillation token.
      head_tokens: how many of these the head reads, side by side. Two heads whose logits are
        averaged, as DeiT's, are one linear map of both tokens.
    """

    hidden: int = 192
    heads: int = 3
    mlp: int = 768
    layers: int = 12
    layers_per_block: int | tuple[int, ...] = 2
    patch: int = 16
    final_norm: bool = True
    epsilon: float = EPSILON
    activation: str = "gelu"
    qkv_bias: bool = True
    tokens: int = 1
    head_tokens: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "hidden", "heads", "mlp", "layers", "layers_per_block", "patch")
        check_positive(self, "tokens", "head_tokens")
        each = self.layers_per_block
        if isinstance(each, tuple):
            if sum(each) != self.layers:
                raise SpecError(
                    f"layers_per_block is {each}, {sum(each)} in all; expected the "
                    f"{self.layers} of layers"
                )
            if len(set(each)) == 1:
                object.__setattr__(self, "layers_per_block", each[0])
        height, width, _ = self.input_shape
        for what, total, part, by in (
            ("heads", self.hidden, self.heads, "hidden"),
            ("layers_per_block", self.layers, each, "layers"),
            ("patch", height, self.patch, "the image's height"),
            ("patch", width, self.patch, "the image's width"),
        ):
            if isinstance(part, int) and total % part:
                raise SpecError(f"{what} is {part}; expected a divisor of {by}, {total}")
        if self.head_tokens > self.tokens:
            raise SpecError(f"head_tokens is {self.head_tokens}; expected at most {self.tokens}")
        if self.activation not in ACTIVATIONS:
            raise SpecError(
                f"activation is {self.activation!r}; expected one of {', '.join(ACTIVATIONS)}"
            )
        if not isinstance(self.epsilon, float) or not 0 < self.epsilon < 1:
            raise SpecError(f"epsilon is {self.epsilon!r}; expected a number between 0 and 1")

    @property
    def block_layers(self) -> tuple[int, ...]:
        """The number of layers of each block."""
        each = self.layers_per_block
        return each if isinstance(each, tuple) else (each,) * (self.layers // each)

    def build(self, axis_name: str | None = None) -> BlockNetwork:
        """A block for each of `block_layers`; nothing depends on the batch, nor on `axis_name`."""
        del axis_name
        dtype = self.compute_dtype
        depths = self.block_layers
        layer = LayerSizes(
            self.hidden, self.heads, self.mlp, self.epsilon, self.activation, self.qkv_bias
        )
        return BlockNetwork(
            input_shape=self.input_shape,
            embedder=PatchEmbedder(self.hidden, self.patch, self.tokens, dtype),
            blocks=tuple(
                ViTBlock(
                    layer,
                    depth,
                    head_tokens=self.head_tokens if i == len(depths) - 1 else 0,
                    final_norm=self.final_norm,
                    dtype=dtype,
                )
                for i, depth in enumerate(depths)
            ),
            head=LinearHead(self.classes, dtype),
        )


class LayerSizes(NamedTuple):
    """What every layer of a ViT has alike; see the fields of `ViTSpec`."""

    hidden: int
    heads: int
    mlp: int
    epsilon: float
    activation: str
    qkv_bias: bool


class PatchEmbedder(nn.Module):
    """Linear embedding of patches, learned tokens before them, learned position embeddings.

    `class_token` holds all learned tokens, the class token first.
    """

    hidden: int
    patch: int
    tokens: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, in] to [batch, tokens + patches, hidden]; patches row by row.

        A patch is flattened as (row, column, channel).
        """
        del train
        batch, height, width, channels = x.shape
        rows, columns = height // self.patch, width // self.patch
        x = x.reshape(batch, rows, self.patch, columns, self.patch, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, rows * columns, self.patch * self.patch * channels)
        x = Linear(self.hidden, dtype=self.dtype, name="patch")(x)
        token = self.param("class_token", TOKEN_INIT, (1, self.tokens, self.hidden), jnp.float32)
        token = jnp.broadcast_to(token.astype(self.dtype), (batch, self.tokens, self.hidden))
        x = jnp.concatenate([token, x], axis=1)
        positions = self.param("positions", TOKEN_INIT, (1, *x.shape[1:]), jnp.float32)
        return x + positions.astype(self.dtype)


class ViTBlock(nn.Module):
    """`depth` transformer layers; the last block goes on to normalise and take the head's tokens.

    Attributes:
      layer: of every layer.
      depth: layers.
      head_tokens: tokens that the head reads; 0 where this is not the last block.
      final_norm: whether these are normalised.
      dtype: type of the computation.
    """

    layer: LayerSizes
    depth: int
    head_tokens: int
    final_norm: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, tokens, hidden] to the same shape, or to the last block's features.

        These are [batch, hidden], or [batch, head_tokens, hidden] where the head reads several.
        """
        del train
        for i in range(self.depth):
            x = TransformerLayer(self.layer, self.dtype, name=f"layer{i}")(x)
        if self.head_tokens:
            # LayerNorm treats each token by itself, so the others need not be normalised.
            x = x[:, 0] if self.head_tokens == 1 else x[:, : self.head_tokens]
            if self.final_norm:
                x = layer_norm(self.layer.epsilon, self.dtype, "norm")(x)
        return x


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    sizes: LayerSizes
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [batch, tokens, hidden] to the same shape."""
        sizes = self.sizes
        y = layer_norm(sizes.epsilon, self.dtype, "attention_norm")(x)
        x = x + Attention(sizes.heads, sizes.qkv_bias, self.dtype, name="attention")(y)
        y = layer_norm(sizes.epsilon, self.dtype, "mlp_norm")(x)
        y = ACTIVATIONS[sizes.activation](dense(sizes.mlp, self.dtype, "mlp_in")(y))
        return x + dense(sizes.hidden, self.dtype, "mlp_out")(y)


class Attention(nn.Module):
    """Multi-head self-attention; head h reads channels h * hidden/heads and on."""

    heads: int
    qkv_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [batch, tokens, hidden] to the same shape. The softmax is taken in float32."""
        batch, tokens, hidden = x.shape
        size = hidden // self.heads
        query, key, value = (
            dense(hidden, self.dtype, name, bias=self.qkv_bias)(x)
            .reshape(batch, tokens, self.heads, size)
            .transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) * size**-0.5
        weights = nn.softmax(scores.astype(jnp.float32)).astype(self.dtype)
        x = (weights @ value).transpose(0, 2, 1, 3).reshape(batch, tokens, hidden)
        return dense(hidden, self.dtype, "output")(x)


class Linear(nn.Dense):
    """`nn.Dense` on rows: XLA on CPU then computes the kernel's gradient faster (BUILD_NOTES)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., in] to [..., features]."""
        rows = super().__call__(x.reshape(-1, x.shape[-1]))
        return rows.reshape(*x.shape[:-1], self.features)


def dense(width: int, dtype: jnp.dtype, name: str, bias: bool = True) -> Linear:
    """A linear layer, Xavier-initialised."""
    return Linear(width, use_bias=bias, dtype=dtype, kernel_init=DENSE_INIT, name=name)


def layer_norm(epsilon: float, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """LayerNorm over channels, its variance computed about the mean, in float32."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)
