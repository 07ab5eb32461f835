"""Two data sets side by side as a document, in Chromium: offline, safe, readable without scripts, alive with them."""

import random
import re

import polars as pl
import pytest
from pages import fits

import mlwb

EVIL = "<img src=x onerror=alert(1)>"


def sea(mean, ports, n, seed, **more):
    rng = random.Random(seed)
    temp = [rng.gauss(mean, 4) for _ in range(n)]
    return pl.DataFrame({"수온(°C)": temp, "salinity": [rng.gauss(33, 1) if rng.random() < (.9 if seed else .6) else None for _ in range(n)],
                         "port": [rng.choice(ports) for _ in range(n)], EVIL: [rng.choice(["a", EVIL]) for _ in range(n)],
                         "depth_m": [rng.randint(5, 90) for _ in range(n)], "note": [f"{'긴 ' * rng.randint(1, 9 + 9 * seed)}글 {i}" for i in range(n)],
                         "day": pl.Series([20000 + seed * 90 + i % 200 for i in range(n)]).cast(pl.Date),
                         "caught": [t + rng.gauss(0, 3) > 15 for t in temp], **more})


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """en, ko: a saved document."""
    a = sea(14., ["부산", "Mokpo", EVIL], 500, 0, code=["7"] * 500, old=[1] * 500)
    b = sea(19., ["부산", "Mokpo", "제주"], 700, 1, code=[7] * 700)
    folder, view = tmp_path_factory.mktemp("sides"), mlwb.explore(a, b, target="caught", name=(f"spring {EVIL}", "autumn"))
    return {lang: view.save(folder / f"{lang}.html", lang) for lang in ("en", "ko")}


OVERLAPS = """(list) => list.flatMap((summary) => {
    const cells = [...summary.children].map((e) => [...e.children].map((k) => k.getBoundingClientRect()).filter((b) => b.width));
    const over = (a, b) => a.right > b.left + 1 && a.top < b.bottom && b.top < a.bottom;
    return cells.slice(1).some((next, i) => next.some((b) => cells[i].some((a) => over(a, b)))) ? [summary.textContent] : []; })"""


def inside(page, css): return page.locator(f"mlwb-view >> css={css}")
def names(page): return [e.get_attribute("data-item") for e in inside(page, "[data-list=columns] > details:visible").all()]
def row(page, name): return inside(page, f"[data-list=columns] > details[data-item='{name}']")


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_a_document_asks_nobody_and_fits(documents, open_page, language, scheme, width):
    page = open_page(documents[language], width=width, scheme=scheme)
    fits(page, documents[language], scheme, width, "summary, .facts, h3, .tools, .legend, .tags, .sides > div, .sides > figure")
    assert not inside(page, "summary").evaluate_all(OVERLAPS)


@pytest.mark.parametrize("width", [390, 1440])
def test_texts_of_figures_do_not_overlap(documents, open_page, width):
    page = open_page(documents["en"], width=width)
    for e in inside(page, "details").all(): e.evaluate("e => e.open = true")
    hits = page.evaluate("""() => [...document.querySelector('mlwb-view').shadowRoot.querySelectorAll('svg.fig')].flatMap((svg) => {
        const t = [...svg.querySelectorAll('text')].map((e) => [e.getBoundingClientRect(), e.textContent]);
        return t.flatMap(([a, s], i) => t.slice(i + 1)
            .filter(([b]) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4)
            .map(([, u]) => [svg.getAttribute('aria-label'), s, u])); })""")
    assert not hits, hits[:5]


def test_the_two_sides_are_told_apart_by_colour_and_shape(documents, open_page):
    for scheme in ("light", "dark"):
        page = open_page(documents["en"], scheme=scheme)
        legend = inside(page, ".legend").first
        assert f"spring {EVIL} · 500 rows" in legend.inner_text() and "autumn · 700 rows" in legend.inner_text()
        row(page, "수온(°C)").locator("summary").click()
        paths = inside(page, "details[data-item='수온(°C)'] figure svg.fig > path").evaluate_all(
            "(es) => es.map((e) => [getComputedStyle(e).fill, getComputedStyle(e).stroke])")
        area, outline, line = paths[-3:]                     # before them, the axis
        assert area[1] == line[0] == outline[0] == "none" and area[0] == outline[1] != line[1]


