"""The profile in JupyterLab: rows, two columns and types chosen in the page are chosen in the kernel, and described again there."""


import polars as pl
import pytest
from pages import soon

TABLE = """
import random
import polars as pl
rng = random.Random(0)
n = 600
temp = [rng.gauss(14, 4) for _ in range(n)]
sea = pl.DataFrame({"temp": temp, "depth_m": [rng.randint(5, 44) for _ in range(n)], "port": [rng.choice(["부산", "Mokpo", "<b>Jeju</b>"]) for _ in range(n)],
                    "salinity": [rng.gauss(33, 1) if rng.random() < .9 else None for _ in range(n)], "code": [str(i % 12) for i in range(n)],
                    "day": [f"2024-{1 + i % 12:02d}-{1 + i % 28:02d}" for i in range(n)], "caught": [t + rng.gauss(0, 3) > 15 for t in temp]})
sea = sea.with_columns(pl.col("day").str.to_date())
"""
CELLS = [TABLE + "\nimport mlwb\np = mlwb.explore(sea, target='caught', name='sea', time='day')\np"]


@pytest.fixture(scope="module")
def sea():
    """The table as the notebook makes it."""
    names = {}
    exec(TABLE, names)
    return names["sea"]


@pytest.fixture(scope="module")
def opened(run_in_lab):
    """The view in JupyterLab, and a client of its kernel."""
    with run_in_lab("explore.ipynb", CELLS) as found: yield found


@pytest.fixture
def notebook(opened):
    """The same, with nothing selected."""
    page, kernel = opened
    kernel.execute_interactive("p.selection = {}", silent=True)
    soon(lambda: inside(page, ".picked").count(), 0)
    yield page, kernel
    assert not page.errors


def inside(page, css): return page.locator(f".jp-OutputArea-output mlwb-view >> css={css}")
def item(page, name): return inside(page, f"[data-list=columns] > details[data-item='{name}']")
def rows(page): return " ".join(inside(page, "[data-said]").all_inner_texts())  # empty where all are looked at


def open_item(page, name):
    row = item(page, name)
    if row.get_attribute("open") is None: row.locator("summary").first.click()
    return row


def test_a_value_selects_its_rows_and_all_columns_are_described_from_them(notebook, sea):
    page, kernel = notebook
    open_item(page, "port").locator("[data-value='부산']").click()
    mine = sea.filter(port="부산")
    soon(lambda: rows(page).split(" (")[0], f"{mine.height} of 600 rows {mine.height / 6:.1f}%")
    soon(lambda: kernel.value("p.selection"), {"column": "port", "rows": {"column": "port", "values": ["부산"]}})
    assert kernel.value("p.rows().equals(sea.filter(port='부산'))") is True
    q = kernel.value("[p.subset.profile.column('temp').quantiles[k] for k in ('min', '0.5', 'max')]")
    assert q == pytest.approx([mine["temp"].min(), mine["temp"].median(), mine["temp"].max()])
    assert kernel.value("sum(p.subset.counts['temp'].bins)") == mine.height
    facts = inside(page, ".facts").inner_text()
    assert str(mine.height) in facts and "600" not in facts
    assert open_item(page, "temp").locator("svg .ghost").count() == 1
    assert "of all rows" in item(page, "temp").locator("svg[data-rows] rect title").first.text_content()
    assert item(page, "port").locator("[data-value='부산']").get_attribute("aria-selected") == "true"
    assert item(page, "port").get_attribute("open") is not None


def test_conditions_stack_and_are_taken_back_one_by_one(notebook, sea):
    page, kernel = notebook
    kernel.execute_interactive("p.selection = {'rows': [{'column': 'port', 'values': ['부산', 'Mokpo']}, {'column': 'temp', 'low': 14}]}", silent=True)
    both = sea.filter(pl.col("port").is_in(["부산", "Mokpo"]) & (pl.col("temp") >= 14))
    soon(lambda: rows(page).split(" of")[0], str(both.height))
    chips = inside(page, ".picked li button")
    assert chips.all_inner_texts() == ["port 부산, Mokpo×", "temp ≥ 14×"]
    chips.nth(0).click()
    soon(lambda: rows(page).split(" of")[0], str(sea.filter(pl.col("temp") >= 14).height))
    soon(lambda: kernel.value("p.selection"), {"rows": {"column": "temp", "low": 14}})
    inside(page, ".picked > button").click()
    soon(lambda: inside(page, ".picked").count(), 0)
    soon(lambda: kernel.value("(p.selection, p.rows().height, p.subset is None)"), [{}, 600, True])


def bar_at(page, name, i, k):
    """The middle of the i-th of k bins on the screen."""
    svg = item(page, name).locator("svg[data-rows]").first
    svg.scroll_into_view_if_needed()
    return svg.evaluate("""(e, [i, k]) => { const m = e.getScreenCTM(), [a, b] = [Number(e.dataset.from), Number(e.dataset.to)];
        const p = new DOMPoint(a + (b - a) * (i + .5) / k, 60).matrixTransform(m); return [p.x, p.y]; }""", [i, k])


