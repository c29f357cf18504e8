"""The page in a real browser, served by the command as a person starts it."""

import json
import re
import shutil
import signal
import subprocess
import sys
from statistics import median
from types import SimpleNamespace

import pytest
from support.runs import small_run

import fastflow as ff

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs a browser: apt-get install chromium", allow_module_level=True)
pytest.importorskip("gradio", reason="needs the extra app: pip install 'fastflow[app]'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")

pytestmark = pytest.mark.slow  # a server, a browser, and a page that takes seconds to load for every test

# The command in a process that writes down whom it calls: nobody, but itself.
SERVE = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = arguments[1][0] if event == "socket.connect" else arguments[0]
        if host not in ("127.0.0.1", "localhost"):
            print(event, arguments, file=sys.stderr)
sys.addaudithook(watch)
from fastflow.cli import main
main(["serve", sys.argv[1], "--port", "0"])
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A small run's page: its folder and address. It ends as Ctrl-C ends it, without a word but one."""
    folder = tmp_path_factory.mktemp("served") / "run"
    small_run(folder, ff.generators.load("digits-vae"), path_steps=8, options={"guide": ()})
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    line = process.stdout.readline()  # or nothing, if it fails
    if not line:
        raise AssertionError(process.communicate()[1])
    yield SimpleNamespace(folder=folder, line=line, url=re.search(r"http://127\.0\.0\.1:\d+", line)[0])
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest, errors) == (130, "", "fastflow: interrupted\n")


@pytest.fixture(scope="module")
def browser():
    playwright.expect.set_options(timeout=20_000)  # on a busy machine
    with playwright.sync_playwright() as library:
        opened = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # root has no sandbox
        yield opened
        opened.close()


@pytest.fixture
def run(served):
    """The folder as it was: a test may break it."""
    spare = served.folder.with_name("spare")
    shutil.copytree(served.folder, spare)
    yield served.folder
    shutil.rmtree(served.folder, ignore_errors=True)
    spare.rename(served.folder)


