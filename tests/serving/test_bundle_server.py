import http.client
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from pwl_jax.errors import UserError
from pwl_jax.serving import serve_folder

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "root"
    (root / "shards").mkdir(parents=True)
    (root / "shards" / "a.bin").write_bytes(CONTENT)
    (tmp_path / "secret").write_text("outside")
    return root


def get(url: str, **headers: str):
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.status, response.headers, response.read()


def refused(url: str, **headers: str) -> urllib.error.HTTPError:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(url, **headers)
    caught.value.close()
    return caught.value


def test_whole_file(folder):
    with serve_folder(folder) as url:
        status, headers, body = get(f"{url}/shards/a.bin")
    assert (status, body) == (200, CONTENT)
    assert headers["Content-Length"] == str(len(CONTENT))
    assert headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=100-199", 100, 200),
        ("bytes=10000-", 10000, len(CONTENT)),
        ("bytes=-7", len(CONTENT) - 7, len(CONTENT)),
        ("bytes=10000-99999999", 10000, len(CONTENT)),
    ],
)
def test_ranges(folder, header, start, stop):
    with serve_folder(folder) as url:
        status, headers, body = get(f"{url}/shards/a.bin", Range=header)
    assert (status, body) == (206, CONTENT[start:stop])
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"


def test_range_past_the_end_is_416(folder):
    with serve_folder(folder) as url:
        error = refused(f"{url}/shards/a.bin", Range=f"bytes={len(CONTENT)}-")
    assert error.code == 416
    assert error.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize(
    "path", ["/missing", "/", "/shards", "/../secret", "/%2e%2e/secret", "/shards/../../secret"]
)
def test_nothing_but_files_of_the_folder(folder, path):
    with serve_folder(folder) as url:
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=10)
        connection.putrequest("GET", path, skip_host=False)
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == 404
        assert b"outside" not in response.read()
        connection.close()


def test_link_out_of_the_folder_is_not_followed(folder):
    (folder / "link").symlink_to(folder.parent / "secret")
    with serve_folder(folder) as url:
        assert refused(f"{url}/link").code == 404


def test_speed_is_shared_by_all_connections(folder):
    rate = 2 * len(CONTENT) / 0.5
    with serve_folder(folder, bytes_per_second=rate) as url:
        began = time.monotonic()
        threads = [threading.Thread(target=get, args=(f"{url}/shards/a.bin",)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
    # The last slice is sent after its wait, so the flow can only be slower than the limit.
    assert 0.45 <= seconds < 3.0


def test_wrong_folder_or_speed(folder, tmp_path):
    with pytest.raises(UserError, match="is no folder to serve"), serve_folder(tmp_path / "no"):
        pass
    with pytest.raises(UserError, match="must be positive, not 0"), serve_folder(folder, 0):
        pass
