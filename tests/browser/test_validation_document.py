"""A validation as a document: searched, opened and sorted, read without scripts, on paper, on a phone, in the dark and in Korean; it asks nobody."""

import polars as pl
import pytest
from pages import fits

from mlwb.data.history import Checked
from mlwb.data.schema import infer, save_schema
from mlwb.show.validation import validate
from mlwb.show.views import view as view_of

EVIL = "<img src=x onerror=alert(1)>"
N = pl.int_range(pl.len())


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """name -> a saved document: with a history, alone, in Korean."""
    folder = tmp_path_factory.mktemp("validation")
    past = pl.DataFrame({"항구": ["부산", "Mokpo"] * 200, "tons": [i % 37 + .5 for i in range(400)], EVIL: [i % 5 for i in range(400)], "id": range(400)})
    now = past.with_columns(항구=pl.when(N % 40 == 3).then(pl.lit(EVIL)).otherwise("항구"), new=pl.lit(.5) * N,
                            tons=pl.when(N % 100 == 9).then(999.0).otherwise("tons"),
                            id=pl.when(N == 5).then(4).otherwise("id")).with_columns(pl.when(N % 4 == 1).then(None).otherwise(pl.col(EVIL)).alias(EVIL))
    save_schema(infer(past), folder / "schema.yaml")
    view = validate(now, folder / "schema.yaml")
    alone = view_of(view.result)
    figures = lambda i: {c: {"missing": f["missing"] * i / 10} for c, f in view.result.figures.items()}
    view._past, view.version = [Checked(f"2024010{i}", f"2024-01-0{i}T03:00:00", "table", i, 390 + i, i != 3, {"error": int(i == 3), "warning": i % 2},
                                        figures=figures(i)) for i in range(1, 8)], 8
    return {"whole": view.save(folder / "whole.html"), "alone": alone.save(folder / "alone.html"), "ko": view.save(folder / "ko.html", "ko")}


@pytest.fixture
def page(documents, open_page):
    """The document, in a page that asks nobody, and nothing goes wrong."""
    page = open_page(documents["whole"])
    yield page
    assert page.requests == [f"file://{documents['whole']}"] and not page.errors and not page.dialogs


def inside(page, css): return page.locator(f"mlwb-view >> css={css}")
def names(page): return inside(page, "[data-list=found] > details:visible").evaluate_all("es => es.map(e => e.dataset.item.split('/').slice(0, 2).join('/'))")


def test_search_filter_and_sort(page):
    every = names(page)
    assert set(every) == {"id/unique", f"{EVIL}/missing", "new/new-column", "항구/domain", "tons/range"}, every
    for text, found in (("항구", ["항구/domain"]), ("999", []), ("above 73", ["tons/range"]), ("unique", ["id/unique"]), ("nothing like it", [])):
        inside(page, "input[data-search]").fill(text)
        assert names(page) == found, text
    assert inside(page, "[data-none=found]").is_visible()
    inside(page, "input[data-search]").press("Escape")
    inside(page, "[data-filter=type][data-value=warn]").click()
    assert 0 < len(names(page)) < len(every) and "id/unique" not in names(page)
    inside(page, "[data-filter=type][data-value=warn]").click()
    inside(page, "[data-sort=rows]").click()
    assert names(page)[0] == "new/new-column" and names(page)[-1] == "id/unique"


def test_a_row_opens_to_what_a_decision_needs(page):
    row = inside(page, "[data-list=found] > details[data-item^='항구']")
    row.locator("summary").click()
    text = row.inner_text()
    assert "Examples" in text and EVIL in text and "What the schema says of 항구" in text and "부산" in text and row.locator("svg.fig circle").count() == 8
    assert not inside(page, "button[data-ask]").count() and not inside(page, ".review").count()
    missing = inside(page, "[data-list=found] > details[data-item*='/missing/']")
    missing.locator("summary").focus()
    page.keyboard.press("Enter")
    assert "share missing" in missing.inner_text()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.querySelector('mlwb-view').shadowRoot.activeElement.tagName") == "SUMMARY"


def test_the_versions_are_drawn(page):
    chart = inside(page, ".versions svg")
    assert chart.locator("g > title").count() + chart.locator("[data-tip]").count() >= 8 and "did not pass" in inside(page, ".legend").first.inner_text()
    inside(page, "details.more > summary").first.click()
    rows = inside(page, "details.more table tbody tr")
    assert rows.count() == 8 and "2024-01-07" in rows.nth(1).inner_text() and "did not pass" in rows.nth(5).inner_text()


@pytest.mark.parametrize("name, scheme, width", [("whole", "light", 1440), ("whole", "dark", 1440), ("whole", "light", 390), ("ko", "dark", 390),
                                                 ("alone", "light", 390)])
def test_it_fits(documents, open_page, name, scheme, width):
    page = open_page(documents[name], width=width, scheme=scheme)
    fits(page, documents[name], scheme, width, ".head, .banner, .facts, .cols, .list > details > summary, .panels, .tools")
    if name == "alone": assert not inside(page, ".versions").count() and "Trend" not in inside(page, ".view").inner_text()


def test_without_scripts_everything_is_there(documents, open_page):
    page = open_page(documents["whole"], scripts=False)
    assert "항구" in inside(page, ".list").inner_text() and inside(page, ".tools").is_hidden() and inside(page, ".versions svg").is_visible()
    inside(page, "[data-list=found] > details[data-item^='항구'] > summary").click()
    assert inside(page, "[data-list=found] > details[data-item^='항구'] table").first.is_visible()


def test_in_korean(documents, open_page):
    page = open_page(documents["ko"])
    text = inside(page, ".view").inner_text()
    assert all(w in text for w in ("검증", "발견된 것", "버전별 결과", "추이", "심각도", "열")) and "Severity" not in text and "What was found" not in text


def test_on_paper_all_rows_are_open(documents, open_page):
    page = open_page(documents["whole"])
    page.emulate_media(media="print")
    assert inside(page, ".found .detail table").first.is_visible() and inside(page, ".tools").is_hidden()
