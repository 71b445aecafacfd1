"""The page in a headless Chromium: draws, filters and pages, and asks for nothing."""

import json
import shutil

import pytest

from grpojax.runs.reports import write, write_report

from .fixtures import prompt_record, write_lines, write_run


HOSTILE = "</script><img src=x onerror=window.harmed=1><b>bold</b>"

# Where the system may keep one; otherwise playwright's own is tried.
BROWSERS = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright drives the browser: install it"
    )
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(
                executable_path=found, args=["--no-sandbox"]
            )
        except sync_api.Error:
            pytest.skip("there is no Chromium: `playwright install chromium` gets one")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("page") / "run")
    lines = [
        json.loads(x) for x in (run / "completions.jsonl").read_text().splitlines()
    ]
    lines[0]["prompt"] = HOSTILE
    lines[0]["samples"][0] |= {"text": HOSTILE, "pieces": [HOSTILE], "log_prob": [-1.0]}
    lines[0]["samples"][0] |= {"sampled": [True]}
    write_lines(run / "completions.jsonl", lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "plot", lambda panel: panel.name.encode())
        return write_report([run]).with_suffix(".html")


@pytest.fixture
def opened(browser, report):
    """The page, opened; afterwards it must have asked for nothing, and not failed."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(30_000)
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(report.as_uri())
    page.wait_for_selector("#curves svg path.curve", state="attached")
    yield page
    assert requests == [report.as_uri()]
    assert errors == []
    page.close()


def test_curves_are_drawn_inside_their_axes(opened):
    panels = opened.evaluate(
        """() => [...document.querySelectorAll(".panel")].map((panel) => {
            const svg = panel.querySelector("svg").getBoundingClientRect();
            const boxes = [...panel.querySelectorAll("path.curve")].map(
                (curve) => curve.getBoundingClientRect());
            return {
                name: panel.id,
                curves: boxes.length,
                wide: Math.max(...boxes.map((box) => box.width)),
                inside: boxes.every((box) => box.left >= svg.left - 1
                    && box.right <= svg.right + 1 && box.top >= svg.top - 1
                    && box.bottom <= svg.bottom + 1),
                labels: panel.querySelectorAll("text").length,
            };
        })"""
    )
    named = {panel["name"]: panel for panel in panels}
    for name in "accuracy reward components length entropy kl clip gap time".split():
        panel = named[f"panel-{name}"]
        assert panel["curves"] >= 1 and panel["wide"] > 200, panel
        assert panel["inside"] and panel["labels"] >= 4, panel
    assert named["panel-components"]["curves"] == 2
    assert opened.locator("#panel-accuracy path.band").count() == 1
    assert opened.locator("#panel-length path.band").count() == 1


def test_pointing_at_a_curve_shows_its_value(opened, report):
    chart = opened.locator("#panel-reward svg")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    chart.hover(position={"x": box["width"] - 13, "y": 60})
    tip = opened.locator("#tip")
    assert "step 40" in tip.inner_text()
    last = json.loads((report.parent / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"{last['reward']:.4g}" in tip.inner_text()
    chart.focus()
    opened.keyboard.press("ArrowLeft")
    assert "step 39" in tip.inner_text()


def test_a_legend_hides_a_curve(opened):
    panel = opened.locator("#panel-components")
    panel.locator(".legend button").first.click()
    assert panel.locator("path.curve").count() == 1


def test_the_table_filters_and_pages(opened):
    rows, count = opened.locator(".row"), opened.locator(".count")
    assert rows.count() == 5 and count.inner_text() == "1–5 of 16 prompts"
    first = rows.first.inner_text()
    opened.click("button[name=next]")
    assert count.inner_text() == "6–10 of 16 prompts"
    assert rows.first.inner_text() != first
    opened.click("button[name=back]")
    assert rows.first.inner_text() == first
    opened.select_option("select[name=size]", "25")
    assert rows.count() == 16
    opened.select_option("select[name=step]", "6")
    assert rows.count() == 2
    assert all("step 6" in text for text in rows.all_inner_texts())
    opened.fill("input[name=text]", "question 2:")
    assert count.inner_text() == "1 prompt"
    opened.fill("input[name=text]", "no completion has this")
    assert rows.count() == 0 and count.inner_text() == "0 prompts"


def test_a_filter_by_correctness_selects_and_dims(opened, report):
    lines = (report.parent / "completions.jsonl").read_text().splitlines()
    correct = [
        [sample["rewards"]["correct"] > 0.5 for sample in json.loads(line)["samples"]]
        for line in lines
    ]
    opened.select_option("select[name=size]", "25")
    for value, wanted in (
        ("correct", sum(any(x) for x in correct)),
        ("incorrect", sum(not all(x) for x in correct)),
        ("all", sum(all(x) for x in correct)),
        ("none", sum(not any(x) for x in correct)),
    ):
        opened.select_option("select[name=correctness]", value)
        assert opened.locator(".row").count() == wanted
    opened.select_option("select[name=correctness]", "correct")
    dimmed = opened.locator(".sample.dimmed").count()
    assert dimmed == sum(x.count(False) for x in correct if any(x)) > 0


def test_tokens_are_colored_by_log_prob_or_advantage(opened):
    colors = """() => [...document.querySelectorAll(".row:nth-child(2) .sample")].map(
        (sample) => [...sample.querySelectorAll(".piece")].map(
            (piece) => getComputedStyle(piece).backgroundColor))"""
    by_log_prob = opened.evaluate(colors)
    assert all(len(set(sample)) > 1 for sample in by_log_prob)
    opened.select_option("select[name=coloring]", "advantage")
    by_advantage = opened.evaluate(colors)
    assert all(len(set(sample)) == 1 for sample in by_advantage)
    opened.select_option("select[name=coloring]", "none")
    assert {x for sample in opened.evaluate(colors) for x in sample} == {
        "rgba(0, 0, 0, 0)"
    }


def test_a_hostile_completion_is_text(opened):
    first = opened.locator(".row").first
    assert first.locator(".prompt").inner_text() == HOSTILE
    assert first.locator(".text").first.inner_text() == HOSTILE
    assert opened.locator("#completions img").count() == 0
    assert opened.evaluate("window.harmed") is None


def test_dark_and_narrow_screens(opened):
    ground = "getComputedStyle(document.body).backgroundColor"
    opened.emulate_media(color_scheme="light")
    light = opened.evaluate(ground)
    opened.emulate_media(color_scheme="dark")
    assert opened.evaluate(ground) != light
    opened.set_viewport_size({"width": 360, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_page_itself_forbids_requests(browser, report):
    page = browser.new_page()
    page.goto(report.as_uri())
    outcome = page.evaluate(
        "fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.message)"
    )
    policy = page.evaluate(
        "document.querySelector('meta[http-equiv]').getAttribute('content')"
    )
    page.close()
    assert outcome != "sent" and policy.startswith("default-src 'none'")


def test_several_runs_share_axes(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "plot", lambda panel: panel.name.encode())
    runs = [write_run(tmp_path / f"seed-{seed}", seed=seed) for seed in range(3)]
    page = browser.new_page()
    page.goto(write_report(runs, tmp_path / "out").with_suffix(".html").as_uri())
    panel = page.locator(".panel", has_text="Reward").first
    assert panel.locator("path.curve").count() == 4  # Three seeds and their mean.
    assert panel.locator("path.band").count() == 1
    page.select_option("select[name=run]", "seed-1")
    assert "of 16 prompts" in page.locator(".count").inner_text()
    page.close()


def test_the_double_is_what_the_page_expects():
    import random

    record = prompt_record(1, 1, random.Random(0))
    for sample in record["samples"]:
        assert "".join(sample["pieces"]) == sample["text"]
        assert len(sample["pieces"]) == len(sample["log_prob"])
