"""The profile as a document: chosen by mouse and keyboard, read without scripts, on paper, on a phone and in Korean, small at any number of rows."""

import random

import numpy as np
import polars as pl
import pytest

from mlwb.data.merge import merge
from mlwb.data.profile import profile
from mlwb.show.explore import ProfileView, explore
from mlwb.show.views import inner

EVIL = "<img src=x onerror=alert(1)>"


def sea(n=600, seed=0):
    rng = random.Random(seed)
    temp = [rng.gauss(14, 4) for _ in range(n)]
    df = pl.DataFrame({"수온(°C)": temp, "fahrenheit": [t * 1.8 + 32 + rng.gauss(0, .5) for t in temp], "depth_m": [rng.randint(5, 90) for _ in range(n)],
                       "salinity": [rng.gauss(33, 1) if rng.random() < .8 else None for _ in range(n)],
                       "port": [rng.choice(["부산", "Mokpo", "n/a", EVIL]) for _ in range(n)],
                       "code": [f"AB-{i % 97:03d}" if i % 9 else "Zz 1" for i in range(n)], "noise": [rng.random() for _ in range(n)],
                       "day": [f"2024-{1 + i % 12:02d}-{1 + i % 27:02d}" for i in range(n)], "caught": [t + rng.gauss(0, 3) > 15 for t in temp]})
    return df.with_columns(pl.col("day").str.to_date(), landed=pl.when("caught").then(pl.lit("yes")))


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """name -> a saved document."""
    folder = tmp_path_factory.mktemp("explore")
    view = explore(sea(), target="caught", name=f"sea {EVIL}", time="day")
    view.data = None
    halves = merge([profile(sea(n, n).drop("landed", "port"), target="depth_m", task="regression") for n in (500, 700)])
    broken = profile(sea())
    broken.column("port").error = "ComputeError: it broke <b>"
    views = {"sea": view, "merged": ProfileView(halves, "halves"), "broken": ProfileView(broken)}
    return {k: v.save(folder / f"{k}.html") for k, v in views.items()} | {"ko": view.save(folder / "ko.html", "ko")}


@pytest.fixture
def page(documents, open_page):
    """The document, in a page that keeps what is selected; it asks nobody, and nothing goes wrong."""
    page = open_page(documents["sea"])
    page.evaluate("document.addEventListener('mlwb-select', (e) => { window.chosen = e.detail; })")
    yield page
    assert page.requests == [f"file://{documents['sea']}"] and not page.errors and not page.dialogs


def inside(page, css): return page.locator(f"mlwb-view >> css={css}")
def item(page, name): return inside(page, f"[data-list=columns] > details[data-item='{name}']")
def names(page): return inside(page, "[data-list=columns] > details:visible").evaluate_all("es => es.map(e => e.dataset.item)")
def chosen(page): return page.evaluate("() => window.chosen")
def said(page): return inside(page, ".notice").inner_text()
def unfold(page): inside(page, "details").evaluate_all("es => es.forEach(e => { e.open = true; })")


def test_search_sort_and_filter(page):
    every = names(page)
    assert len(every) == 10 and inside(page, "output.count").inner_text() == "10 of 10"
    inside(page, "input[data-search]").fill("수온")
    assert names(page) == ["수온(°C)"] and inside(page, "output.count").inner_text() == "1 of 10"
    for text, found in (("(", ["수온(°C)"]), ("Float64", []), ("number", []), ("temp depth", []), ("H_ d", ["depth_m"])):  # names, not what is said of them
        inside(page, "input[data-search]").fill(text)
        assert names(page) == found
    inside(page, "input[data-search]").fill("nothing like it")
    assert names(page) == [] and inside(page, "[data-none]").is_visible()
    inside(page, "input[data-search]").press("Escape")
    inside(page, "[data-filter=type][data-value=number]").click()
    assert names(page) == ["수온(°C)", "fahrenheit", "salinity", "noise"]
    inside(page, "[data-filter=type][data-value=time]").click()
    assert names(page) == ["수온(°C)", "fahrenheit", "salinity", "noise", "day"]
    for kind in ("number", "time"): inside(page, f"[data-filter=type][data-value={kind}]").click()
    inside(page, "[data-sort=missing]").click()
    assert names(page)[:2] == ["landed", "salinity"]
    inside(page, "[data-sort=name]").click()
    up = names(page)
    inside(page, "[data-sort=name]").click()
    assert names(page) == up[::-1]
    inside(page, "[data-sort=name]").click()
    assert names(page) == every


