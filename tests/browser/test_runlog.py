"""How a run went, in a page and in JupyterLab: every status, every width, and a run that is watched while it is at work."""

import re
import time

import nbformat
import pytest
from test_runview import everything
from test_views_documents import CONTRAST

from mlwb.core.workspace import Project
from mlwb.run.record import Run
from mlwb.show.views import view


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """language → a document in which every status occurs."""
    folder = tmp_path_factory.mktemp("runs")
    return {language: view(everything()).save(folder / f"{language}.html", language) for language in ("en", "ko")}


def inside(page, css): return page.locator(f"mlwb-view >> css={css}")


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_asks_nobody_and_can_be_read(documents, open_page, language, scheme, width):
    page = open_page(documents[language], width=width, scheme=scheme)
    assert page.requests == [f"file://{documents[language]}"] and not page.errors
    assert page.evaluate("document.documentElement.scrollWidth") <= width and not page.evaluate(CONTRAST)
    assert inside(page, ".lane svg").evaluate_all("(all) => all.every(s => s.checkVisibility() && s.getBoundingClientRect().width > 200)")
    assert inside(page, ".axis span").evaluate_all("""(all) => { const b = all.map(s => s.getBoundingClientRect());
        return b.length > 3 && b.every((x, i) => !i || x.left >= b[i - 1].right) && b.every(x => x.right <= innerWidth); }""")
    assert ("실패" if language == "ko" else "failed") in inside(page, ".banner").inner_text()


def test_a_bar_stands_where_its_time_is(documents, open_page):
    page = open_page(documents["en"])
    edges = "(all) => all.map(e => { const r = e.getBoundingClientRect(); return [r.left, r.right]; })"
    boxes = inside(page, "[data-item=timeout] .lane rect").evaluate_all(edges)
    lane = inside(page, "[data-item=timeout] .lane svg").bounding_box()
    at = [[round((x - lane["x"]) / lane["width"] * 9, 1) for x in box] for box in boxes]  # seconds
    assert at == [[2, 4], [4, 4.2], [4.2, 5]], "waited, got ready, worked"
    tick = inside(page, ".axis span").nth(2).bounding_box()
    assert abs(tick["x"] + tick["width"] / 2 - (lane["x"] + lane["width"] * 4 / 9)) < 2, "the ruler has the same clock"


def test_what_broke_is_open_and_the_keyboard_opens_the_rest(documents, open_page):
    page = open_page(documents["en"])
    page.evaluate("document.addEventListener('mlwb-select', (e) => { window.chosen = e.detail; })")
    shut = inside(page, "[data-list=stages] > details:not([open])")
    assert {d.get_attribute("data-item") for d in shut.all()} == {"ok", "cached", "not-run", "skipped", "running"}
    inside(page, "[data-item=ok] > summary").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.evaluate("window.chosen") == {"stage": "cached"} and inside(page, "[data-item=cached]").get_attribute("open") is not None
    assert "from" not in inside(page, "[data-item=failed] .lane svg").get_attribute("aria-label")
    assert re.fullmatch(r"failed, 2\.0 s – 3\.0 s", inside(page, "[data-item=failed] .lane svg").get_attribute("aria-label"))


def test_with_scripts_off(documents, open_page):
    page = open_page(documents["en"], scripts=False)
    assert inside(page, "details").count() == 9 and inside(page, "[data-item=failed] .fault").is_visible() and not inside(page, ".ask:visible").count()


CELL = """import mlwb
v = mlwb.runlog()
v"""


def test_in_lab_a_run_is_watched_while_it_is_at_work(lab, browser):
    root = lab.folder / "watched"
    (root / "notebooks").mkdir(parents=True)
    (root / "settings.ini").write_text("[workbench]\nname = watched\ntarget = y\nsource = data.csv\n")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)], metadata=kernel), root / "notebooks" / "look.ipynb")
    run = Run(Project(root), "20260102-030405-abcd")
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    try:
        with run.living():
            run.tell("run", run=run.name)
            run.tell("plan", stages=[{"name": "frame"}, {"name": "train"}])
            run.tell("start", stage="frame", attempt=1, kernel="cold")
            page.goto(lab.url("watched/notebooks/look.ipynb"))
            page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for(timeout=120_000)
            page.get_by_text("Run", exact=True).first.click()
            page.locator("[data-command='runmenu:run-all']").click()
            shown = page.locator(".jp-OutputArea-output mlwb-view")
            shown.locator(".view.live").wait_for(timeout=120_000)
            assert "at work: frame" in shown.locator(".banner").inner_text()
            run.tell("end", stage="frame", status="ok", seconds=1.0, verdict="it is framed")
            run.tell("start", stage="train", attempt=1, kernel="warm")
            shown.locator(".ask button").click()
            shown.locator(".banner").get_by_text("at work: train").wait_for(timeout=20_000)
        shown.locator("[data-item=train] > summary").click()
        client, end = lab.kernel("watched/notebooks/look.ipynb"), time.time() + 20
        while client.value("v.selection") != {"stage": "train"} and time.time() < end: time.sleep(.2)
        assert client.value("v.selection") == {"stage": "train"}
        client.stop_channels()
        shown.locator(".ask button").click()
        shown.locator(".banner .state", has_text="killed").wait_for(timeout=20_000)
        assert not shown.locator(".ask").count(), "there is nothing more to wait for"
    finally: context.close()
