"""Networks cut into blocks, their specs, and the registry of teacher/student pairs.

What is imported here is what a network of one's own is made of (docs/bring_your_own_network.md).
"""

from pwl_jax.models.block_network import BlockNetwork
from pwl_jax.models.convolution import Convolution
from pwl_jax.models.heads import LinearHead, PooledHead
from pwl_jax.models.network_check import NetworkError, check_network
from pwl_jax.models.normalization import BatchNorm
from pwl_jax.models.registry import PairError, PairSpec, pair
from pwl_jax.models.sizes import check_positive, check_same_length
from pwl_jax.models.spec import NetworkSpec, SpecError

__all__ = [
    "BatchNorm",
    "BlockNetwork",
    "Convolution",
    "LinearHead",
    "NetworkError",
    "NetworkSpec",
    "PairError",
    "PairSpec",
    "PooledHead",
    "SpecError",
    "check_network",
    "check_positive",
    "check_same_length",
    "pair",
]
