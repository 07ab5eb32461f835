"""Object stores as sources: a local S3 server, asked for one object, for many, for what is not there and for what is not ours."""

import os
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import polars as pl
import pytest
from deltalake import write_deltalake

from mlwb.core.errors import InputError
from mlwb.core.states import state
from mlwb.core.workspace import Project, publish
from mlwb.data.objects import fetch, object_state, objects
from mlwb.data.sources import open_source

TABLE = b"day,n\n1,10\n2,20\n"


@pytest.fixture
def put(s3):
    """`put("2024/01.csv")`: write an object into the bucket."""
    return lambda key, body=TABLE: s3.put_object(Bucket="shop", Key=key, Body=body)


def now(url): return object_state(None, url)


@pytest.fixture
def web():
    """An HTTP server: `.files` path → content; `.stamp` whether it sends ETags; `.asked` what it was asked with."""
    site = SimpleNamespace(files={}, stamp=True, asked=[], cut=0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self, body=True):
            data = site.files.get(self.path)
            site.asked.append(self.headers.get("Authorization", ""))
            self.send_response(200 if data is not None else 403 if "private" in self.path else 404)
            self.send_header("Content-Length", str(len(data or b"")))
            if data is not None and site.stamp: self.send_header("ETag", f'"{hash(data)}"')
            self.end_headers()
            if body and data is not None: self.wfile.write(data[:len(data) - site.cut])

        def do_HEAD(self): self.do_GET(body=False)
        def log_message(self, *args): pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site.at = f"127.0.0.1:{server.server_port}"
    yield site
    server.shutdown()
    server.server_close()


# --- S3 ----------------------------------------------------------------------------------------------------------------

def test_one_object(put, tmp_path):
    put("2024/매출 01.csv")
    steps = []
    files = fetch("s3://shop/2024/매출 01.csv", tmp_path, progress=lambda *a: steps.append(a))
    assert [(f.name, f.read_bytes()) for f in files] == [("매출 01.csv", TABLE)] and steps[-1] == (len(TABLE), len(TABLE))


def test_pattern_and_folder(put, tmp_path):
    for key in ("2024/02.csv", "2024/01.csv", "2024/a/01.parquet", "2024/readme.md", "2024/_tmp/x.csv", "2024/.x.csv", "2023/12.csv", "2024/"):
        put(key, TABLE + key.encode())
    said = []
    names = lambda url: [f.relative_to(tmp_path).as_posix() for f in fetch(url, tmp_path, said)]
    assert names("s3://shop/2024/0*.csv") == ["000000/01.csv", "000001/02.csv"]
    assert not said and names("s3://shop/2024/") == ["000000/01.csv", "000001/02.csv", "000002/a/01.parquet"]
    assert "readme.md" in str(said[0]) and (tmp_path / "000002/a/01.parquet").read_bytes().endswith(b"2024/a/01.parquet")
    assert list(objects("s3://shop/20*/0?.csv")) == ["shop/2024/01.csv", "shop/2024/02.csv"]


@pytest.mark.parametrize("key", ["a b%20c#d.csv", "what?.csv", "a[1].csv", "../up.csv", "back\\slash.csv", "한" * 100 + ".csv", "x" * 250 + ".csv",
                                 "a//b.csv", "q=1&r=2.csv", "-x.csv"])
def test_hostile_names(put, tmp_path, key):
    put(key)
    file, = fetch(f"s3://shop/{key}", tmp_path / "scratch")
    assert file.read_bytes() == TABLE and file.suffix == ".csv" and file.resolve().is_relative_to(tmp_path / "scratch")
    assert now(f"s3://shop/{key}")


