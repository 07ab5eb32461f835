"""Stage notebooks by hand: `mlwb lab`, open, Run All Cells."""

import pytest


@pytest.fixture
def run_all(project_lab, browser):
    """Open a stage notebook of a fresh project in JupyterLab and run it by the menu; returns the page when the kernel has come to rest."""
    contexts = []

    def go(name):
        context = browser.new_context(viewport={"width": 1440, "height": 1000})
        contexts.append(context)
        page = context.new_page()
        page.goto(project_lab.url(f"notebooks/stages/{name}"))
        page.locator(".jp-Notebook").wait_for(timeout=120_000)
        page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for(timeout=120_000)
        page.get_by_text("Run", exact=True).first.click()
        page.locator("[data-command='runmenu:run-all']").click()
        return page
    yield go
    for c in contexts: c.close()


def test_run_all_cells_ends_with_the_verdict(run_all, project_lab):
    page = run_all("00_frame.ipynb")
    page.get_by_text("✓ frame:").wait_for(timeout=120_000)
    page.locator(".jp-OutputArea-output mlwb-view").first.wait_for()
    page = run_all("10_extract.ipynb")
    page.get_by_text("✓ extract:").wait_for(timeout=120_000)
    page = run_all("30_explore.ipynb")
    page.get_by_text("✓ explore:").wait_for(timeout=120_000)
    page.locator(".jp-OutputArea-output mlwb-view .view.live").first.wait_for(timeout=60_000)
    assert (project_lab.folder / "workspace" / "runs" / "draft" / "stages" / "explore.json").is_file()


def test_a_schema_is_kept_from_the_stage_by_hand(run_all, project_lab):
    for name in ("00_frame", "10_extract"): run_all(f"{name}.ipynb").get_by_text(f"✓ {name[3:]}:").wait_for(timeout=120_000)
    page = run_all("20_validate.ipynb")
    page.get_by_text("✓ validate:").wait_for(timeout=120_000)
    view = page.locator(".jp-OutputArea-output mlwb-view").first
    view.get_by_role("button", name="Write schema.yaml").click()
    view.get_by_text("The schema is kept in schema.yaml.").wait_for(timeout=60_000)
    kept = project_lab.folder / "schema.yaml"
    assert "bought:" in kept.read_text(encoding="utf-8")
    kept.unlink(); kept.with_name("schema.profile.json").unlink()


def test_a_stage_too_early_says_what_to_run_first(run_all):
    page = run_all("60_evaluate.ipynb")
    page.get_by_text("Run 50_train.ipynb first").first.wait_for(timeout=120_000)
