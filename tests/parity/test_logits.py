"""Logits of every composition, against PyTorch on the same weights."""

import jax
import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from pwl_jax.models.registry import pair
from tests.parity import ours, theirs, torch_networks
from tests.parity.pairs import DEEPEST
from tests.parity.references import reference as reference_of
from tests.parity.settings import Setting, setting, setting_of, tree_of

BLOCKS = {"lenet5": 4, "vgg": 5, "resnet": 4, "vit_6_blocks": 6}


def check_every_composition(reference, given: Setting, count: int) -> None:
    found = ours.logits(given, count)
    for composition, expected in theirs.logits(reference, given, count).items():
        got = found[composition]
        # Issue 5 asks for this much; the two sides sum products in another order.
        assert np.abs(got - expected).max() <= min(2e-5, 1e-4 * np.abs(expected).max()), composition
        np.testing.assert_array_equal(got.argmax(-1), expected.argmax(-1), str(composition))
    # Not a vacuous bound: each composition computes something else.
    first = np.array([logits[0] for logits in found.values()])
    apart = np.abs(first[:, None] - first[None]).max(-1) + np.eye(len(first))
    assert apart.min() > 1e-3


@pytest.mark.parametrize("family", DEEPEST)
def test_every_composition(reference, family):
    given = setting(family)
    assert given.network.num_blocks == BLOCKS[family]
    check_every_composition(reference, given, 8)


@pytest.mark.slow
@pytest.mark.parametrize("family", DEEPEST)
def test_every_composition_without_converters(reference, family):
    given = setting(family, "equal")
    assert not given.variables["encoders"]["params"]
    check_every_composition(reference, given, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet5", "vgg", "vgg_half", "resnet", "resnet_quarter"])
def test_every_composition_at_full_size(reference, name):
    check_every_composition(reference, setting_of(pair(name, statistics="shared")), 2)


@pytest.mark.long
@pytest.mark.parametrize("name", ["vit", "vit_quarter"])
def test_every_composition_of_full_size_vits(reference, name):
    check_every_composition(reference, setting_of(pair(name, final_norm=False)), 1)


def test_names_of_transformers_4_give_the_same_variables():
    given = setting("vit")
    older = torch_networks.hybrid(given.pair, naming=4)
    renamed = dict(zip(older.state_dict(), given.state.values(), strict=True))
    assert len(set(renamed) ^ set(given.state)) == 2 * 6 * 2 * 9  # Names, leaves, both, layers.
    for a, b in zip(
        jax.tree.leaves(given.variables),
        jax.tree.leaves(tree_of(renamed, given.pair)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    older.load_state_dict(renamed)
    images = theirs.torch_batch(given, 0)[0]
    newer = theirs.module_of(reference_of("written_here"), given).eval()
    for sources in ([True, False, True], [False, True, False]):
        assert torch.equal(older.eval()(images, sources), newer(images, sources))
