"""The three views as documents, in Chromium: offline, safe, readable without scripts, alive with them."""

import random

import polars as pl
import pytest
from pages import fits

from mlwb.core.messages import msg
from mlwb.show.drift import drift
from mlwb.show.explore import explore

EVIL = "<img src=x onerror=alert(1)>"
SCRIPT = "</script></style></template><script>alert(2)</script>"


def sea(mean=14., ports=("부산", "Mokpo", EVIL), n=500, seed=0):
    rng = random.Random(seed)
    port = [rng.choice(ports) for _ in range(n)]
    temp = [rng.gauss(mean, 4) for _ in range(n)]
    return pl.DataFrame({"수온(°C)": temp, "salinity": [rng.gauss(33, 1) if rng.random() < .8 else None for _ in range(n)], "port": port, EVIL: port[::-1],
                         "depth_m": [rng.randint(5, 90) for _ in range(n)], SCRIPT: [SCRIPT, *port[1:]],
                         "caught": [t + rng.gauss(0, 3) > 15 for t in temp]})


def explanation():
    """A small explanation, made by hand."""
    from mlwb.model.explain import Attribution, Explanation, Row
    rng, names = random.Random(0), ["수온(°C)", "port", EVIL, "depth_m"]
    columns = []
    for i, name in enumerate(names):
        size = .8 / (i + 1)
        if name == "port":
            points = [[rng.choice(["부산", EVIL]), rng.gauss(0, size)] for _ in range(60)]
            bins = [dict(label=s, low=None, high=None, n=30, mean=m, q10=m - .1, q90=m + .1) for s, m in (("부산", .2), (EVIL, -.2))]
        else:
            points = [[None if k % 9 == 0 else (x := rng.gauss(14, 4)), size * (0 if k % 9 == 0 else x - 14) / 4] for k in range(90)]
            bins = [dict(label=f"{a} – {a + 4}", low=float(a), high=a + 4., n=20, mean=(m := size * (a - 12) / 4), q10=m - .1, q90=m + .1)
                    for a in (6, 10, 14, 18)]
        columns.append(Attribution(name, "category" if name == "port" else "number", size, points, bins))
    rows = [Row(str(i), .1 * i, i % 2, {n: f"{n} {i}" for n in names}, {n: rng.gauss(0, 1) for n in names}) for i in range(8)]
    return Explanation("boosting " + EVIL, "TreeSHAP", True, "log-odds", 500, 200, -1.1, "caught", "classification", columns, rows)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """kind -> a saved document."""
    from mlwb.show.views import view
    folder = tmp_path_factory.mktemp("views")
    views = {"profile": explore(sea(), target="caught", name=f"sea {EVIL}"), "drift": drift(sea(), sea(19., ("부산", "Mokpo", EVIL, "제주"), seed=1)),
             "explanation": view(explanation())}
    for v in views.values(): v.data = None
    return {kind: v.save(folder / f"{kind}.html") for kind, v in views.items()}


KINDS = ["profile", "drift", "explanation"]


def inside(page, css): return page.locator(f"mlwb-view >> css={css}")
def selection(page): return page.evaluate("() => window.chosen")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_a_document_asks_nobody_and_fits(documents, open_page, kind, scheme, width):
    page = open_page(documents[kind], width=width, scheme=scheme)
    fits(page, documents[kind], scheme, width, "summary, .facts, .banner, h3, .tools")
    assert inside(page, "svg.fig").count() > 3 and "onerror" in page.content()


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_figures_do_not_overlap(documents, open_page, kind):
    page = open_page(documents[kind])
    for e in inside(page, "details").all(): e.evaluate("e => e.open = true")
    clashes = page.evaluate("""() => [...document.querySelector('mlwb-view').shadowRoot.querySelectorAll('svg.fig')].flatMap(svg => {
        const t = [...svg.querySelectorAll('text:not([transform])')].map(e => [e.textContent, e.getBoundingClientRect()]).filter(([s, b]) => b.width);
        const clash = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3;
        return t.flatMap(([s, a], i) => t.slice(i + 1).filter(([u, b]) => clash(a, b))
            .map(([u]) => svg.getAttribute('aria-label') + ': ' + s + ' / ' + u)); })""")
    assert not clashes


@pytest.mark.parametrize("kind,words", [("profile", ["500", "수온(°C)", "Alerts"]), ("drift", ["columns drift", "제주"]),
                                        ("explanation", ["boosting", "exact", "−1.1"])])
def test_without_scripts_verdict_tables_and_charts_are_there(documents, open_page, kind, words):
    page = open_page(documents[kind], scripts=False)
    inside(page, "[data-list=columns] > details:not([open]) > summary").first.click()
    text = inside(page, ".view").inner_text()
    assert all(w in text for w in words) and inside(page, "[data-list=columns] > details[open] svg.fig:visible").count() >= 1
    assert not inside(page, "input:visible, .chips:visible, form:visible").count()


@pytest.mark.parametrize("kind", KINDS)
def test_a_viewer_that_drops_what_it_does_not_know_shows_a_sentence_and_a_table(documents, open_page, kind, tmp_path):
    import re
    plain = re.sub(r"<template.*</template>", "", documents[kind].read_text(), flags=re.S)
    (tmp_path / "plain.html").write_text(plain)
    page = open_page(tmp_path / "plain.html", scripts=False)
    assert page.locator("mlwb-view table tr").count() >= 4 and len(page.locator("mlwb-view p").last.inner_text()) > 15