def test_bars_are_clicked_dragged_over_and_extended(notebook, sea):
    page, kernel = notebook
    open_item(page, "temp")
    edges = kernel.value("p.result.column('temp').histogram.edges")
    counts = kernel.value("p.result.column('temp').histogram.counts")
    k = len(counts)
    page.mouse.click(*bar_at(page, "temp", 10, k))
    soon(lambda: kernel.value("p.selection.get('rows')"), {"column": "temp", "low": edges[10], "high": edges[11]})
    soon(lambda: rows(page).split(" of")[0], str(counts[10]))
    assert kernel.value("p.rows().height") == counts[10] == sea.filter(pl.col("temp").is_between(edges[10], edges[11], "left")).height
    page.keyboard.down("Shift"); page.mouse.click(*bar_at(page, "temp", 13, k)); page.keyboard.up("Shift")
    soon(lambda: kernel.value("p.selection.get('rows')"), {"column": "temp", "low": edges[10], "high": edges[14]})
    soon(lambda: rows(page).split(" of")[0], str(sum(counts[10:14])))
    page.mouse.move(*bar_at(page, "temp", 5, k)); page.mouse.down(); page.mouse.move(*bar_at(page, "temp", 7, k)); page.mouse.move(*bar_at(page, "temp", 9, k))
    assert item(page, "temp").locator(".brush").count() == 1
    page.mouse.up()
    soon(lambda: kernel.value("p.selection.get('rows')"), {"column": "temp", "low": edges[5], "high": edges[10]})
    soon(lambda: rows(page).split(" of")[0], str(sum(counts[5:10])))
    page.mouse.click(*bar_at(page, "temp", k - 1, k))
    soon(lambda: kernel.value("(p.selection.get('rows'), p.rows().height)"), [{"column": "temp", "low": edges[-2]}, counts[-1]])


def test_times_are_chosen_by_their_bars(notebook, sea):
    page, kernel = notebook
    open_item(page, "day")
    counts = kernel.value("p.result.column('day').histogram.counts")
    i = next(i for i, c in enumerate(counts) if c)
    page.mouse.click(*bar_at(page, "day", i, len(counts)))
    soon(lambda: kernel.value("p.selection != {} and p.selection.get('rows') is not None and p.rows().height"), counts[i])
    low, high = kernel.value("[p.selection['rows'][k] for k in ('low', 'high')]")
    assert sea.filter((pl.col("day") >= pl.lit(low).str.to_datetime()) & (pl.col("day") < pl.lit(high).str.to_datetime())).height == counts[i]


def test_the_missing_and_what_is_typed(notebook, sea):
    page, kernel = notebook
    open_item(page, "salinity").locator("[data-missing]").click()
    soon(lambda: kernel.value("p.selection.get('rows')"), {"column": "salinity", "values": [None]})
    assert kernel.value("p.rows().height") == sea["salinity"].null_count()
    kernel.execute_interactive("p.selection = {}", silent=True)
    soon(lambda: rows(page), "")
    form = open_item(page, "depth_m").locator("form[data-limit]")
    form.locator("[name=low]").fill("20"); form.locator("[name=high]").fill("30"); form.locator("button").first.click()
    soon(lambda: rows(page).split(" of")[0], str(sea.filter(pl.col("depth_m").is_between(20, 30, "left")).height))
    form = item(page, "depth_m").locator("form[data-limit]")
    form.locator("[name=low]").fill("deep"); form.locator("button").first.click()
    soon(lambda: "can't be compared with 'depth_m'" in inside(page, ".notice").inner_text(), True)
    soon(lambda: kernel.value("p.selection['rows']"), {"column": "depth_m", "low": 20, "high": 30})
    assert inside(page, ".view").get_attribute("aria-busy") is None and rows(page)


def test_two_columns_are_drawn_of_the_rows_that_are_selected(notebook, sea):
    page, kernel = notebook
    open_item(page, "temp").locator("form[data-against] input").fill("salinity")
    item(page, "temp").locator("form[data-against] button").click()
    soon(lambda: kernel.value("p.selection"), {"column": "temp", "other": "salinity"})
    n = sea["salinity"].count()
    item(page, "temp").locator(".two-columns svg circle").first.wait_for(timeout=20_000)
    assert f"{n} rows" in item(page, "temp").locator(".two-columns").inner_text() and item(page, "salinity").get_attribute("data-other") is not None
    kernel.execute_interactive("p.selection = {'column': 'temp', 'other': 'port', 'rows': {'column': 'caught', 'values': ['true']}}", silent=True)
    caught = sea["caught"].sum()
    soon(lambda: f"{caught} rows" in item(page, "temp").locator(".two-columns").inner_text(), True)
    kernel.execute_interactive("p.selection = {'column': 'temp'}", silent=True)
    soon(lambda: (inside(page, ".picked, .two-columns").count(), item(page, "temp").get_attribute("data-selected")), (0, ""))
    item(page, "depth_m").locator("summary").first.click(modifiers=["Shift"])
    soon(lambda: kernel.value("p.selection"), {"column": "temp", "other": "depth_m"})


