"""The picture of a report: the page of a run, as a headless Chromium shows it.

    python examples/gsm8k.py --out RUN && grpojax report RUN
    python docs/pictures.py RUN/report.html docs/images/report.png

Its licence is the repository's, Apache-2.0: the page, the run and the model are ours.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright


BROWSERS = "chromium-headless-shell", "chromium", "google-chrome"
# What is between the verdict and the curves is left out.
BETWEEN = """
    let node = document.querySelector("h2")
    while (node && node.id !== "curves") {
        node.style.display = "none"
        node = node.nextElementSibling
    }
"""
BOTTOM = "document.querySelector('#panel-reward').getBoundingClientRect().bottom"


def main(page: str, picture: str) -> None:
    """Writes the verdict and the first curves of the page, 880 pixels wide."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox"]
        )
        shown = browser.new_page(viewport={"width": 880, "height": 1200})
        shown.goto(Path(page).resolve().as_uri())
        shown.evaluate(BETWEEN)
        height = shown.evaluate(BOTTOM)
        clip = {"x": 0, "y": 0, "width": 880, "height": height + 16}
        shown.screenshot(path=picture, clip=clip)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