@pytest.mark.parametrize("kind", KINDS)
def test_a_click_selects_opens_and_tells(documents, open_page, kind):
    page = open_page(documents[kind])
    page.evaluate("document.addEventListener('mlwb-select', (e) => { window.chosen = e.detail; })")
    row = inside(page, "[data-list=columns] > details[data-item='depth_m']")
    row.locator("summary").click()
    assert selection(page) == {"column": "depth_m"} and row.get_attribute("open") is not None and row.get_attribute("data-selected") is not None
    row.locator("summary").click()
    assert selection(page) == {} and row.get_attribute("open") is None
    if kind == "explanation":
        inside(page, "[data-list=rows] > details[data-item='3'] > summary").click()
        assert selection(page) == {"row": "3"}


def test_the_keyboard_walks_and_opens(documents, open_page):
    page = open_page(documents["drift"])
    page.evaluate("document.addEventListener('mlwb-select', (e) => { window.chosen = e.detail; })")
    items = inside(page, "[data-list=columns] > details")
    items.nth(0).locator("summary").focus()
    for _ in range(2): page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert items.nth(2).get_attribute("open") is not None and selection(page) == {"column": items.nth(2).get_attribute("data-item")}
    page.keyboard.press("End")
    last = "(root) => root.activeElement.parentElement === root.querySelector('[data-list]').lastElementChild"
    assert page.evaluate(f"({last})(document.activeElement.shadowRoot)")
    outline = page.evaluate("getComputedStyle(document.activeElement.shadowRoot.activeElement).outlineStyle")
    assert outline == "solid"


def test_paper_shows_everything(documents, open_page):
    page = open_page(documents["drift"], scripts=False)
    page.emulate_media(media="print")
    assert inside(page, "[data-list=columns] svg.fig").evaluate_all("(es) => es.every(e => e.getBoundingClientRect().height > 20)")
    assert len(page.pdf()) > 20_000


# WCAG AA: texts of a view whose contrast with their background is too low
CONTRAST = """() => { const root = document.querySelector('mlwb-view').shadowRoot;
  const lin = (c) => { c /= 255; return c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4; };
  const L = (s) => { const [r, g, b] = s.match(/[\\d.]+/g).map(Number); return .2126 * lin(r) + .7152 * lin(g) + .0722 * lin(b); };
  const ground = (e) => {
    for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c) && c !== 'transparent') return c; }
    return getComputedStyle(root.querySelector('.view')).backgroundColor; };
  const out = []; for (const e of root.querySelectorAll('.view *')) {
    if (e.closest('svg') || ![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const a = L(getComputedStyle(e).color), b = L(ground(e)), ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) out.push([e.className, e.textContent.slice(0, 30), ratio]); } return out; }"""


def test_contrast(documents, open_page):
    for kind in KINDS:
        for scheme in ("light", "dark"): assert not open_page(documents[kind], scheme=scheme).evaluate(CONTRAST)


def test_fifty_columns_of_a_drift_fit_in_a_megabyte(tmp_path):
    rng = random.Random(0)
    n = 3000
    wide = {f"number_{i}": [rng.gauss(0, 1) ** 3 for _ in range(n)] for i in range(25)}
    df = pl.DataFrame(wide | {f"word_{i}": [rng.choice([f"category number {k}" for k in range(30)]) for _ in range(n)] for i in range(25)})
    assert drift(df, df.sample(fraction=.5, seed=1)).save(tmp_path / "drift.html").stat().st_size <= 1_000_000


def test_a_page_holds_many_views_and_one_script(documents, open_page, tmp_path):
    from mlwb.show.views import page as make
    from mlwb.show.views import view
    views = [explore(sea(), target="caught"), view(explanation())]
    (tmp_path / "many.html").write_text(make([v.html() for v in views], msg("Two views")))
    page = open_page(tmp_path / "many.html")
    assert page.content().count("<script") == 1 and not page.errors
    hosts = page.locator("mlwb-view")
    assert hosts.count() == 2
    hosts.nth(1).locator("input[type=search]").first.fill("port")
    assert [hosts.nth(i).locator("[data-list=columns] > details:visible").count() for i in (0, 1)] == [7, 1]


@pytest.mark.parametrize("form", ["fragment", "output"])
def test_html_put_in_by_a_script_is_upgraded(open_page, tmp_path, form):
    """As notebook front ends do it: the HTML by innerHTML, then its script."""
    from mlwb.show.views import asset
    v = explore(sea(), target="caught")
    html = str(v.html()) if form == "fragment" else v._repr_mimebundle_()["text/html"]
    (tmp_path / "host.html").write_text("<!doctype html><meta charset=utf-8><body data-jp-theme-light=false><div id=out></div>")
    page = open_page(tmp_path / "host.html")
    page.evaluate("(html) => { document.getElementById('out').innerHTML = html; }", html)
    assert page.locator("mlwb-view table").first.is_visible()
    page.add_script_tag(content=str(asset("view.js")), type="module")
    inside(page, ".view.live-js").wait_for()
    assert inside(page, "[data-list=columns] > details").count() == 7 and page.locator("mlwb-view").get_attribute("data-theme") == "dark"
    assert not page.dialogs and not page.errors
