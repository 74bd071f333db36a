"""Both references for every test that asks for one, and PyTorch kept to one thread."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small networks gain nothing from more, and other processes share the machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["written_here", "baseline"])
def reference(request):
    """The PyTorch side; skips where it is the clone and there is none."""
    from tests.parity import references

    return references.reference(request.param)