def test_one_column(page):
    row = item(page, "depth_m")
    row.locator("summary").first.click()
    assert chosen(page) == {"column": "depth_m"} and row.get_attribute("data-selected") is not None and row.get_attribute("open") is not None
    row.locator("summary").first.click()
    assert chosen(page) == {} and row.get_attribute("open") is None


def test_two_columns_show_what_the_document_knows(page):
    item(page, "수온(°C)").locator("summary").first.click()
    item(page, "수온(°C)").locator("form[data-against] input").fill("fahrenheit")
    item(page, "수온(°C)").locator("form[data-against] button").click()
    assert chosen(page) == {"column": "수온(°C)", "other": "fahrenheit"}
    text = item(page, "수온(°C)").locator(".two-columns").inner_text()
    r = sea().select(pl.corr("수온(°C)", "fahrenheit"), s=pl.corr("수온(°C)", "fahrenheit", method="spearman")).row(0)
    assert f"Pearson {r[0]:.3f}" in text and f"Spearman {r[1]:.3f}" in text and "n=600" in text
    assert item(page, "fahrenheit").get_attribute("open") is not None and item(page, "fahrenheit").get_attribute("data-other") is not None
    item(page, "noise").locator("summary").first.click(modifiers=["Shift"])
    assert chosen(page) == {"column": "수온(°C)", "other": "noise"}
    assert "No association" in item(page, "수온(°C)").locator(".two-columns").inner_text() and inside(page, ".two-columns").count() == 1
    inside(page, "table.pairs [data-pick=other]").first.click()
    assert {"column", "other"} == set(chosen(page)) and inside(page, ".two-columns").is_visible()


def test_rows_need_a_kernel_and_that_is_said(page):
    item(page, "port").locator("summary").first.click()
    item(page, "port").locator("[data-value='부산']").click()
    inside(page, ".notice").get_by_text("JupyterLab").wait_for(timeout=2000)
    assert chosen(page) == {"column": "port"} and not inside(page, "[data-limit]:visible, [data-as]:visible, .picked").count()


def test_hover_anywhere_above_a_bar_tells_its_number(page):
    item(page, "depth_m").locator("summary").first.click()
    svg = item(page, "depth_m").locator("svg[data-rows]")
    svg.scroll_into_view_if_needed()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # scrolling hides what is told
    box = svg.bounding_box()
    page.mouse.move(box["x"] + box["width"] * .6, box["y"] + 12)
    text = inside(page, ".tip").inner_text()
    low, high = (int(x) for x in text.split(":")[0].split(" – "))
    assert int(text.split(": ")[1].split(" ")[0]) == sea().filter(pl.col("depth_m").is_between(low, high)).height
    page.mouse.move(2, 2)
    assert inside(page, ".tip").count() == 0


def test_by_keyboard_alone(page):
    page.keyboard.press("Tab")
    focus = """() => { const e = document.activeElement.shadowRoot?.activeElement;
        return e && [e.tagName, e.dataset.rows ?? e.closest('[data-item]')?.dataset.item ?? ''].join(' '); }"""
    for _ in range(60):
        if (page.evaluate(focus) or "").lower().startswith("summary"): break
        page.keyboard.press("Tab")
    assert page.evaluate(focus) == "SUMMARY 수온(°C)"
    page.keyboard.press("ArrowDown"); page.keyboard.press("ArrowDown"); page.keyboard.press("Enter")
    assert chosen(page) == {"column": "depth_m"}
    page.keyboard.press("Tab")
    while page.evaluate(focus) != "svg depth_m":
        assert page.evaluate(focus), "the focus left the view"
        page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement.shadowRoot.activeElement).outlineStyle") == "solid"
    svg = item(page, "depth_m").locator("svg[data-rows]")
    for key, at in (("ArrowRight", 0), ("ArrowRight", 1), ("End", -1), ("ArrowLeft", -2), ("Home", 0)):
        page.keyboard.press(key)
        bars = svg.locator(".marks > rect").evaluate_all("es => es.map(e => e.hasAttribute('data-active'))")
        assert bars.index(True) == at % len(bars) and sum(bars) == 1
    assert svg.get_attribute("role") == "listbox" and "%" in svg.locator("[data-active]").get_attribute("aria-label")
    assert "%" in inside(page, ".tip").inner_text()
    page.keyboard.press("Escape")
    assert chosen(page) == {} and page.evaluate(focus) == "SUMMARY depth_m"


