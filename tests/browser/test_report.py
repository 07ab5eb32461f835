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


def open_page(browser, path, **options):
    """A page from file://; every request that leaves the machine, and every error, is kept."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.seen, page.errors = [], []
    page.on("request", lambda r: page.seen.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    page.on("pageerror", lambda e: page.errors.append(str(e)))
    page.on("dialog", lambda d: (page.errors.append("dialog " + d.message), d.dismiss()))
    page.goto(f"file://{path}")
    return page


def test_no_request_no_error_and_every_chart(browser, run):
    page = open_page(browser, run[1]["report"], viewport={"width": 1280, "height": 900})
    height = page.evaluate("document.documentElement.scrollHeight")
    for y in range(0, height, 700):
        page.evaluate(f"window.scrollTo(0, {y})")
        page.wait_for_timeout(60)
    page.wait_for_selector(".plotly-place[data-drawn] .main-svg", timeout=15_000)
    assert not page.seen and not page.errors
    charts = page.evaluate("""() => [...document.querySelectorAll('mlwb-view')].flatMap(v => [...(v.shadowRoot?.querySelectorAll('svg') ?? [])])
        .filter(s => s.checkVisibility()).map(s => [s.getBoundingClientRect().width, s.childElementCount])""")
    assert len(charts) > 10 and all(w > 0 and n > 0 for w, n in charts)
    assert page.evaluate("[...document.querySelectorAll('mlwb-view')].every(v => v.shadowRoot)")


def test_readable_with_scripts_off(browser, run):
    page = open_page(browser, run[1]["report"], java_script_enabled=False)
    assert page.locator(".verdict .word").inner_text().strip().lower() == "approved"
    assert page.locator(".strip li").count() == 11
    assert page.locator("mlwb-view table").count() >= 8, "tables stand in the shadow DOM that the parser made"
    assert page.locator(".plotly-place table").count() == 1, "a table stands where the figure would be"
    assert page.locator("mlwb-view svg").count() > 10


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_phone_and_desk_in_light_and_dark(browser, run, width, scheme):
    page = open_page(browser, run[1]["report"], viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    back = [int(x) for x in re.findall(r"\d+", page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))[:3]]
    assert (sum(back) < 150) == (scheme == "dark")


def test_korean(browser, cli, run):
    root, document = run
    done = cli("report", document["run"], "--language", "ko", cwd=root)
    assert done.returncode == 0, done.stderr
    page = open_page(browser, done.stdout.strip())
    assert page.evaluate("document.documentElement.lang") == "ko"
    words = page.locator("main").inner_text()
    assert "승인" in page.locator(".verdict").inner_text() and len(re.findall("[가-힣]", words)) > 300
    assert cli("report", document["run"], cwd=root).returncode == 0


def test_size_and_index(browser, run):
    from pathlib import Path
    root, document = run
    assert Path(document["report"]).stat().st_size < 4_000_000
    page = open_page(browser, root / "reports" / "index.html")
    page.get_by_role("link", name=document["run"]).click()
    assert page.url.endswith(f"{document['run']}.html")
