"""Names on the Hugging Face hub, with a hub that is made up, and none that can be reached."""

import sys
from types import SimpleNamespace

import pytest

from pwl_jax.errors import UserError
from pwl_jax.interop.hub import checkpoint_path
from pwl_jax.interop.imported_teacher import TeacherRequest
from pwl_jax.interop.teachers import read_teacher
from tests.interop.foreign_checkpoints import write


@pytest.fixture
def hub(monkeypatch):
    """Calls of `snapshot_download`, which gives what `hub.answer` is or raises it."""
    state = SimpleNamespace(answer=None, calls=[])

    def snapshot_download(name, revision, allow_patterns):
        state.calls.append((name, revision, allow_patterns))
        if isinstance(state.answer, Exception):
            raise state.answer
        return str(state.answer)

    module = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return state


@pytest.mark.parametrize(
    ("name", "repository", "revision"),
    [("owner/model", "owner/model", None), ("resnet-50@v1.0", "resnet-50", "v1.0")],
)
def test_a_name_is_fetched_without_pickles(name, repository, revision, hub, tmp_path):
    write(tmp_path, "hf:vit")
    hub.answer = tmp_path
    found = read_teacher(f"hf:{name}", TeacherRequest(blocks=2))
    assert found.spec.layers == 5
    assert hub.calls == [(repository, revision, ["*.json", "*.safetensors"])]


def test_what_lies_here_is_not_asked_for(hub, tmp_path):
    assert checkpoint_path(str(tmp_path)) == tmp_path
    assert not hub.calls


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("Cannot reach the hub\nDetails: ..."), "Cannot reach the hub"),
        (KeyError(), "KeyError"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_one_line(error, reason, hub):
    hub.answer = error
    with pytest.raises(UserError) as raised:
        checkpoint_path("owner/model")
    assert str(raised.value) == (
        "'owner/model' is no file or folder here, and could not be fetched from the hub: " + reason
    )


@pytest.mark.parametrize(
    "name", ["./model", "../model", "/no/such/folder", "a/b/c", "x.safetensors", "gs://a/b", "a b"]
)
def test_paths_are_not_taken_for_names(name, hub):
    with pytest.raises(UserError, match="is no file or folder here, and no name on the hub"):
        checkpoint_path(name)
    assert not hub.calls


def test_the_hub_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"from the hub, install pwl_jax\[hub\]"):
        checkpoint_path("owner/model")


def test_the_real_client_without_a_network(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="could not be fetched from the hub: ") as raised:
        checkpoint_path("owner/model")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("source", ["owner/model", "tf:owner/model", "hf:", ":x", "timm"])
def test_a_source_names_its_kind(source):
    with pytest.raises(UserError, match=f"source is '{source}'; expected hf:NAME or timm:NAME"):
        read_teacher(source, TeacherRequest(blocks=2))
