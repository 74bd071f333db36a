import contextlib
import http.server
import threading
import time

import pytest

from pwl_jax.bundle import BundleError, BundleReader, CachedStore, FolderStore, HttpStore
from pwl_jax.bundle.integrity import sha256_of
from pwl_jax.ladder import Unit

DATA = bytes(range(256)) * 40
SHA256 = sha256_of(DATA)
NAME = f"shards/{SHA256}.p2u"
BAD_NAMES = ["../secret", "/etc/passwd", "a/../../b", "a\\b", "c:d", "", ".", "a//b", "a\0b",
             "a?b", "a%2e"]  # fmt: skip


class Site:
    """A scripted web server: `steps` says, request by request, what goes wrong."""

    def __init__(self, files):
        self.files, self.steps, self.ranges, self.sent = files, [], [], 0


@pytest.fixture
def site():
    served = Site({f"/{NAME}": DATA, "/manifest.json": b"{}"})

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            step = served.steps.pop(0) if served.steps else ""
            asked = self.headers.get("Range")
            served.ranges.append(asked)
            data = served.files.get(self.path)
            if data is None or step == "404":
                self.send_error(404)
                return
            start = int(asked[6:-1]) if asked and step != "no ranges" else 0
            self.send_response(206 if asked and step != "no ranges" else 200)
            if asked and step != "no ranges":
                shown = start + (step == "other range")
                self.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
            if step == "changed":
                data = b"!" * len(data)
            body = data[start:]
            length = 1 << 50 if step == "huge" else len(body)
            if step == "endless":
                self.send_header("Connection", "close")
            else:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            with contextlib.suppress(OSError):
                if step == "break":
                    self.wfile.write(body[:1000])
                    self.close_connection = True
                elif step == "hang":
                    self.wfile.flush()
                    time.sleep(1)
                    self.close_connection = True
                elif step == "endless":
                    for _ in range(200):
                        self.wfile.write(body * 100)
                        served.sent += 100 * len(body)
                    self.close_connection = True
                elif step == "huge":
                    self.close_connection = True
                else:
                    self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "files" / "shards").mkdir(parents=True)
    (tmp_path / "files" / NAME).write_bytes(DATA)
    return tmp_path / "files"


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_out_are_refused(folder, site, name, tmp_path):
    (tmp_path / "secret").write_text("secret")
    inner = FolderStore(folder)
    for store in (inner, HttpStore(site.url), CachedStore(inner, tmp_path / "cache")):
        with pytest.raises(BundleError, match="no name of a file"):
            store.read(name)
    assert not site.ranges


def test_folder_checks_size_before_reading(folder):
    store = FolderStore(folder)
    assert store.read(NAME, len(DATA), SHA256) == DATA
    with pytest.raises(BundleError, match=f"{NAME} has 10240 bytes"):
        store.read(NAME, 1 << 60)
    with pytest.raises(BundleError, match=f"{NAME} is damaged"):
        store.read(NAME, len(DATA), "0" * 64)


def test_http_reads_and_names_what_is_missing(site):
    store = HttpStore(site.url)
    assert store.read(NAME, len(DATA), SHA256) == DATA
    with pytest.raises(BundleError, match=r"other\.p2u.*404"):
        store.read("other.p2u")
    with pytest.raises(BundleError, match="no http address"):
        HttpStore("ftp://host/bundle")
    with pytest.raises(BundleError, match="no connection"):
        HttpStore("http://127.0.0.1:9").read(NAME, 1)


def test_http_resumes_where_it_broke_off(site):
    store = HttpStore(site.url)
    site.steps = ["break", "break"]
    for _ in range(2):
        with pytest.raises(BundleError, match=NAME):
            store.read(NAME, len(DATA), SHA256)
    assert store.read(NAME, len(DATA), SHA256) == DATA
    assert site.ranges == [None, "bytes=1000-", "bytes=2000-"]


