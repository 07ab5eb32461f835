"""The three views in JupyterLab: what a reader clicks is what the kernel holds, and the other way round."""


import nbformat
import pytest
from pages import soon

CELLS = ["""
import random
import mlwb, polars as pl
rng = random.Random(0)
def sea(mean, n=400):
    temp = [rng.gauss(mean, 4) for _ in range(n)]
    return pl.DataFrame({"temp": temp, "salinity": [rng.gauss(33, 1) for _ in range(n)], "port": [rng.choice(["부산", "Mokpo"]) for _ in range(n)],
                         "caught": [t + rng.gauss(0, 3) > 15 for t in temp]})
spring, summer = sea(14), sea(19)
p = mlwb.explore(spring, target="caught", name="spring")
p
""", """
d = mlwb.drift(spring, summer)
d
""", """
from sklearn.linear_model import LogisticRegression
X, y = spring[["temp", "salinity"]].to_pandas(), spring["caught"].to_pandas()
e = mlwb.explain(LogisticRegression().fit(X, y), X)
e
"""]


@pytest.fixture(scope="module")
def notebook(run_in_lab):
    """A notebook with the three views, and a client of its kernel."""
    with run_in_lab("views.ipynb", CELLS) as found: yield found


def output(page, i): return page.locator(".jp-Cell").nth(i).locator(".jp-OutputArea-output mlwb-view")
def row(page, i, name, part="columns"): return output(page, i).locator(f"[data-list={part}] > details[data-item='{name}']")


@pytest.mark.parametrize("i,name,var", [(0, "salinity", "p"), (1, "port", "d"), (2, "salinity", "e")])
def test_a_click_reaches_the_kernel(notebook, i, name, var):
    page, kernel = notebook
    kernel.execute_interactive(f"{var}.selection = {{}}; seen = []; {var}.observe(seen.append)")
    row(page, i, name).locator("summary").click()
    soon(lambda: kernel.value(f"{var}.selection"), {"column": name})
    soon(lambda: kernel.value("seen"), [{"column": name}])


def test_a_row_of_the_explanation_reaches_the_kernel(notebook):
    page, kernel = notebook
    item = output(page, 2).locator("[data-list=rows] > details").nth(1)
    item.locator("summary").click()
    soon(lambda: kernel.value("e.selection.get('row')"), item.get_attribute("data-item"))


@pytest.mark.parametrize("i,var", [(0, "p"), (1, "d"), (2, "e")])
def test_the_kernel_selects_in_the_view(notebook, i, var):
    page, kernel = notebook
    kernel.execute_interactive(f"{var}.selection = {{'column': 'temp'}}")
    soon(lambda: row(page, i, "temp").get_attribute("data-selected"), "")
    assert row(page, i, "temp").get_attribute("open") is not None


def test_finer_bins_are_drawn_by_the_kernel(notebook):
    page, kernel = notebook
    kernel.execute_interactive("d.selection = {'column': 'temp'}")
    row(page, 1, "temp").locator("form button").click()
    row(page, 1, "temp").locator(".answer svg").wait_for(timeout=20_000)


def test_another_row_is_explained_by_the_kernel(notebook):
    page, kernel = notebook
    form = output(page, 2).locator("form[data-ask*=row]")
    form.locator("input").fill("17")
    form.locator("button").click()
    output(page, 2).locator(".answer svg").first.wait_for(timeout=60_000)


def test_typing_in_a_view_is_no_shortcut_of_the_notebook(notebook):
    page, kernel = notebook
    search = output(page, 0).locator("input[type=search]").first
    search.click()
    page.keyboard.type("ddaabxx")
    assert search.input_value() == "ddaabxx" and page.locator(".jp-Cell").count() == 3
    search.fill("")


def test_the_theme_of_jupyter_holds(notebook):
    page, kernel = notebook
    assert output(page, 0).get_attribute("data-theme") == "light"
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    soon(lambda: output(page, 0).get_attribute("data-theme"), "dark", 5)
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")


def test_a_saved_notebook_that_is_not_trusted_shows_a_sentence_and_a_table(lab, browser):
    import polars as pl

    from mlwb.show.explore import explore
    view = explore(pl.DataFrame({"temp": [1.5, 2, 3, None] * 30, "port": ["<b>a</b>", "b", "c", "d"] * 30}))
    output = nbformat.v4.new_output("execute_result", data=view._repr_mimebundle_(), execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("view", outputs=[output], execution_count=1)]), lab.folder / "untrusted.ipynb")
    page = browser.new_page()
    page.goto(lab.url("untrusted.ipynb"))
    shown = page.locator(".jp-OutputArea-output").first
    shown.locator("table").wait_for(timeout=120_000)
    text = shown.inner_text()
    assert "120 rows and 2 columns" in text and shown.locator("tr").count() == 3 and "u003c" not in text and "{" not in text
    page.close()
