"""The report of a real run in a real browser: offline, readable with scripts off, drawn with scripts on."""

import re

import pytest


@pytest.fixture(scope="module")
def run(cli, make_project):
    """A small run whose explore stage also shows a plotly figure of the user's own."""
    import nbformat
    import numpy as np
    import pandas as pd
    rng = np.random.default_rng(1)
    df = pd.DataFrame({"<b>크기</b>": rng.normal(size=900).round(3), "region": rng.choice(["north", "<script>alert(1)</script>", "서울"], 900)})
    df["bought"] = np.where(rng.random(900) < 1 / (1 + np.exp(-2 * df.iloc[:, 0])), "yes", "no")
    root = make_project(df, "bought", name="report")
    path = root / "notebooks" / "stages" / "30_explore.ipynb"
    nb = nbformat.read(path, 4)
    nb.cells.insert(-1, nbformat.v4.new_code_cell("import plotly.express as px\npx.line(x=[1, 2, 3], y=[2, 1, 3], title='A figure of my own')"))
    nbformat.write(nb, path)
    done = cli("run", "--json", "--env", "quick", cwd=root)
    assert done.returncode == 0, done.stderr
    return root, done.json


def test_no_request_no_error_and_every_chart(open_page, run):
    page = open_page(run[1]["report"], width=1280)
    height = page.evaluate("document.documentElement.scrollHeight")
    for y in range(0, height, 700):
        page.evaluate(f"window.scrollTo(0, {y})")
        page.wait_for_timeout(60)
    page.wait_for_selector(".plotly-place[data-drawn] .main-svg", timeout=15_000)
    away = [r for r in page.requests if not r.startswith(("file:", "data:", "blob:"))]
    assert not away and not page.errors and not page.dialogs
    charts = page.evaluate("""() => [...document.querySelectorAll('mlwb-view')].flatMap(v => [...(v.shadowRoot?.querySelectorAll('svg') ?? [])])
        .filter(s => s.checkVisibility()).map(s => [s.getBoundingClientRect().width, s.childElementCount])""")
    assert len(charts) >= 8 and all(w > 0 and n > 0 for w, n in charts)
    assert page.evaluate("[...document.querySelectorAll('mlwb-view')].every(v => v.shadowRoot)")


def test_readable_with_scripts_off(open_page, run):
    page = open_page(run[1]["report"], scripts=False)
    assert page.locator(".verdict .word").inner_text().strip().lower() == "approved"
    assert page.locator(".strip li").count() == 11
    assert page.locator("mlwb-view table").count() >= 8, "tables stand in the shadow DOM that the parser made"
    assert page.locator(".plotly-place table").count() == 1, "a table stands where the figure would be"
    assert page.locator("mlwb-view svg").count() > 10


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_phone_and_desk_in_light_and_dark(open_page, run, width, scheme):
    page = open_page(run[1]["report"], width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    back = [int(x) for x in re.findall(r"\d+", page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))[:3]]
    assert (sum(back) < 150) == (scheme == "dark")


def test_korean(open_page, cli, run):
    root, document = run
    done = cli("report", document["run"], "--language", "ko", cwd=root)
    assert done.returncode == 0, done.stderr
    page = open_page(done.stdout.strip())
    assert page.evaluate("document.documentElement.lang") == "ko"
    words = page.locator("main").inner_text()
    assert "승인" in page.locator(".verdict").inner_text() and len(re.findall("[가-힣]", words)) > 300
    assert cli("report", document["run"], cwd=root).returncode == 0


def test_size_and_index(open_page, run):
    from pathlib import Path
    root, document = run
    assert Path(document["report"]).stat().st_size < 4_000_000
    page = open_page(root / "reports" / "index.html")
    page.get_by_role("link", name=document["run"]).click()
    assert page.url.endswith(f"{document['run']}.html")
