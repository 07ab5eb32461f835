"""A schema reviewed in JupyterLab: a click accepts a value, the YAML changes, the validation passes; what was written meanwhile is never overwritten."""

import re

import pytest
from pages import soon

EVIL = "<img src=x onerror=alert(1)>"
TABLE = f'''
import polars as pl
EVIL = {EVIL!r}
N = pl.int_range(pl.len())
past = pl.DataFrame({{"port": ["Busan", "Mokpo"] * 200, "tons": [i % 37 + .5 for i in range(400)], EVIL: [i % 5 for i in range(400)]}})
now = past.with_columns(port=pl.when(N % 40 == 3).then(pl.lit(EVIL)).when(N % 50 == 4).then(pl.lit("Jeju")).otherwise("port"),
                        tons=pl.when(N == 9).then(999.0).otherwise("tons"))
'''
CELLS = [TABLE + '''
from pathlib import Path
import mlwb
from mlwb.data.schema import infer, save_schema
schema = infer(past)
schema["port"].severity = schema["tons"].severity = "error"
save_schema(schema, Path("schema.yaml"), "# agreed in March")
text = Path("schema.yaml").read_text().replace("  tons:", "  # the scale ends at 100\\n  tons:")
Path("schema.yaml").write_text(text)
v = mlwb.validate(now, "schema.yaml")
v
''', '''
fresh = mlwb.validate(past, keep := infer(past))
fresh.data.keep_at = Path("fresh.yaml").resolve()
fresh
''']


@pytest.fixture(scope="module")
def notebook(run_in_lab):
    """A table with planted anomalies, validated against a file; and a schema that has no file yet."""
    with run_in_lab("validation.ipynb", CELLS) as found: yield found


@pytest.fixture
def page(notebook, lab):
    """The page with the file and the view as they were in the beginning."""
    page, kernel = notebook
    kernel.execute_interactive("Path('schema.yaml').write_text(text); v.answer({'ask': 'again'}); v.said = ''\n"
                               "v._widget.html = str(__import__('mlwb.show.views').show.views.inner(v, live=True))")
    soon(lambda: names(page), ["port/domain/0", "tons/range/1"])
    soon(lambda: view(page).locator("[data-said]").count(), 0)
    yield page
    assert not page.errors


def view(page, i=0): return page.locator(".jp-Cell").nth(i).locator(".jp-OutputArea-output mlwb-view").first
def names(page): return view(page).locator("[data-list=found] > details").evaluate_all("es => es.map(e => e.dataset.item)")
def row(page, key): return view(page).locator(f"[data-list=found] > details[data-item='{key}']")
def said(page): return view(page).locator("[data-said]").inner_text() if view(page).locator("[data-said]").count() else ""
def yaml(lab): return (lab.folder / "schema.yaml").read_text(encoding="utf-8")


def opened(page, key):
    if row(page, key).get_attribute("open") is None: row(page, key).locator("summary").click()
    return row(page, key)


def test_a_click_changes_the_yaml_and_the_validation_passes(page, notebook, lab):
    _, kernel = notebook
    before = yaml(lab)
    assert "stopped" in view(page).locator(".banner").inner_text()
    opened(page, "port/domain/0").get_by_role("button", name="Accept Jeju").click()
    soon(lambda: said(page), "Accepted: port: domain: new Jeju (looser)")
    assert "Jeju" in yaml(lab) and EVIL not in yaml(lab).split("port:")[1].split("tons:")[0]
    assert "# agreed in March" in yaml(lab) and "# the scale ends at 100" in yaml(lab)
    opened(page, "port/domain/0").locator(".buttons button").click()
    soon(lambda: names(page), ["tons/range/0"])
    opened(page, "tons/range/0").get_by_role("button", name="Accept").click()
    soon(lambda: names(page), [])
    assert "fine" in view(page).locator(".banner").inner_text() and said(page).startswith("Accepted: tons: max:")
    assert kernel.value("mlwb.validate(now, 'schema.yaml').result.valid") and kernel.value("v.result.valid")
    assert kernel.value("[v.schema['port'].domain == sorted(['Busan', 'Mokpo', 'Jeju', EVIL]), v.schema['tons'].max]") == [True, 999]
    assert [line for line in before.splitlines() if "#" in line] == [line for line in yaml(lab).splitlines() if "#" in line]