@pytest.fixture
def page(served, browser, run):
    """A page that has loaded, in a profile of its own; it loads nothing from elsewhere and no script of it fails."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    problems = []

    def note(problem):
        """A page that is loaded again ends its requests, and says so; that is no fault."""
        if not any(words in problem for words in ("AbortError", "Connection errored out")):
            problems.append(problem)

    opened.on("pageerror", lambda error: note(str(error)))
    opened.on("console", lambda message: note(message.text) if message.type == "error" else None)
    opened.on("request", lambda request: problems.append(request.url) if is_foreign(request.url, served) else None)
    opened.goto(served.url)
    opened.wait_for_selector(".ff-frame[data-on]")
    yield opened
    context.close()
    assert not problems


def is_foreign(url, served):
    return not url.startswith((served.url, "data:", "blob:"))


def shown(page):
    """The step whose frame is in sight, and its picture."""
    frame = page.locator(".ff-film").first.locator(".ff-frame[data-on]")
    playwright.expect(frame).to_be_visible()
    return int(frame.get_attribute("data-step")), frame.get_attribute("src")


def wait_for_step(page, step):
    page.wait_for_selector(f'.ff-frame[data-step="{step}"][data-on]')


def time_slider(page):
    return page.get_by_role("slider", name="Time, in steps")


def choose(page, label, option):
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option).click()


def alert(page):
    return page.get_by_role("alert")


def test_address_is_told(served):
    assert served.line == f"serving {served.folder} at {served.url}; Ctrl-C ends it\n"


def test_image_follows_the_dragged_slider(page):
    slider = time_slider(page)
    assert shown(page)[0] == 0
    seen = {shown(page)}
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    for step in (2, 4, -4):
        page.mouse.move(box["x"] + box["width"] * (0.5 + 0.98 * step / 8), middle, steps=3)
        wait_for_step(page, step)
        seen.add(shown(page))
    page.mouse.up()
    slider.press("ArrowRight")
    wait_for_step(page, -3)
    playwright.expect(page.locator(".ff-step")).to_have_text("−3")
    seen.add(shown(page))
    assert len({picture for _, picture in seen}) == 5


def test_slider_keeps_what_was_dragged_while_new_films_are_made(page):
    held = []

    def hold(route):
        """Let requests pass, but not those for potential 2, the third of what an action is given; they come twice."""
        is_choice = route.request.post_data_json["data"][2:3] == [2]
        held.append(route) if is_choice else route.continue_()

    page.route("**/queue/join*", hold)
    choose(page, "Potential", "2")
    for _ in range(3):
        time_slider(page).press("ArrowRight")
    wait_for_step(page, 3)
    page.get_by_role("tab", name="Save").click()
    lines = page.locator(".cm-content")
    playwright.expect(lines).to_contain_text("edit = run.edit(0, steps=3, t0=4)")
    for route in held:
        route.continue_()
    playwright.expect(page.locator(".ff-film b")).to_have_text("potential 2")
    playwright.expect(lines).to_contain_text("edit = run.edit(2, steps=3, t0=4)")
    assert shown(page)[0] == 3


# In the page itself, since what drives the browser takes time as well.
STEP_TIMES = """async () => {
  const slider = document.querySelector('input[type=range][aria-label*="Time, in steps"]');
  const times = [];
  for (const step of [1, 3, -2, 4, -4, 0, 2]) {
    const begun = performance.now();
    slider.value = step;
    slider.dispatchEvent(new Event("input", {bubbles: true}));
    while (!document.querySelector(`.ff-frame[data-step="${step}"][data-on]`))
      await new Promise((done) => setTimeout(done, 0));
    times.push(performance.now() - begun);
  }
  return times;
}"""


def test_step_answers_within_a_tenth_of_a_second(page):
    times = page.evaluate(STEP_TIMES)
    assert median(times) < 100, times


def test_named_potential_keeps_its_name(page, run):
    choose(page, "Potential", "1")
    playwright.expect(page.locator(".ff-film b")).to_have_text("potential 1")
    page.get_by_label("Its name").fill("slant <b>")
    page.get_by_role("button", name="Save name").click()
    playwright.expect(page.locator(".ff-film b").first).to_have_text("potential 1, slant <b>")
    assert json.loads((run / "names.json").read_text()) == {"1": "slant <b>"}

    page.reload()
    choose(page, "Potential", "1 · slant <b>")
    playwright.expect(page.locator(".ff-film b").first).to_have_text("potential 1, slant <b>")
    playwright.expect(page.get_by_label("Its name")).to_have_value("slant <b>")

    choose(page, "Potential", "2")
    playwright.expect(page.get_by_label("Its name")).to_have_value("")
    page.get_by_label("Its name").fill("slant <b>")
    page.get_by_label("Its name").press("Enter")
    playwright.expect(alert(page)).to_contain_text("potential 1 is called 'slant <b>' already: choose another name")


def test_start_is_chosen_or_drawn(page):
    real = shown(page)[1]
    page.get_by_label("a random sample").click()
    playwright.expect(page.locator(".ff-done")).to_have_text("From sample 0.")
    assert shown(page)[1] != real
    page.get_by_role("button", name="Start from the drawing").click()
    playwright.expect(alert(page)).to_contain_text("the drawing is empty")
    box = page.locator(".ff-pad canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 0.9 * box["height"], steps=5)
    page.mouse.up()
    page.get_by_role("button", name="Start from the drawing").click()
    playwright.expect(page.locator(".ff-done")).to_contain_text("From your drawing")
    playwright.expect(alert(page)).to_have_count(0)


def test_mix_chain_and_baseline(page):
    time_slider(page).press("ArrowRight")
    wait_for_step(page, 1)
    end = shown(page)[1]
    page.get_by_role("button", name="Go on from here").click()
    playwright.expect(page.locator(".ff-done")).to_contain_text("1 step along potential 0")
    assert shown(page) == (0, end)
    page.get_by_role("tab", name="Path").click()
    page.get_by_label("number input for Weight of 2").fill("1.5")
    playwright.expect(page.locator(".ff-film b").first).to_have_text("1.5 × potential 2")
    page.get_by_role("tab", name="Compare").click()
    choose(page, "Compare with a", "principal direction")
    playwright.expect(page.locator(".ff-film b").nth(1)).to_have_text("principal direction 0")
    page.get_by_role("button", name="Undo").click()
    playwright.expect(page.locator(".ff-done")).to_have_text("From real image 0.")


def test_what_is_seen_is_saved(page, run, tmp_path):
    time_slider(page).press("ArrowRight")
    wait_for_step(page, 1)
    page.get_by_role("tab", name="Save").click()
    playwright.expect(page.locator(".cm-content")).to_contain_text("edit = run.edit(0, steps=1, t0=4)")
    page.get_by_role("button", name="Make files").click()
    for name in ("image.png", "path.gif", "latents.safetensors", "edit.json", "edit.py", "strip.png"):
        stem, _, suffix = name.rpartition(".")
        row = page.locator("tr", has_text=stem).filter(has_text=suffix)
        with page.expect_download() as download:
            row.get_by_role("link").first.click()
        download.value.save_as(tmp_path / name)
    loaded = ff.load_run(run)
    images = ff.load_edit(tmp_path / "edit.json").apply(loaded, loaded.generator.starts(1, 0)).images
    names = {}
    exec((tmp_path / "edit.py").read_text(), names)
    assert names["image"].equal(images[:, -1])


def test_broken_run_folder_is_told(page, run):
    (run / "names.json").write_text("{")
    page.reload()
    playwright.expect(alert(page)).to_contain_text("names.json' isn't JSON")
    playwright.expect(page.locator(".ff-frame[data-on]").first).to_be_visible()
    shutil.rmtree(run)
    page.reload()
    playwright.expect(alert(page)).to_contain_text("isn't a run")
    page.get_by_label("Its name").fill("slant")
    page.get_by_role("button", name="Save name").click()
    playwright.expect(alert(page)).to_contain_text("No such file or directory")


UNNAMED = """() => [...document.querySelectorAll("input, textarea, select, button, a[href], canvas")]
  .filter((e) => e.checkVisibility() && e.type !== "file")
  .filter((e) => !(e.matches("[aria-label], [title]") || e.querySelector("[aria-label], [title]")))
  .filter((e) => !(e.labels?.length || e.textContent.trim()))
  .map((e) => e.outerHTML)"""


def test_controls_have_names_and_narrow_screens_are_enough(page):
    for tab in ("Start", "Path", "Compare", "Save"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate(UNNAMED) == []
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


INK_AND_PAPER = """() => {
  const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 765;
  const ink = getComputedStyle(document.querySelector(".ff-head h1")).color;
  return [light(ink), light(getComputedStyle(document.body).backgroundColor)];
}"""


def test_page_follows_light_and_dark(page):
    ink, paper = page.evaluate(INK_AND_PAPER)
    assert paper > 0.9 > 0.3 > ink
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("body.dark, .dark body, .gradio-container.dark, .dark .gradio-container")
    ink, paper = page.evaluate(INK_AND_PAPER)
    assert paper < 0.2 < 0.8 < ink