def test_a_column_is_looked_at_as_another_type(notebook, sea):
    page, kernel = notebook
    assert open_item(page, "code").get_attribute("data-type") == "category" and item(page, "code").locator("svg[data-rows]").count() == 0
    item(page, "code").locator("select[data-as]").select_option("number")
    item(page, "code").locator("svg[data-rows]").wait_for(timeout=20_000)
    assert item(page, "code").get_attribute("open") is not None and "median" in item(page, "code").inner_text()
    assert kernel.value("p.context()['r'].column('code').stats['mean']") == pytest.approx(sea["code"].cast(float).mean())
    kernel.execute_interactive("p.selection = {'rows': {'column': 'code', 'low': 6}}", silent=True)
    soon(lambda: rows(page).split(" of")[0], str(sea.filter(pl.col("code").cast(int) >= 6).height))
    assert kernel.value("p.rows()['code'].to_list()") == [c for c in sea["code"].to_list() if int(c) >= 6]
    kernel.execute_interactive("p.selection = {}", silent=True)
    soon(lambda: inside(page, ".picked").count(), 0)
    open_item(page, "port").locator("select[data-as]").select_option("number")
    soon(lambda: "600 of 600 values of port are no numbers" in item(page, "port").inner_text(), True)
    assert item(page, "port").locator("select[data-as]").input_value() == "category"
    item(page, "code").locator("select[data-as]").select_option("category")
    soon(lambda: item(page, "code").locator("svg[data-rows]").count(), 0)


def test_what_was_typed_and_sorted_outlives_a_selection(notebook):
    page, kernel = notebook
    inside(page, "[data-sort=name]").click()
    inside(page, "[data-filter=type][data-value=number]").click()
    kernel.execute_interactive("p.selection = {'rows': {'column': 'caught', 'values': ['true']}}", silent=True)
    soon(lambda: inside(page, ".picked").count(), 1)
    shown = [n.split()[0] for n in inside(page, "[data-list=columns] > details:visible .name").all_inner_texts()]
    assert shown == ["salinity", "temp"] and inside(page, "[data-sort=name]").get_attribute("data-dir") == "up"
    inside(page, "[data-filter=type][data-value=number]").click()
    inside(page, "[data-sort=name]").click(); inside(page, "[data-sort=name]").click()


def test_all_of_it_by_keyboard(notebook, sea):
    page, kernel = notebook
    inside(page, "input[data-search]").focus()
    page.keyboard.type("port"); page.keyboard.press("Escape")
    item(page, "temp").locator("summary").first.focus()
    if item(page, "port").get_attribute("open") is not None: item(page, "port").locator("summary").first.click()
    item(page, "temp").locator("summary").first.focus()
    page.keyboard.press("ArrowDown"); page.keyboard.press("ArrowDown"); page.keyboard.press("Enter")
    soon(lambda: kernel.value("p.selection"), {"column": "port"})
    where = """() => { const e = document.querySelector('.jp-OutputArea-output mlwb-view').shadowRoot.activeElement;
        return [e.dataset.rows ?? '', e.getAttribute('role')]; }"""
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate(where) == ["port", "listbox"]: break
    assert page.evaluate(where) == ["port", "listbox"]
    page.keyboard.press("ArrowDown"); page.keyboard.press("ArrowDown")
    value = item(page, "port").locator("[data-active]").get_attribute("data-value")
    assert item(page, "port").locator("[data-rows]").get_attribute("aria-activedescendant") == item(page, "port").locator("[data-active]").get_attribute("id")
    page.keyboard.press("Enter")
    soon(lambda: kernel.value("p.selection.get('rows')"), {"column": "port", "values": [value]})
    soon(lambda: inside(page, ".picked").count(), 1)
    soon(lambda: inside(page, ".notice[role=status]").inner_text().split(" of")[0], str(sea.filter(port=value).height))
    assert page.evaluate(where) == ["port", "listbox"]  # the focus is where it was
    page.keyboard.press("Escape")
    soon(lambda: kernel.value("p.selection"), {"column": "port"})
    soon(lambda: inside(page, ".picked").count(), 0)
    page.keyboard.press("Escape")
    soon(lambda: kernel.value("p.selection"), {})


def test_a_selection_that_can_not_be_is_refused_in_the_cell(notebook):
    page, kernel = notebook
    reply = kernel.execute_interactive("p.selection = {'column': 'tmep'}", silent=True)
    assert reply["content"]["status"] == "error" and "temp" in reply["content"]["evalue"] and kernel.value("p.selection") == {}
