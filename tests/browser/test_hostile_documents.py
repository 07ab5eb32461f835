"""The hostile tables as documents in Chromium: nothing of the data runs, nothing is asked of any host, no document is blank."""

import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
import hostile  # noqa: E402

from mlwb.show.explore import explore  # noqa: E402

SHOWN = ["markup_in_names", "markup_in_values", "names_like_code", "unicode_names", "unicode_values", "korean_values", "lone_surrogates", "very_long_name",
         "no_row", "one_row", "all_null", "mixed_types", "one_huge_text", "old_and_far_dates", "infinities", "objects"]


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize("scripts", [True, False])
def test_it_is_data_and_stays_data(name, scripts, open_page, tmp_path):
    df = hostile.TABLES[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explore(df).save(tmp_path / "page.html")
    page = open_page(tmp_path / "page.html", scripts=scripts)
    rows = page.locator("mlwb-view >> css=[data-list=columns] > details")
    assert rows.count() == df.shape[1] and rows.first.inner_text().strip()
    for i in range(min(3, df.shape[1])): rows.nth(i).locator("> summary").click(position={"x": 5, "y": 5})
    if scripts: assert page.evaluate(f"() => window.{hostile.MARK}") is None
    assert not page.dialogs and not page.errors and all(u.startswith(("file:", "data:")) for u in page.requests)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth") if scripts else True
