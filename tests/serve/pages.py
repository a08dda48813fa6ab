"""What every page that is served has to be: its own, for everybody, on every screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_core_python

from tests.browsers import Window

AXE = next(Path(axe_core_python.__file__).parent.rglob("axe.min.js")).read_text(encoding="utf-8")


def opened(browser: Any, address: str) -> Iterator[Window]:
    """A page, freshly opened; at the end nothing may have gone wrong or out of the machine."""
    window = Window(browser, address)
    yield window
    assert window.complaints() == []
    here = address.split("/")[2]
    outside = [url for url in window.requests() if not url.startswith((f"http://{here}/", "data:", "blob:"))]
    assert outside == []


def barriers(window: Window) -> list[str]:
    """What axe-core finds, in the light and in the dark."""
    found = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        window.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        window.browser.execute_script(AXE)
        result = window.browser.execute_async_script(
            "const done = arguments[0]; axe.run(document).then(r => done(r.violations.map(v => "
            "v.id + ': ' + v.nodes.map(n => n.html).join(' | ').slice(0, 300))), e => done([String(e)]))"
        )
        found += [f"{scheme}: {each}" for each in result]
    window.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    return found


def width_on_a_small_screen(window: Window) -> int:
    """How wide the page is where 360 pixels are shown."""
    metrics = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    window.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        return window.js("document.documentElement.scrollWidth")
    finally:
        window.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def cut_off(window: Window) -> None:
    """From now on the server does not answer this page."""
    window.js("void (window.fetch = () => Promise.reject(new TypeError('gone')))")


def told(window: Window) -> tuple[str, str]:
    """What went wrong, once something did, and what the page says is going on."""
    problem = window.until(lambda: window.js("document.querySelector('#problem').textContent"), "it is told", 60)
    return problem, window.js("document.querySelector('#status').textContent")


def tab_to(window: Window, selector: str, most: int = 40) -> None:
    """Go to an element with the Tab key alone."""
    for _ in range(most):
        if window.js(f"document.activeElement.matches({selector!r})"):
            return
        window.press("\ue004")
    raise AssertionError(f"{selector} cannot be reached with the Tab key")
