"""The hostile tables, through everything that a user may do with a table first: profile, document, JSON, Korean, the command line."""

import json
import subprocess
import sys
import warnings
from html.parser import HTMLParser

import hostile
import pytest

from mlwb.core.errors import InputError
from mlwb.core.messages import use_language
from mlwb.core.results import dumps, loads
from mlwb.data.profile import document, profile
from mlwb.show.explore import explore

pytestmark = pytest.mark.filterwarnings("ignore::mlwb.data.frames.DataWarning")
MLWB = [sys.executable, "-c", "from mlwb.cli import main; main()"]
SLOW = {"five_thousand_columns", "million_distinct_texts"}


class Parser(HTMLParser):
    """Notes what a browser would execute."""
    def __init__(self):
        super().__init__()
        self.inside, self.executed = "", []

    def handle_starttag(self, tag, attributes):
        self.inside = tag
        self.executed += [f"{tag} {k}" for k, v in attributes if k.startswith("on") or "javascript:" in (v or "").lower()]

    def handle_endtag(self, tag): self.inside = ""
    def handle_data(self, data):
        if self.inside in ("script", "style") and hostile.MARK in data: self.executed.append(f"{self.inside}: {data[:80]}")


def looks_whole(html: str):
    """A view is there, and nothing that comes from the data is markup."""
    parser = Parser()
    parser.feed(html)
    assert "<mlwb-view" in html and not parser.executed, parser.executed
    for text in (hostile.SCRIPT, hostile.IMAGE, hostile.CLOSING): assert text not in html


@pytest.mark.parametrize("name", hostile.TABLES)
def test_a_table_is_described(name):
    df = hostile.TABLES[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = profile(df)
    assert len(p.columns) == df.shape[1] and p.rows == df.shape[0] and len({c.name for c in p.columns}) == len(p.columns)
    assert not [c.name for c in p.columns if c.error], [c.error for c in p.columns if c.error]
    assert hostile.plain(document(p)) and dumps(loads(dumps(p))) == dumps(p)
    for c in p.columns:
        assert 0 <= c.missing <= c.rows and c.distinct <= max(1, c.rows) and sum(n for _, n in c.top) <= c.rows


@pytest.mark.parametrize("name", sorted(set(hostile.TABLES) - SLOW))
@pytest.mark.parametrize("language", ["en", "ko"])
def test_a_table_is_shown(name, language):
    df = hostile.TABLES[name]()
    with use_language(language), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        looks_whole(explore(df).document())


@pytest.mark.parametrize("name", sorted(set(hostile.TABLES) - SLOW))
def test_with_each_column_as_the_target(name):
    """Whatever column is named as the target: a profile, or a sentence that says why not."""
    df = hostile.TABLES[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for c in [c.name for c in profile(df).columns][:6]:
            try: assert hostile.plain(document(profile(df, target=c)))
            except InputError as e: assert len(str(e)) > 20
            else: looks_whole(explore(df, target=c).document())


@pytest.mark.parametrize("name", hostile.FILES)
def test_a_file_is_described(name, tmp_path):
    path = hostile.FILES[name](tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = profile(path)
    assert p.columns and not [c.error for c in p.columns if c.error] and hostile.plain(document(p))


@pytest.mark.parametrize("name", hostile.REFUSED)
def test_a_file_is_refused_in_words(name, tmp_path):
    make, words = hostile.REFUSED[name]
    with pytest.raises(InputError) as e: profile(make(tmp_path))
    assert words in str(e.value) and len(str(e.value)) > 20 and "Traceback" not in str(e.value)


def test_the_command_line(tmp_path):
    for name in ("cp949_csv", "markup_csv", "name_with_blanks_csv"):
        path = hostile.FILES[name](tmp_path)
        done = subprocess.run([*MLWB, "profile", str(path), "-o", str(tmp_path / "out.html"), "--json"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
        looks_whole((tmp_path / "out.html").read_text(encoding="utf-8"))
    for name, (make, _) in hostile.REFUSED.items():
        (folder := tmp_path / name).mkdir()
        done = subprocess.run([*MLWB, "profile", str(make(folder)), "-o", str(tmp_path / "no.html")], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith("Error: ") and "Traceback" not in done.stderr, (name, done.stderr)