def test_large_objects_are_streamed(put, tmp_path):
    data = os.urandom(1 << 20) * 40
    put("large.csv", data)
    code = ("import resource, sys\nfrom mlwb.data.objects import fetch, object_state\nsteps = []\nobject_state(None, sys.argv[1])\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nfetch(sys.argv[1], sys.argv[2], progress=lambda *a: steps.append(a))\n"
            "assert len(steps) > 2 and steps[-1] == (40 << 20, 40 << 20), steps\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)")
    done = subprocess.run([sys.executable, "-c", code, "s3://shop/large.csv", tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) < 100 << 10 and (tmp_path / "000000" / "large.csv").read_bytes() == data
    assert "Unclosed" not in done.stderr


def test_an_overwritten_object_of_the_same_size_is_noticed(put, tmp_path):
    for key in ("a/1.csv", "a/2.csv"): put(key)
    urls = ("s3://shop/a/1.csv", "s3://shop/a/*.csv", "s3://shop/a/")
    before = [now(u) for u in urls]
    put("a/1.csv")  # the same bytes again
    assert [now(u) for u in urls] == before
    put("a/1.csv", TABLE.replace(b"10", b"11"))
    after = [now(u) for u in urls]
    assert not set(before) & set(after)
    put("a/3.csv")
    assert [now(u) == a for u, a in zip(urls, after)] == [True, False, False]


def test_a_delta_table_is_its_newest_version(put, tmp_path):
    lake, said = tmp_path / "lake", []
    def sent(df, mode):
        write_deltalake(lake, df, mode=mode)
        for p in lake.rglob("*.*"): put(f"lake/{p.relative_to(lake).as_posix()}", p.read_bytes())
        return now("s3://shop/lake/"), open_source("s3://shop/lake/", said=said).collect()
    first, second = pl.DataFrame({"도시": ["서울", None], "n": [1, 2]}), pl.DataFrame({"도시": ["부산"], "n": [3]})
    states, tables = zip(sent(first, "error"), sent(second, "overwrite"), sent(first, "append"))
    assert len({*states}) == 3 and now("s3://shop/lake/") == states[-1]
    assert tables[0].equals(first) and tables[1].equals(second) and tables[2].sort("n").equals(pl.concat([first, second]))


def test_a_project_s_source(put, s3, tmp_path):
    put("a.csv")
    publish(tmp_path / "settings.ini", "[workbench]\nname = shop\ntarget = n\nsource = s3://shop/a.csv\n")
    before = state(Project(tmp_path), "source")
    assert state(Project(tmp_path), "source") == before
    put("a.csv", TABLE[::-1])
    assert state(Project(tmp_path), "source") != before
    s3.delete_object(Bucket="shop", Key="a.csv")
    with pytest.raises(InputError, match="no such object"): state(Project(tmp_path), "source")


@pytest.mark.parametrize("url, words", [
    ("s3://shop/sales.cvs", "no such object.*Did you mean 'sales.csv'"), ("s3://nobody/sales.csv", "no such object or bucket"),
    ("s3://nobody/*.csv", "matches no object"),
    ("s3://shop/*.parquet", "matches no object"), ("s3://shop/none/", "no table is in it"), ("s3://shop/a", "Write s3://shop/a/"), ("s3://shop", "Write s3://shop/"),
    ("s3://shop/lake/", "Delta table"), ("s3://ada:{plain}@shop/a.csv", "plain text"),
])
def test_what_is_not_there(put, tmp_path, url, words):
    for key in ("sales.csv", "a/b.csv", "lake/part-0.parquet", "lake/_delta_log/00000000000000000000.json"): put(key)
    url = url.format(plain="hunter22")
    for call in (lambda: fetch(url, tmp_path), lambda: now(url)):
        with pytest.raises(InputError, match=words) as e: call()
        assert "\n" not in str(e.value) and "hunter22" not in str(e.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_denied(put, tmp_path, _s3_server, monkeypatch):
    put("a.csv")
    text = {"Content-Type": "text/plain"}
    switch = lambda n: urllib.request.urlopen(urllib.request.Request(f"{_s3_server}/moto-api/reset-auth", n, text)).close()  # requests until it checks
    switch(b"0")
    try:
        for url in ("s3://shop/a.csv", "s3://shop/*.csv", "s3://shop/"):
            with pytest.raises(InputError, match="access is denied.*AWS_PROFILE"): fetch(url, tmp_path)
    finally: switch(b"inf")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"): monkeypatch.delenv(name)
    with pytest.raises(InputError, match="access is denied.*FSSPEC_S3_ANON"): fetch("s3://shop/a.csv", tmp_path)


def test_a_store_that_does_not_answer(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(InputError, match="can't be read: .*127.0.0.1:1"): fetch("s3://shop/a.csv", tmp_path)


# --- packages, the web -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("url, lacking, words", [("s3://b/a.csv", "s3fs", '"mlwb[s3]"'), ("gs://b/a.csv", "gcsfs", "gcsfs"), ("az://b/a.csv", "adlfs", "adlfs"),
                                                 ("s3://b/a.csv", "fsspec", '"mlwb[s3]"'), ("https://h/a.csv", "aiohttp", '"fsspec[https]"')])
def test_a_missing_package_is_named(url, lacking, words, tmp_path):
    code = (f"import sys\nsys.modules[{lacking!r}] = None\nfrom mlwb.data.objects import fetch\n"
            f"try: fetch({url!r}, '.')\nexcept Exception as e: print(type(e).__name__, e)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("MissingExtra ") and f"pip install {words}" in done.stdout, done.stdout + done.stderr


def test_the_web(web, tmp_path):
    web.files["/a/data.csv?x=*"] = TABLE
    url = f"http://{web.at}/a/data.csv?x=*"
    file, = fetch(url, tmp_path)
    assert (file.name, file.read_bytes()) == ("data.csv", TABLE)
    for web.stamp in (True, False):  # where the server stamps nothing, the content itself is hashed
        web.files["/a/data.csv?x=*"] = TABLE
        before = now(url)
        assert now(url) == before
        web.files["/a/data.csv?x=*"] = TABLE.replace(b"10", b"11")
        assert now(url) != before
    with pytest.raises(InputError, match="no such object"): fetch(f"http://{web.at}/b.csv", tmp_path)
    with pytest.raises(InputError, match="access is denied"): fetch(f"http://{web.at}/private.csv", tmp_path)


def test_a_download_that_breaks_off_is_no_file(web, tmp_path):
    web.files["/a.csv"], web.cut = TABLE * 1000, 7
    with pytest.raises(InputError, match="can't be read"): fetch(f"http://{web.at}/a.csv", tmp_path)
    assert not list(tmp_path.rglob("*.csv"))


def test_a_password_in_an_address_is_a_reference(web, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_WEB_PASSWORD", "hunter22/ß@#")
    web.files["/a.csv"] = TABLE
    url = f"http://ada:env:TEST_WEB_PASSWORD@{web.at}/"
    assert fetch(url + "a.csv", tmp_path)[0].read_bytes() == TABLE and web.asked[-1].startswith("Basic ")
    for name in ("b.csv", "private.csv"):
        with pytest.raises(InputError) as e: fetch(url + name, tmp_path)
        assert "hunter22" not in str(e.value) and e.value.__suppress_context__
    assert "hunter22" not in now(url + "a.csv")