def test_what_was_accepted_is_taken_back(page, lab):
    before = yaml(lab)
    opened(page, "port/domain/0").get_by_role("button", name="Accept all 2").click()
    soon(lambda: names(page), ["tons/range/0"])
    opened(page, "tons/range/0").get_by_role("button", name="Accept").click()
    soon(lambda: names(page), [])
    for left in (["tons/range/0"], ["port/domain/0", "tons/range/1"]):
        view(page).get_by_role("button", name="Take back").click()
        soon(lambda: names(page), left)
    assert yaml(lab) == before and said(page).startswith("Taken back: port") and not view(page).get_by_role("button", name="Take back").count()


def test_a_file_that_somebody_else_changed_is_not_overwritten(page, lab):
    changed = yaml(lab) + "# a colleague was here\n"
    (lab.folder / "schema.yaml").write_text(changed, encoding="utf-8")
    button = opened(page, "port/domain/0").get_by_role("button", name="Accept Jeju")
    button.click()
    failed = row(page, "port/domain/0").locator(".answer .failed")
    failed.wait_for(timeout=20_000)
    assert "schema.yaml has been changed since it was read" in failed.inner_text() and yaml(lab) == changed
    row(page, "port/domain/0").get_by_role("button", name="Read schema.yaml again").click()
    soon(lambda: said(page), "schema.yaml was read again.")
    opened(page, "port/domain/0").get_by_role("button", name="Accept Jeju").click()
    soon(lambda: said(page), "Accepted: port: domain: new Jeju (looser)")
    assert "Jeju" in yaml(lab) and "# a colleague was here" in yaml(lab)


def test_by_keyboard(page, lab):
    row(page, "tons/range/1").locator("summary").focus()
    page.keyboard.press("Enter")
    soon(lambda: row(page, "tons/range/1").get_attribute("open"), "")
    for _ in range(6):
        page.keyboard.press("Tab")
        if page.evaluate(ACTIVE) == "Accept": break
    page.keyboard.press("Enter")
    soon(lambda: names(page), ["port/domain/0"])
    soon(lambda: page.evaluate(ACTIVE), "Take back")  # the way back is where the reader is
    page.keyboard.press("Space")
    soon(lambda: names(page), ["port/domain/0", "tons/range/1"])
    assert "max: 73.0" in yaml(lab)


ACTIVE = "(() => { let e = document.activeElement; while (e?.shadowRoot) e = e.shadowRoot.activeElement; return e?.textContent?.trim(); })()"


def test_hostile_names_and_values_are_text(page):
    dialogs = []
    page.on("dialog", lambda d: (dialogs.append(d.message), d.dismiss()))
    opened(page, "port/domain/0")
    shown = row(page, "port/domain/0")
    assert EVIL in shown.locator("table").first.inner_text() and shown.get_by_role("button", name=EVIL).is_visible()
    shown.get_by_role("button", name=EVIL).click()
    soon(lambda: EVIL in said(page), True)
    assert not dialogs and view(page).evaluate("e => e.shadowRoot.querySelectorAll('img, script').length") == 0


def test_a_schema_without_a_file_is_kept_first(notebook, lab):
    page, kernel = notebook
    assert not (lab.folder / "fresh.yaml").exists()
    view(page, 1).get_by_role("button", name="Write fresh.yaml").click()
    soon(lambda: (view(page, 1).locator("[data-said]").all_inner_texts() or [""])[0], "The schema is kept in fresh.yaml.")
    assert re.search(r"^columns:$", (lab.folder / "fresh.yaml").read_text(encoding="utf-8"), re.M) and kernel.value("fresh.schema == keep")
