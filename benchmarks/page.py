"""How long the search page takes, in Chromium: from an input to the next frame under a slow CPU (INP, promise U2), and
from Enter to the first items and to the first word of the thought (promise U3).

    crsearch serve runs/demo &
    python benchmarks/page.py http://127.0.0.1:8000

Every kind of input is made a few times: typing, Enter, choosing a user, modes, filters, setting events aside, judging.
The browser's event timing tells each one's duration, to 8 ms; INP is the longest, since there are fewer than 50. For U3
queries are typed at the machine's own speed, each new to the server; the times are medians.
"""

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from statistics import median
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

THROTTLE = 4
"""Times slower than this machine's CPU."""
LONGEST_WAIT = 30_000
QUERIES = ("case", "kettle", "lamp", "phone", "shoes", "bag", "tea", "desk", "coat", "ring", "mat")
OBSERVE = """
window.__inputs = [];
new PerformanceObserver((list) => {
  for (const e of list.getEntries()) if (e.interactionId)
    window.__inputs.push([e.interactionId, e.name, e.duration, e.processingStart - e.startTime,
      e.processingEnd - e.processingStart]);
}).observe({ type: "event", durationThreshold: 16, buffered: true });
"""

FIRST = """
window.__first = {};
addEventListener("keydown", (e) => { if (e.key === "Enter") window.__first = { enter: performance.now() }; }, true);
new MutationObserver((changes) => {
  const first = window.__first, now = performance.now();
  const drawn = changes.some((c) => c.target.id === "answer" && [...c.addedNodes].some((n) => n.className === "head"));
  if (drawn && !first.items) first.items = now;
  const words = document.querySelector("#answer .thought bdi")?.textContent.trim();
  if (first.items && words && !first.word) first.word = now;
}).observe(document, { childList: true, subtree: true, characterData: true });
"""
"""Notes the first answer drawn after Enter, and the first word of its thought."""


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


def typed(page: Page, queries: Sequence[str]) -> dict[str, Any]:
    """Milliseconds from Enter to the first items and to the first word of the thought: medians and longest."""
    times: dict[str, list[float]] = {"items": [], "word": []}
    page.locator("input[name=mode][value=think]").click(force=True)
    for query in queries:
        page.fill("#q", query)
        page.keyboard.press("Enter")
        while "word" not in (seen := page.evaluate("window.__first")):
            page.wait_for_timeout(20)
        page.wait_for_timeout(1_000)  # the thought, to its end
        for name, own in times.items():
            own.append(seen[name] - seen["enter"])
    return {
        f"first_{name}": {"median_ms": round(median(own)), "longest_ms": round(max(own)), "queries": len(own)}
        for name, own in times.items()
    }


def measure(url: str, chromium: str) -> dict[str, Any]:
    """INP and the longest inputs by kind; first items and first word."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = opened(browser, url, FIRST)
        first = typed(page, QUERIES)
        page.close()
        page = opened(browser, url, OBSERVE)
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": THROTTLE})
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
    inp = {"throttle": THROTTLE, "inputs_of_16_ms_and_more": len(order), "inp_ms": order[0][2] if order else 0}
    return {**first, **inp, "worst": worst, "load": os.getloadavg()[0]}


def opened(browser: Browser, url: str, script: str) -> Page:
    """The page, with a script that watches it from its beginning."""
    page = browser.new_page(viewport={"width": 412, "height": 915})
    page.add_init_script(script)
    page.goto(url)
    page.wait_for_selector("html:not(.plain)", state="attached", timeout=LONGEST_WAIT)
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--chromium", default=os.environ.get("CRSEARCH_CHROMIUM") or shutil.which("chromium"))
    given = parser.parse_args()
    print(json.dumps(measure(given.url, given.chromium), indent=2))