def test_headlines_suspects_and_alerts_lead_to_their_column(page):
    text = inside(page, ".suspects").inner_text()
    assert "landed" in text and "its gaps tell" in text and "leave out" in text
    for place, name in ((".suspects", "landed"), (".alerts", "salinity")):
        inside(page, f"{place} [data-pick=column][data-value={name}]").first.click()
        assert item(page, name).get_attribute("open") is not None and chosen(page) == {"column": name}


def test_what_the_engine_knows_is_shown(page):
    unfold(page)
    assert "n/a" in item(page, "port").locator(".marks-list").inner_text() and "rows" in item(page, "port").locator(".marks-list").inner_text()
    assert "A-999" in item(page, "code").locator(".patterns").inner_text() and "of 600 values" in item(page, "code").inner_text()
    assert "From 2024-01-01 to" in item(page, "day").inner_text() and "larger" in item(page, "day").inner_text()
    assert inside(page, ".target .balance b").count() == 2 and "Share of caught over time" in inside(page, ".target").inner_text()
    assert "held-out rows" in item(page, "fahrenheit").inner_text()


def test_a_merged_profile_says_what_is_estimated(documents, open_page):
    page = open_page(documents["merged"])
    unfold(page)
    text = item(page, "noise").inner_text()
    assert "2 profiles" in inside(page, ".facts").inner_text() and "≈ put together from bins: 1,200 rows" in text and "≈ 1," in text and "±" in text
    assert inside(page, ".target svg[data-rows=depth_m]").count() == 1 and not page.errors


def test_a_column_that_failed_is_a_card_and_the_rest_is_there(documents, open_page):
    page = open_page(documents["broken"])
    unfold(page)
    assert "it broke <b>" in item(page, "port").locator(".banner").inner_text() and item(page, "port").locator("svg.fig").count() == 0
    assert item(page, "depth_m").locator("svg.fig:visible").count() >= 1 and not page.errors


