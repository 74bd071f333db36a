import http.server
import threading
from pathlib import Path

import pytest

from pwl_jax.bundle import (
    BundleError,
    CachedStore,
    FolderStore,
    HttpStore,
    default_cache_dir,
    open_store,
)
from pwl_jax.bundle.integrity import sha256_of

DATA = bytes(range(256)) * 8
NAME = f"shards/{sha256_of(DATA)}.p2u"


def test_a_path_or_address_finds_its_store(tmp_path):
    assert isinstance(open_store(tmp_path), FolderStore)
    assert isinstance(open_store(str(tmp_path)), FolderStore)
    assert isinstance(open_store("https://host/bundle"), HttpStore)
    for wrong, message in ((tmp_path / "no", "no folder"), ("http://", "no http address")):
        with pytest.raises(BundleError, match=message):
            open_store(wrong)


def test_default_cache_dir_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "pwl_jax" / "bundles"
    # The XDG specification has relative paths ignored.
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache_dir() == Path.home() / ".cache" / "pwl_jax" / "bundles"


def test_a_cache_without_a_name_lies_there(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "shards").mkdir()
    (tmp_path / NAME).write_bytes(DATA)
    store = CachedStore(FolderStore(tmp_path))
    assert store.read(NAME, len(DATA), sha256_of(DATA)) == DATA
    (tmp_path / NAME).unlink()
    assert store.read(NAME, len(DATA), sha256_of(DATA)) == DATA
    assert [path.name for path in default_cache_dir().iterdir()] == [sha256_of(DATA)]


class Shrunk(http.server.BaseHTTPRequestHandler):
    """Breaks off, then refuses every range, as a server does whose file became shorter."""

    broken = False

    def do_GET(self):
        if "Range" in self.headers:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(DATA if type(self).broken else DATA[:1000])
        type(self).broken = True

    def log_message(self, *arguments):
        pass


def test_a_range_that_the_server_refuses_is_not_asked_for_ever():
    with http.server.HTTPServer(("127.0.0.1", 0), Shrunk) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            store = HttpStore(f"http://127.0.0.1:{server.server_port}", timeout=5)
            for reason in (NAME, "416"):
                with pytest.raises(BundleError, match=reason):
                    store.read(NAME, len(DATA), sha256_of(DATA))
            assert store.read(NAME, len(DATA), sha256_of(DATA)) == DATA
        finally:
            server.shutdown()
            thread.join()
