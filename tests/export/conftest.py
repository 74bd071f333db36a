import collections
import dataclasses

import pytest

from pwl_jax.data import sources
from pwl_jax.export import export_bundle, exporter
from pwl_jax.ladder import EXACT
from tests.tiny_models import few, tiny_model

BITS = (4, EXACT)
Export = collections.namedtuple("Export", "model path manifest validation test")


class Guarded:
    """Records that may not be read before `open` is set."""

    def __init__(self, records):
        self.records, self.open = records, False

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        assert self.open, "the test split was read before every choice was made"
        return self.records[index]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A bundle of the small VGG pair, measured on digits. Do not change it: copy it."""
    model = tiny_model("vgg")
    path = tmp_path_factory.mktemp("exported") / "bundle"
    validation = few(sources.load("digits", "validation"), 48)
    test = few(sources.load("digits", "test"), 40)
    records = Guarded(test.records)
    guarded = dataclasses.replace(test, records=records)

    def last_choice(*arguments):
        records.open = True
        return chosen(*arguments)

    chosen = exporter.paying_rungs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "paying_rungs", last_choice)
        manifest = export_bundle(model, path, BITS, validation, guarded)
    return Export(model, path, manifest, validation, test)
