"""Draws docs/images/report.png: an episode of a report, as Chromium shows it.

    genreward evaluate --env metaworld/pick-place --output runs/report
    python scripts/make_report_picture.py runs/report

It needs Chromium or Chrome.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parents[1] / "docs/images/report.png"
SIZE = {"width": 1280, "height": 1000}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Opens the page at one step of its first episode."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("report", type=Path, help="what genreward evaluate wrote")
    parser.add_argument("--step", default="90", help="the step of the episode")
    args = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as driver:
        # Without a sandbox, which containers do not offer.
        chromium = driver.chromium.launch(
            executable_path=browser, args=["--no-sandbox"]
        )
        tab = chromium.new_page(
            viewport=SIZE, color_scheme="light", reduced_motion="reduce"
        )
        tab.goto((args.report / "report.html").resolve().as_uri())
        tab.fill("#scrub", args.step)
        tab.evaluate("document.activeElement.blur()")
        tab.evaluate("document.getElementById('inspector').scrollIntoView()")
        # The sheets of frames are decoded after the page has loaded.
        tab.wait_for_timeout(1000)
        tab.screenshot(path=PICTURE)
        chromium.close()
    print(PICTURE)


if __name__ == "__main__":
    main()
