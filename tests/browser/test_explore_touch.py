"""The profile on a touch screen, where a tap selects and a stroke scrolls, and for readers who asked for less motion."""

import random

import polars as pl
import pytest

from mlwb.show.explore import explore
from mlwb.show.views import asset, inner

MODEL = """(html) => {                       // what anywidget hands to `render`: traits, and who wants to know of their changes
    const data = { html, selection: {}, question: {}, answer: {} }, told = {};
    window.model = { data, get: (k) => data[k], save_changes: () => {}, off: () => {}, on: (name, f) => { (told[name] ??= []).push(f); },
        set: (k, v) => { data[k] = v; for (const f of told[`change:${k}`] ?? []) f(); } };
    render({ model, el: document.querySelector("main") }); }"""


@pytest.fixture(scope="module")
def table():
    rng = random.Random(0)
    return pl.DataFrame({"temp": [rng.gauss(14, 4) for _ in range(300)], "depth_m": [rng.randint(5, 44) for _ in range(300)],
                         "port": [rng.choice(["부산", "Mokpo", "Jeju"]) for _ in range(300)]})


@pytest.fixture
def touched(tmp_path, table, open_page):
    """The view with a kernel's part played by the test, on a touch screen: page, view."""
    view, path = explore(table, name="sea"), tmp_path / "touch.html"
    script = str(asset("view.js")).replace("export default { render };", "window.render = render;")
    head = "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    path.write_text(f"{head}<main></main><script type=module>{script}</script>", "utf-8")
    page = open_page(path, width=390, has_touch=True)
    page.wait_for_function("() => window.render !== undefined")
    page.evaluate(MODEL, str(inner(view, live=True)))
    yield page, view
    assert not page.errors


def inside(page, css): return page.locator(f"mlwb-view >> css={css}")
def item(page, name): return inside(page, f"[data-list=columns] > details[data-item='{name}']")


def answer(page, view):
    """What the kernel does with a selection: take it, and draw the view anew."""
    view.selection = page.evaluate("model.data.selection")
    page.evaluate("(html) => model.set('html', html)", str(inner(view, live=True)))
    return view.selection


def bar(page, name, i):
    """The middle of a bar on the screen."""
    svg = item(page, name).locator("svg[data-rows]").first
    svg.scroll_into_view_if_needed()
    return svg.evaluate("""(e, i) => { const [a, b, k] = ["from", "to", "bins"].map((x) => Number(e.dataset[x]));
        const p = new DOMPoint(a + (b - a) * (i + .5) / k, 90).matrixTransform(e.getScreenCTM()); return [p.x, p.y]; }""", i)


def test_taps_select_columns_values_and_bars(touched, table):
    page, view = touched
    item(page, "port").locator("summary").first.tap()
    item(page, "port").locator("[data-value='부산']").tap()
    assert answer(page, view) == {"column": "port", "rows": {"column": "port", "values": ["부산"]}} and view.rows().equals(table.filter(port="부산"))
    assert inside(page, ".picked li").count() == 1 and item(page, "port").get_attribute("open") is not None
    item(page, "temp").locator("summary").first.tap()
    h = view.result.column("temp").histogram
    page.touchscreen.tap(*bar(page, "temp", 7))
    both = answer(page, view)
    assert both["rows"][1] == {"column": "temp", "low": h.edges[7], "high": h.edges[8]}
    assert view.rows().equals(table.filter(pl.col("temp").is_between(h.edges[7], h.edges[8], "left"), port="부산"))
    page.touchscreen.tap(*bar(page, "temp", 7))      # once more takes it back
    assert answer(page, view)["rows"] == {"column": "port", "values": ["부산"]}
    inside(page, ".picked li button").first.tap()
    assert "rows" not in answer(page, view) and view.rows().height == 300


def test_a_stroke_over_a_chart_scrolls_and_selects_nothing(touched):
    page, _ = touched
    item(page, "temp").locator("summary").first.tap()
    x, y = bar(page, "temp", 7)
    before, finger = page.evaluate("scrollY"), page.context.new_cdp_session(page)
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for k in range(1, 9): finger.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x, "y": y - 20 * k}]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_function("(y) => scrollY !== y", arg=before, timeout=5000)
    assert page.evaluate("model.data.selection") == {"column": "temp"}


@pytest.mark.parametrize("motion, smooth", [("reduce", "auto"), ("no-preference", "smooth")])
def test_less_motion_where_it_is_asked_for(tmp_path, table, open_page, motion, smooth):
    path = explore(table.with_columns(same=pl.lit(1)), name="sea").save(tmp_path / "sea.html")
    page = open_page(path, reduced_motion=motion)
    page.evaluate("() => { Element.prototype.scrollIntoView = function (o) { (window.moved ??= []).push(o.behavior); }; }")
    inside(page, ".alerts [data-pick=column][data-value=same]").first.click()
    assert page.evaluate("window.moved") == [smooth]
    moving = inside(page, ".view").evaluate("""(view) => [view, ...view.querySelectorAll("*")]
        .flatMap((e) => [null, "::before", "::after"].map((p) => getComputedStyle(e, p)))
        .filter((s) => s.transitionDuration.split(", ").some((d) => d !== "0s") || s.animationName !== "none" || s.scrollBehavior === "smooth").length""")
    assert (moving == 0) == (motion == "reduce")
