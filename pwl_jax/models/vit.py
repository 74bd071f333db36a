"""Vision Transformer (Dosovitskiy et al., arXiv 2010.11929); a block is a run of its layers."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from pwl_jax.models.block_network import BlockNetwork
from pwl_jax.models.heads import LinearHead
from pwl_jax.models.sizes import check_positive
from pwl_jax.models.spec import NetworkSpec, SpecError

EPSILON = 1e-12
"""Added to LayerNorm's variance, as in the configuration of Hugging Face's ViT."""

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
      layers_per_block: layers in a block; divides `layers`.
      patch: height and width of a patch; divides the image's.
      final_norm: whether the last block ends in a LayerNorm, as ViT defines it. Without it there
        is no such parameter; the PyTorch baseline holds one and never applies it.
    """

    hidden: int = 192
    heads: int = 3
    mlp: int = 768
    layers: int = 12
    layers_per_block: int = 2
    patch: int = 16
    final_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "hidden", "heads", "mlp", "layers", "layers_per_block", "patch")
        height, width, _ = self.input_shape
        for what, total, part, by in (
            ("heads", self.hidden, self.heads, "hidden"),
            ("layers_per_block", self.layers, self.layers_per_block, "layers"),
            ("patch", height, self.patch, "the image's height"),
            ("patch", width, self.patch, "the image's width"),
        ):
            if total % part:
                raise SpecError(f"{what} is {part}; expected a divisor of {by}, {total}")

    def build(self, axis_name: str | None = None) -> BlockNetwork:
        """`layers / layers_per_block` blocks; nothing depends on the batch, nor on `axis_name`."""
        del axis_name
        dtype = self.compute_dtype
        num_blocks = self.layers // self.layers_per_block
        return BlockNetwork(
            input_shape=self.input_shape,
            embedder=PatchEmbedder(self.hidden, self.patch, dtype),
            blocks=tuple(
                ViTBlock(
                    self.hidden,
                    self.heads,
                    self.mlp,
                    self.layers_per_block,
                    last=i == num_blocks - 1,
                    final_norm=self.final_norm,
                    dtype=dtype,
                )
                for i in range(num_blocks)
            ),
            head=LinearHead(self.classes, dtype),
        )


class PatchEmbedder(nn.Module):
    """Linear embedding of patches, a class token before them, learned position embeddings."""

    hidden: int
    patch: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, in] to [batch, 1 + patches, hidden]; patches row by row.

        A patch is flattened as (row, column, channel).
        """
        del train
        batch, height, width, channels = x.shape
        rows, columns = height // self.patch, width // self.patch
        x = x.reshape(batch, rows, self.patch, columns, self.patch, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, rows * columns, self.patch * self.patch * channels)
        x = nn.Dense(self.hidden, dtype=self.dtype, name="patch")(x)
        token = self.param("class_token", TOKEN_INIT, (1, 1, self.hidden), jnp.float32)
        token = jnp.broadcast_to(token.astype(self.dtype), (batch, 1, self.hidden))
        x = jnp.concatenate([token, x], axis=1)
        positions = self.param("positions", TOKEN_INIT, (1, *x.shape[1:]), jnp.float32)
        return x + positions.astype(self.dtype)


class ViTBlock(nn.Module):
    """`depth` transformer layers; the last block goes on to normalise and take the class token."""

    hidden: int
    heads: int
    mlp: int
    depth: int
    last: bool
    final_norm: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, tokens, hidden] to the same shape, or to [batch, hidden] if `last`."""
        del train
        for i in range(self.depth):
            x = TransformerLayer(self.hidden, self.heads, self.mlp, self.dtype, name=f"layer{i}")(x)
        if self.last:
            # LayerNorm treats each token by itself, so the others need not be normalised.
            x = x[:, 0]
            if self.final_norm:
                x = layer_norm(self.dtype, "norm")(x)
        return x


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with the exact GELU."""

    hidden: int
    heads: int
    mlp: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [batch, tokens, hidden] to the same shape."""
        y = layer_norm(self.dtype, "attention_norm")(x)
        x = x + Attention(self.hidden, self.heads, self.dtype, name="attention")(y)
        y = layer_norm(self.dtype, "mlp_norm")(x)
        y = dense(self.mlp, self.dtype, "mlp_in")(y)
        y = nn.gelu(y, approximate=False)
        return x + dense(self.hidden, self.dtype, "mlp_out")(y)


class Attention(nn.Module):
    """Multi-head self-attention; head h reads channels h * hidden/heads and on."""

    hidden: int
    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [batch, tokens, hidden] to the same shape. The softmax is taken in float32."""
        batch, tokens, _ = x.shape
        size = self.hidden // self.heads
        query, key, value = (
            dense(self.hidden, self.dtype, name)(x)
            .reshape(batch, tokens, self.heads, size)
            .transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) * size**-0.5
        weights = nn.softmax(scores.astype(jnp.float32)).astype(self.dtype)
        x = (weights @ value).transpose(0, 2, 1, 3).reshape(batch, tokens, self.hidden)
        return dense(self.hidden, self.dtype, "output")(x)


def dense(width: int, dtype: jnp.dtype, name: str) -> nn.Dense:
    """A linear layer with bias, Xavier-initialised."""
    return nn.Dense(width, dtype=dtype, kernel_init=DENSE_INIT, name=name)


def layer_norm(dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """LayerNorm over channels, its variance computed about the mean, in float32."""
    return nn.LayerNorm(epsilon=EPSILON, dtype=dtype, use_fast_variance=False, name=name)
