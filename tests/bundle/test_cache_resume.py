"""Downloads that are cut, killed, shared and poisoned: a real server, real processes."""

import http.server
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pwl_jax.bundle import (
    BundleError,
    CachedStore,
    FolderStore,
    HttpStore,
    cached_store,
    verified_file,
)
from pwl_jax.bundle.file_lock import try_lock
from pwl_jax.bundle.integrity import sha256_of

ROOT = Path(__file__).parents[2]
DATA = np.random.default_rng(1).bytes(6 << 20)
SHA256 = sha256_of(DATA)
NAME = f"shards/{SHA256}.p2u"
FETCH = """
import sys
from pwl_jax.bundle import CachedStore, HttpStore
store = CachedStore(HttpStore(sys.argv[1]), sys.argv[2])
with store.open(sys.argv[3], int(sys.argv[4]), sys.argv[5]) as file:
    assert file.size == int(sys.argv[4]) and file.read(0, 1)
print("fetched")
"""


class Slow(http.server.BaseHTTPRequestHandler):
    """Answers ranges; sends in pieces, and waits before each while `server.pause` says so."""

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked[6:-1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        step = 1 << 18
        try:
            for at in range(start, len(DATA), step):
                self.wfile.write(DATA[at : at + step])
                self.server.sent += step
                time.sleep(self.server.pause)
        except OSError:
            self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as served:
        served.daemon_threads = True
        served.ranges, served.sent, served.pause = [], 0, 0.0
        served.url = f"http://127.0.0.1:{served.server_port}"
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def fetching(server, cache):
    command = [sys.executable, "-c", FETCH, server.url, str(cache), NAME, str(len(DATA)), SHA256]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited for 30 s"
        time.sleep(0.01)


def test_a_killed_download_is_taken_up_by_the_next_process(server, tmp_path):
    server.pause = 0.05
    first = fetching(server, tmp_path)
    part = tmp_path / f"{SHA256}.part"
    wait_for(lambda: part.exists() and part.stat().st_size > 1 << 20)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    first.stdout.close()
    begun = part.stat().st_size
    assert 1 << 20 < begun < len(DATA)
    server.pause = 0.0
    second = fetching(server, tmp_path)
    assert second.communicate(timeout=60)[0] == "fetched\n"
    assert server.ranges == [None, f"bytes={begun}-"]
    assert [path.name for path in tmp_path.iterdir()] == [SHA256]
    assert (tmp_path / SHA256).read_bytes() == DATA


def test_two_processes_fetch_a_file_once(server, tmp_path):
    server.pause = 0.02
    both = [fetching(server, tmp_path) for _ in range(2)]
    assert [each.communicate(timeout=60)[0] for each in both] == ["fetched\n"] * 2
    assert server.ranges == [None]
    assert [path.name for path in tmp_path.iterdir()] == [SHA256]


def test_a_download_that_stands_still_is_not_waited_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cached_store, "_PATIENCE", 0.2)
    part = tmp_path / f"{SHA256}.part"
    part.write_bytes(DATA[:1000])
    with part.open("r+b") as held:
        assert try_lock(held)
        with CachedStore(HttpStore(server.url), tmp_path).open(NAME, len(DATA), SHA256) as file:
            assert file.read(0, len(DATA)) == DATA
    # The part is its owner's.
    assert part.read_bytes() == DATA[:1000]
    with CachedStore(HttpStore(server.url), tmp_path).open(NAME, len(DATA), SHA256) as file:
        assert file.read(5, 5) == DATA[5:10]
    assert server.ranges == [None, "bytes=1000-"]


@pytest.mark.parametrize(
    ("left", "ranges"),
    [
        (b"!" * 1000, ["bytes=1000-", None]),
        (b"!" * len(DATA), [None]),
        (DATA + b"!", [None]),
        (DATA, []),
        (b"", [None]),
    ],
    ids=["wrong beginning", "wrong whole", "longer", "whole", "empty"],
)
def test_what_an_earlier_process_left_is_never_trusted(server, tmp_path, left, ranges):
    (tmp_path / f"{SHA256}.part").write_bytes(left)
    with CachedStore(HttpStore(server.url), tmp_path).open(NAME, len(DATA), SHA256) as file:
        assert file.read(0, len(DATA)) == DATA
    assert server.ranges == ranges
    assert [path.name for path in tmp_path.iterdir()] == [SHA256]


def test_a_server_of_other_bytes_leaves_nothing(server, tmp_path):
    sha256 = "0" * 64
    store = CachedStore(HttpStore(server.url), tmp_path)
    with pytest.raises(BundleError, match="damaged"):
        store.open(f"shards/{sha256}.p2u", len(DATA), sha256)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_a_part_costs_only_the_cache(server, tmp_path):
    (tmp_path / f"{SHA256}.part").mkdir()
    with CachedStore(HttpStore(server.url), tmp_path).open(NAME, len(DATA), SHA256) as file:
        assert file.read(0, len(DATA)) == DATA


def test_a_full_disk_costs_only_the_cache(tmp_path, monkeypatch):
    (tmp_path / "source" / "shards").mkdir(parents=True)
    (tmp_path / "source" / NAME).write_bytes(DATA)
    source = FolderStore(tmp_path / "source")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(source, "receive", full)
    with CachedStore(source, tmp_path / "cache").open(NAME, len(DATA), SHA256) as file:
        assert file.read(0, len(DATA)) == DATA
    assert not list((tmp_path / "cache").iterdir())


def test_a_download_is_never_whole_in_memory(server, tmp_path, monkeypatch):
    import tracemalloc

    # A file as small as this one would be kept once it is verified.
    monkeypatch.setattr(verified_file, "_HELD", 0)
    tracemalloc.start()
    try:
        with CachedStore(HttpStore(server.url), tmp_path).open(NAME, len(DATA), SHA256) as file:
            assert file.read(0, 1) == DATA[:1]
        # Chunks of 1 MiB; the file has 6.
        assert tracemalloc.get_traced_memory()[1] < len(DATA) * 0.8
    finally:
        tracemalloc.stop()


def test_without_locks_each_fetches_for_itself(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cached_store, "try_lock", lambda file: None)
    (tmp_path / f"{SHA256}.part").write_bytes(b"another's")
    store = CachedStore(HttpStore(server.url), tmp_path)
    for _ in range(2):
        with store.open(NAME, len(DATA), SHA256) as file:
            assert file.read(0, 9) == DATA[:9]
    assert server.ranges == [None]
    assert sorted(path.name for path in tmp_path.iterdir()) == [SHA256, f"{SHA256}.part"]
    with pytest.raises(BundleError, match="damaged"):
        store.open(f"shards/{'0' * 64}.p2u", len(DATA), "0" * 64)
    assert len(list(tmp_path.iterdir())) == 2


def test_threads_of_one_process_share_a_download(server, tmp_path):
    server.pause = 0.01
    stores = [CachedStore(HttpStore(server.url), tmp_path) for _ in range(3)]
    found = []

    def fetch(store):
        with store.open(NAME, len(DATA), SHA256) as file:
            found.append(bytes(file.read(0, 9)))

    threads = [threading.Thread(target=fetch, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [DATA[:9]] * 3 and server.ranges == [None]
    assert [path.name for path in tmp_path.iterdir()] == [SHA256]
