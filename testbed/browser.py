"""A real browser for tests: Debian's Chromium without a window, driven by Playwright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

__all__ = ["PATIENCE", "browser"]

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 180.0  # seconds that a page may take on a busy machine


@contextmanager
def browser() -> Iterator[Page]:
    """Open an empty page, as wide as a laptop's.

    Playwright's event loop runs in the calling thread, which may start no other loop meanwhile.
    """
    if not CHROMIUM.exists():
        raise RuntimeError("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, timeout=1000 * PATIENCE)
        page = chromium.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(1000 * PATIENCE)
        expect.set_options(timeout=1000 * PATIENCE)
        yield page
        chromium.close()
