"""How long the search page takes from an input to the next frame (INP, promise U2), in Chromium under a slow CPU.

    crsearch serve runs/demo &
    python benchmarks/page.py http://127.0.0.1:8000

Every kind of input is made a few times: typing, Enter, choosing a user, modes, filters, setting events aside, judging.
The browser's event timing tells each one's duration, to 8 ms; INP is the longest, since there are fewer than 50.
"""

import argparse
import json
import os
import shutil
from typing import Any

from playwright.sync_api import Page, sync_playwright

THROTTLE = 4
"""Times slower than this machine's CPU."""
LONGEST_WAIT = 30_000
OBSERVE = """
window.__inputs = [];
new PerformanceObserver((list) => {
  for (const e of list.getEntries()) if (e.interactionId)
    window.__inputs.push([e.interactionId, e.name, e.duration, e.processingStart - e.startTime,
      e.processingEnd - e.processingStart]);
}).observe({ type: "event", durationThreshold: 16, buffered: true });
"""


def inputs(page: Page) -> None:
    """Use the page as somebody does who looks for something."""
    for query in ("case", "kettle"):
        page.fill("#q", "")
        page.click("#q")
        page.keyboard.type(query, delay=120)
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_selector(".card", timeout=LONGEST_WAIT)
        page.wait_for_timeout(2_500)  # the thought, and the order after it
    for selector in ("input[name=user] >> nth=1", "input[name=mode] >> nth=2", "input[name=mode] >> nth=0", "#cold"):
        page.locator(selector).click(force=True)
        page.wait_for_timeout(2_000)
    page.locator("#cold").click(force=True)
    page.wait_for_timeout(1_500)
    for selector in (
        "[data-drop] >> nth=0",
        "[data-back] >> nth=0",
        ".card .judge button >> nth=0",
        "[data-sid] >> nth=0",
    ):
        if page.locator(selector).count():
            page.locator(selector).click()
            page.wait_for_timeout(2_000)


def measure(url: str, chromium: str) -> dict[str, Any]:
    """INP, and the longest inputs by kind."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 412, "height": 915})
        page.add_init_script(OBSERVE)
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": THROTTLE})
        page.goto(url)
        page.wait_for_selector("html:not(.plain)", state="attached", timeout=LONGEST_WAIT)
        inputs(page)
        page.wait_for_timeout(500)
        seen = page.evaluate("window.__inputs")
        browser.close()
    longest: dict[int, list[Any]] = {}
    for one in seen:
        if one[0] not in longest or longest[one[0]][2] < one[2]:
            longest[one[0]] = one
    order = sorted(longest.values(), key=lambda one: -one[2])
    worst = [{"event": e, "ms": ms, "delay_ms": round(d), "work_ms": round(w)} for _, e, ms, d, w in order[:5]]
    return {"throttle": THROTTLE, "inputs_of_16_ms_and_more": len(order), "inp_ms": order[0][2] if order else 0,
            "worst": worst, "load": os.getloadavg()[0]}  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--chromium", default=os.environ.get("CRSEARCH_CHROMIUM") or shutil.which("chromium"))
    given = parser.parse_args()
    print(json.dumps(measure(given.url, given.chromium), indent=2))