def test_http_takes_the_whole_file_from_a_server_without_ranges(site):
    store = HttpStore(site.url)
    site.steps = ["break", "no ranges"]
    with pytest.raises(BundleError, match=NAME):
        store.read(NAME, len(DATA), SHA256)
    assert store.read(NAME, len(DATA), SHA256) == DATA


def test_http_does_not_join_a_range_it_did_not_ask_for(site):
    store = HttpStore(site.url)
    site.steps = ["break", "other range"]
    for _ in range(2):
        with pytest.raises(BundleError, match=NAME):
            store.read(NAME, len(DATA), SHA256)
    assert store.read(NAME, len(DATA), SHA256) == DATA


def test_http_starts_afresh_after_a_wrong_hash(site):
    store = HttpStore(site.url)
    site.steps = ["break", "changed"]
    for message in (NAME, "damaged"):
        with pytest.raises(BundleError, match=message):
            store.read(NAME, len(DATA), SHA256)
    assert store.read(NAME, len(DATA), SHA256) == DATA
    assert site.ranges[-1] is None


def test_http_does_not_wait_for_ever(site):
    site.steps = ["hang"]
    with pytest.raises(BundleError, match="timed out"):
        HttpStore(site.url, timeout=0.1).read(NAME, len(DATA), SHA256)


@pytest.mark.parametrize("step", ["huge", "endless"])
def test_http_does_not_take_more_than_expected(site, step):
    site.steps = [step, step]
    store = HttpStore(site.url)
    with pytest.raises(BundleError, match="larger than 10240 bytes"):
        store.read(NAME, len(DATA), SHA256)
    # Of 200 MB on offer; what was sent beyond the limit lay in buffers.
    assert site.sent < 50e6


def test_cache_serves_without_the_source_and_mends_itself(folder, tmp_path):
    cache = tmp_path / "cache"
    assert CachedStore(FolderStore(folder), cache).read(NAME, len(DATA), SHA256) == DATA
    (folder / NAME).unlink()
    assert CachedStore(FolderStore(folder), cache).read(NAME, len(DATA), SHA256) == DATA
    assert [path.name for path in cache.iterdir()] == [SHA256]
    (cache / SHA256).write_bytes(DATA[:-1] + b"!")
    with pytest.raises(BundleError, match="missing"):
        CachedStore(FolderStore(folder), cache).read(NAME, len(DATA), SHA256)
    (folder / NAME).write_bytes(DATA)
    assert CachedStore(FolderStore(folder), cache).read(NAME, len(DATA), SHA256) == DATA
    assert (cache / SHA256).read_bytes() == DATA


def test_cache_never_keeps_a_damaged_file_or_the_manifest(folder, tmp_path):
    (folder / NAME).write_bytes(DATA[:-1] + b"!")
    (folder / "manifest.json").write_bytes(b"{}")
    store = CachedStore(FolderStore(folder), tmp_path / "cache")
    with pytest.raises(BundleError, match="damaged"):
        store.read(NAME, len(DATA), SHA256)
    store.read("manifest.json")
    assert not list((tmp_path / "cache").iterdir())


def test_a_reader_over_http_reads_each_file_from_the_network_once(bundle, site, tmp_path):
    site.files = {
        f"/{path.relative_to(bundle)}": path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file()
    }
    reader = BundleReader.open(site.url)
    reader.tensors(Unit("teacher", 0), 4)
    requests = len(site.ranges)
    exact = reader.tensors(Unit("teacher", 0), "exact")
    assert len(site.ranges) == requests + 1
    assert exact.keys() == BundleReader.open(bundle).tensors(Unit("teacher", 0), 4).keys()
    kept = BundleReader.open(site.url, cache_dir=tmp_path / "cache")
    assert kept.verify().ok
    requests = len(site.ranges)
    assert BundleReader.open(site.url, cache_dir=tmp_path / "cache").verify().ok
    assert len(site.ranges) == requests + 1