def test_search_filter_and_sort(documents, open_page):
    page = open_page(documents["en"])
    every = names(page)
    assert set(every[:2]) == {"code", "old"}
    assert len(every) == 10 and inside(page, "output.count").inner_text() == "10 of 10"
    inside(page, "input[type=search]").fill("수온")
    assert names(page) == ["수온(°C)"]
    inside(page, "input[type=search]").fill("nothing like it")
    assert names(page) == [] and inside(page, "[data-none]").is_visible()
    inside(page, "input[type=search]").press("Escape")
    inside(page, "[data-filter=type][data-value=a]").click()
    assert names(page) == ["old"]
    inside(page, "[data-filter=type][data-value=type]").click()
    assert set(names(page)) == {"old", "code"}
    for kind in ("a", "type"): inside(page, f"[data-filter=type][data-value={kind}]").click()
    inside(page, "[data-sort=missing]").click()
    assert names(page)[0] == "salinity"
    inside(page, "[data-sort=distance]").click()
    found = [float(d) for e in inside(page, "[data-list=columns] > details").all() if (d := e.get_attribute("data-sort-distance"))]
    assert found == sorted(found, reverse=True) and len(found) == 8 and set(names(page)[-2:]) == {"code", "old"}
    for _ in range(2): inside(page, "[data-sort=distance]").click()
    assert names(page) == every


def test_select_by_mouse_and_keyboard(documents, open_page):
    page = open_page(documents["en"])
    page.evaluate("document.addEventListener('mlwb-select', (e) => { window.chosen = e.detail; })")
    row(page, "port").locator("summary").click()
    assert page.evaluate("window.chosen") == {"column": "port"} and row(page, "port").get_attribute("open") is not None
    inside(page, "[data-list=columns] > details > summary").first.focus()
    for _ in range(2): page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    third = inside(page, "[data-list=columns] > details").nth(2)
    assert third.get_attribute("data-selected") is not None and page.evaluate("window.chosen") == {"column": third.get_attribute("data-item")}
    assert page.evaluate("getComputedStyle(document.activeElement.shadowRoot.activeElement).outlineStyle") == "solid"


def hover(mark):
    """Scrolling hides the tip, and its event comes late: first to the place, then the pointer."""
    mark.scroll_into_view_if_needed()
    mark.page.wait_for_timeout(100)
    mark.hover()


def test_hover_tells_both_sides(documents, open_page):
    page = open_page(documents["en"])
    row(page, "port").locator("summary").click()
    hover(row(page, "port").locator("svg.fig g > rect").first)
    tip = inside(page, ".tip").inner_text()
    assert "autumn" in tip and tip.count("%") == 2
    row(page, "depth_m").locator("summary").click()
    hover(row(page, "depth_m").locator("svg.fig .hit > rect").nth(3))
    assert re.search(r"autumn [\d.]+% \(\d+", inside(page, ".tip").inner_text())


def test_values_that_came_and_went(documents, open_page):
    page = open_page(documents["en"])
    detail = row(page, "port")
    detail.locator("summary").click()
    assert detail.locator("h4", has_text="Only in autumn (1)").is_visible() and "제주" in detail.locator(".tags").first.inner_text()
    assert EVIL in detail.locator(".tags").last.inner_text() and "Total variation distance" in detail.inner_text()


def test_readable_without_scripts(documents, open_page):
    page = open_page(documents["en"], scripts=False)
    assert inside(page, "h2").is_visible() and not inside(page, ".tools").is_visible() and inside(page, ".headlines li").count() == 5
    for name in ("수온(°C)", "old", "code", "note"):
        row(page, name).locator("summary").click()
        assert row(page, name).locator(".detail > p").is_visible() and row(page, name).locator("table").first.is_visible()


def test_print_unfolds_everything(documents, open_page):
    page = open_page(documents["en"])
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert all(e.get_attribute("open") is not None for e in inside(page, "details").all()) and not inside(page, ".tools").is_visible()


def test_korean(documents, open_page):
    page = open_page(documents["ko"])
    text = inside(page, "article.view").inner_text()
    assert "나란히" in text and "에만 있는 열" in text and not re.search(r"\b(only|moved|rows|missing|median)\b", text.replace(EVIL, "")), text[:900]


def test_a_viewer_that_drops_what_it_does_not_know_shows_a_sentence_and_a_table(documents, open_page, tmp_path):
    (tmp_path / "plain.html").write_text(re.sub(r"<template.*</template>", "", documents["en"].read_text(), flags=re.S))
    page = open_page(tmp_path / "plain.html", scripts=False)
    assert page.locator("mlwb-view table tr").count() == 11 and "on one side only" in page.locator("mlwb-view p").last.inner_text()
