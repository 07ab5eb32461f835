"""What the browser tests ask of every page."""

import time


def soon(fn, expected, seconds=30):
    """Wait until something has the expected value."""
    end = time.time() + seconds
    while (now := fn()) != expected and time.time() < end: time.sleep(.1)
    assert now == expected


def fits(page, path, scheme, width, parts):
    """A document asks no host for anything, runs nothing from the data, is in its scheme's colour, and no part is wider than its place."""
    assert page.requests == [f"file://{path}"] and not page.errors and not page.dialogs
    view = page.locator("mlwb-view")
    for e in view.locator("css=details").all(): e.evaluate("e => e.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not view.locator(f"css={parts}").evaluate_all("(es) => es.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)")
    assert page.evaluate("document.querySelector('mlwb-view').shadowRoot.querySelectorAll('img,script').length") == 0 and not page.dialogs
    color = page.evaluate("getComputedStyle(document.querySelector('mlwb-view').shadowRoot.querySelector('.view')).backgroundColor")
    assert (color == "rgb(255, 255, 255)") == (scheme == "light")