@pytest.mark.parametrize("name", ["sea", "merged", "broken", "ko"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_down_only(documents, open_page, name, scheme):
    page = open_page(documents[name], width=390, scheme=scheme)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390 and not page.errors
    cut = "(es) => es.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"
    assert not inside(page, "summary, h3, .tools, .suspects li, .values li, .goes li, .headlines li").evaluate_all(cut)
    color = page.evaluate("getComputedStyle(document.querySelector('mlwb-view').shadowRoot.querySelector('.view')).backgroundColor")
    assert (color == "rgb(255, 255, 255)") == (scheme == "light")


def test_paper_unfolds_everything_and_shows_no_controls(documents, open_page):
    page = open_page(documents["sea"], scripts=False)
    page.emulate_media(media="print")
    assert inside(page, "[data-list=columns] svg.fig").evaluate_all("(es) => es.length > 8 && es.every(e => e.getBoundingClientRect().height > 20)")
    assert not inside(page, "input:visible, select:visible, form:visible, .chips:visible, .tools:visible").count() and len(page.pdf()) > 40_000


def test_without_scripts_all_of_it_can_be_read(documents, open_page):
    page = open_page(documents["sea"], scripts=False)
    for name in ("depth_m", "port", "day"): item(page, name).locator("summary").first.click()
    text = inside(page, ".view").inner_text()
    for words in ("What matters most", "Columns that may know the target", "median", "n/a", "larger", "Goes with", "AUC"): assert words in text
    assert item(page, "depth_m").locator("svg.fig:visible").count() == 2 and item(page, "port").locator(".values li:visible").count() == 4
    assert not inside(page, "input:visible, select:visible, form:visible, .chips:visible").count()


def test_korean(documents, open_page):
    page = open_page(documents["ko"])
    unfold(page)
    text = inside(page, ".view").inner_text()
    assert page.evaluate("document.documentElement.lang") == "ko" and not page.errors
    for words in ("수온", "타깃을 미리 알고 있을 수 있는 열", "주기와 공백", "문자 형태", "함께 움직이는 열"): assert words in text
    for words in ("rows", "Columns", "labelled", "Distribution", "missing", "Goes with"): assert words not in text
    item(page, "port").locator("[data-value='부산']").click()
    inside(page, ".notice").get_by_text("mlwb.explore").wait_for(timeout=2000)


def wide(n):
    """Fifty columns of every kind."""
    rng = np.random.default_rng(0)
    day = np.datetime64("2015-01-01") + rng.integers(0, 2000, n).astype("timedelta64[D]")
    words = np.array([f"category number {k}" for k in range(30)])
    columns = {f"number_{i}": rng.normal(size=n) ** (1 + i % 3) for i in range(20)} | {f"whole_{i}": rng.poisson(3 + 9 * i, n) for i in range(10)}
    columns |= {f"word_{i}": words[rng.integers(0, 3 + 3 * i, n)] for i in range(9)} | {f"flag_{i}": rng.random(n) < .3 for i in range(4)}
    columns |= {f"text_{i}": rng.integers(0, 10**9, n).astype(str) for i in range(3)} | {f"day_{i}": day + i for i in range(3)}
    return pl.DataFrame(columns | {"y": columns["number_0"] + rng.normal(size=n) > .5})


@pytest.mark.parametrize("n", [1000, 1_000_000])
def test_fifty_columns_fit_in_a_megabyte_at_any_number_of_rows(tmp_path, open_page, n):
    df = wide(n)
    assert df.width == 50
    path = explore(df, target="y", time="day_0").save(tmp_path / "wide.html")
    assert path.stat().st_size <= 1_000_000
    page = open_page(path)
    item(page, "number_3").locator("summary").first.click()
    assert item(page, "number_3").locator("svg.fig:visible").count() == 2 and not page.errors


def test_a_document_holds_nothing_that_only_a_kernel_can_use(documents, open_page):
    page = open_page(documents["sea"])
    unfold(page)
    item(page, "depth_m").locator("form[data-against]").wait_for()
    rows = inside(page, "[data-list=columns] > details").count()
    assert inside(page, "form[data-against]").count() == rows and not inside(page, "[data-limit], [data-as], [data-edges], .ask").count()
    texts = open_page(documents["sea"], scripts=False)
    assert not inside(texts, "form, select, input:visible, .acts").count()
    live = str(inner(explore(sea(), target="caught"), live=True))
    assert live.count("data-limit=") == live.count("data-as=") == rows and "data-edges=" in live


def test_a_column_costs_a_few_kilobytes():
    rng = np.random.default_rng(0)
    table = {f"x{i}": rng.normal(size=200) if i % 2 else rng.integers(0, 5 + i, 200) for i in range(300)}
    size = {k: len(explore({c: table[c] for c in [*table][:k]}).document().encode()) for k in (100, 300)}
    assert size[300] - size[100] < 200 * 4000, "what is the same in each row stands in the document once"


def test_what_associations_put_together_is_said_where_they_are_shown(tmp_path, open_page):
    df = pl.DataFrame({"street": [f"{i % 60} Road" for i in range(900)], "rent": [(i % 60) * 10. + i % 7 for i in range(900)],
                       "flat": [(i % 60) // 2 for i in range(900)], "kind": [f"kind {(i % 60) // 6}" for i in range(900)]})
    page = open_page(explore(df).save(tmp_path / "rent.html"))
    unfold(page)
    told = "Of street, the 30 most frequent values count, and all others as one (n=900)."
    assert told in item(page, "street").inner_text() and told in item(page, "rent").inner_text() and told in inside(page, ".panels figure").last.inner_text()
    with_street = [t for t in inside(page, ".pairs tr").all_inner_texts() if "street" in t]
    assert with_street and all("street: the 30 most frequent values, the others as one" in t and "n=900" in t for t in with_street)
    assert not any("most frequent" in t for t in inside(page, ".pairs tr").all_inner_texts() if "street" not in t)


def test_a_single_row_is_drawn(tmp_path, open_page):
    df = sea()
    view = explore(df.with_columns(pl.int_range(pl.len()).alias("i")), target="depth_m", task="regression", time="day")
    view.selection = {"rows": {"column": "i", "low": 7, "high": 8}}
    page = open_page(view.save(tmp_path / "one.html"))
    over = inside(page, ".target svg").last
    assert over.locator("circle").count() == 1 and inside(page, ".picked p").inner_text() == "1 of 600 rows 0.2%"
    assert [t for t in over.locator("text").all_text_contents() if "-" in t] == [f"{df['day'][7]} 00:00"]
    assert "1 labelled row" in inside(page, ".target").inner_text() and "1 rows" not in inside(page, ".view").inner_text()
