"""The page in a real browser: choose, enlarge, compare, zoom, download, cancel, and what goes wrong.

$QUANTSR_SCREENSHOTS names a folder for pictures of each stage.
"""

import base64
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import quantsr

from .conftest import Server

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"),
]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)

# Of the focused element, or of the label around it
OUTLINE = """
const element = document.activeElement, style = (one) => getComputedStyle(one).outlineStyle;
return style(element) === "none" ? style(element.parentElement) : style(element);
"""

# Of each control's border against the card that it lies on, by WCAG 2
CONTRASTS = """
const light = (colour) => {
  const [r, g, b] = colour.match(/\\d+/g).map((byte) => byte / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
};
const card = light(getComputedStyle(document.getElementById("form")).backgroundColor);
return [...document.querySelectorAll("#drop, select, button, .choices label")].map((control) => {
  const border = light(getComputedStyle(control).borderTopColor);
  return Math.max(border, card) / Math.min(border, card);
});
"""


class Page:
    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get(url)
        self.wait(lambda: self.at("model").find_elements(By.TAG_NAME, "option"))

    def at(self, id: str) -> Any:
        return self.browser.find_element(By.ID, id)

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        WebDriverWait(self.browser, seconds, 0.05).until(lambda _: condition())

    def focused(self) -> Any:
        return self.browser.switch_to.active_element

    def run(self, script: str) -> Any:
        return self.browser.execute_script(script)

    def choose(self, photo: Path, **settings: str) -> None:
        self.at("photo").send_keys(str(photo))
        for name, value in settings.items():
            choice = f"[name='{name}'][value='{value}'], [name='{name}'] [value='{value}']"  # a button, or of a list
            self.browser.find_element(By.CSS_SELECTOR, choice).click()

    def enlarge(self) -> None:
        self.at("start").click()
        self.wait(lambda: self.at("status").text.startswith("Done") or self.at("error").text)

    def picture(self, name: str) -> None:
        """Of the whole page."""
        if folder := os.environ.get("QUANTSR_SCREENSHOTS"):
            image = self.browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
            Path(folder, f"{name}.png").write_bytes(base64.b64decode(image))

    def as_phone(self) -> None:
        metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.wait(lambda: self.run("return innerWidth") == 360)


@pytest.fixture(params=["light", "dark"])
def theme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def browser(tmp_path: Path, theme: str) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path / 'browser'}", "--window-size=1100,900"]:
        options.add_argument(flag)
    downloads = tmp_path / "downloads"
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    media = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.downloads = downloads
    yield browser
    browser.quit()


@pytest.fixture
def page(browser: Any, server: Server) -> Page:
    return Page(browser, server.url)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    with Image.open(Path(__file__).parents[2] / "examples" / "photos" / "tapiola.jpg") as image:
        image.resize((256, 192)).save(tmp_path / "a photo & more.png")
    return tmp_path / "a photo & more.png"


def shown(page: Page, id: str) -> tuple[float, float, float]:
    """Left, top and width of a picture in the view."""
    find = "const box = (id) => document.getElementById(id).getBoundingClientRect();"
    return tuple(
        page.run(f"{find} const b = box('{id}'), v = box('view'); return [b.left - v.left, b.top - v.top, b.width]")
    )


def test_a_jpeg_is_downloaded_as_one(page: Page, photo: Path) -> None:
    page.choose(photo, scale="2", depth="quarter", format="jpg")
    page.enlarge()
    assert page.at("download").text == "Download JPEG"
    page.at("download").click()
    result = page.browser.downloads / "a photo & more_x2.jpg"
    page.wait(result.exists)
    with Image.open(result) as image:
        assert (image.format, image.size) == ("JPEG", (512, 384))


def test_a_photo_from_choice_to_download(page: Page, photo: Path, theme: str) -> None:
    page.picture(f"1-start-{theme}")
    assert "4 bits: best (default)" in page.at("model").text
    page.choose(photo, scale="2", depth="half")
    assert photo.name in page.at("chosen").text
    page.enlarge()
    assert page.at("status").text.endswith("512 \u00d7 384 pixels")
    assert page.run(
        "return [document.getElementById('after').naturalWidth, document.getElementById('before').naturalWidth]"
    ) == [512, 256]
    page.choose(photo, depth="quarter")
    page.enlarge()
    rows = [row.text for row in page.at("times").find_elements(By.TAG_NAME, "tr")]
    assert [row.split()[0] for row in rows] == ["full", "half", "quarter"]
    assert rows[0].endswith("not tried yet") and rows[1].endswith(" s") and rows[2].endswith(" s")
    page.picture(f"2-done-{theme}")

    page.at("download").click()
    result = page.browser.downloads / "a photo & more_x2.png"
    page.wait(result.exists)
    with Image.open(photo) as image:
        wanted = quantsr.load("quantsr-c-x2-w4a4").upscale(np.array(image), depth="quarter")
    np.testing.assert_array_equal(np.array(Image.open(result)), wanted)

    page.as_phone()
    page.picture(f"3-phone-{theme}")
    assert page.run("return document.documentElement.scrollWidth") == 360
    right = "return document.getElementById('{}').getBoundingClientRect().right"
    assert page.run(right.format("model")) <= page.run(right.format("drop"))
    problems = [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert problems == []


def test_the_borders_of_controls_can_be_seen(page: Page) -> None:
    assert min(page.run(CONTRASTS)) >= 3  # WCAG 1.4.11


def test_everything_by_keyboard(page: Page, photo: Path, theme: str) -> None:
    page.choose(photo)
    page.run("document.getElementById('photo').focus()")
    reached = []
    for _ in range(5):
        webdriver.ActionChains(page.browser).send_keys(Keys.TAB).perform()
        reached.append(page.focused().get_attribute("name") or page.focused().get_attribute("id"))
        assert page.run(OUTLINE) == "solid", reached
    assert reached == ["scale", "depth", "model", "format", "start"]
    page.at("start").send_keys(Keys.ENTER)
    page.wait(lambda: page.at("status").text.startswith("Done"))

    split = page.at("split")
    split.send_keys(Keys.ARROW_LEFT * 10)
    assert split.get_attribute("value") == "40"
    assert split.get_attribute("aria-valuetext") == "40 % before"
    assert page.run("return document.getElementById('before-pane').style.clipPath") == "inset(0px 60% 0px 0px)"
    view = page.at("view")
    fitted = shown(page, "after")
    view.send_keys("++++")
    zoomed = shown(page, "after")
    assert zoomed[2] == pytest.approx(4 * fitted[2], rel=0.01)
    assert zoomed == pytest.approx(shown(page, "before"))
    view.send_keys(Keys.ARROW_RIGHT)
    assert shown(page, "after")[0] == pytest.approx(zoomed[0] - 60)
    view.send_keys(Keys.ARROW_LEFT)
    page.picture(f"4-zoomed-{theme}")
    view.send_keys("0")
    assert shown(page, "after") == pytest.approx(fitted)


def test_mouse_moves_line_and_picture(page: Page, photo: Path) -> None:
    page.choose(photo, scale="2")
    page.enlarge()
    actions = webdriver.ActionChains(page.browser)
    actions.drag_and_drop_by_offset(page.at("line"), 100, 0).perform()
    width = page.run("return document.getElementById('view').clientWidth")
    assert float(page.at("split").get_attribute("value")) == pytest.approx(50 + 100 / width * 100, abs=1)
    page.at("zoom-full").click()
    assert page.at("zoom").text == "100 %"
    for _ in range(4):
        page.at("zoom-in").click()
    before = shown(page, "after")
    webdriver.ActionChains(page.browser).move_to_element_with_offset(
        page.at("view"), -200, 0
    ).click_and_hold().move_by_offset(-30, -20).release().perform()
    assert shown(page, "after")[:2] == pytest.approx((before[0] - 30, before[1] - 20))


@pytest.mark.parametrize("width", [300, 800])
def test_one_to_one_is_a_pixel_of_the_screen(page: Page, tmp_path: Path, width: int) -> None:
    metrics = {"width": 1100, "height": 900, "deviceScaleFactor": 2, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    Image.new("RGB", (width, 100), "gray").save(tmp_path / "gray.png")  # enlarged, narrower and wider than the view
    page.choose(tmp_path / "gray.png", scale="2", depth="quarter")
    page.enlarge()
    page.at("zoom-full").click()
    assert page.at("zoom").text == "50 %"
    assert shown(page, "after")[2] == pytest.approx(width)


def test_answers_that_are_lost_for_a_while(page: Page, photo: Path) -> None:
    page.run("""
        const honest = window.fetch;
        window.polls = 0;
        window.fetch = (path, options) => {
          const lost = /jobs\\/[^/]+$/.test(path) && !options && ++window.polls < 4;
          return lost ? Promise.reject(new TypeError("Failed to fetch")) : honest(path, options);
        };
    """)
    page.choose(photo, scale="2", depth="quarter")
    page.enlarge()
    assert page.at("status").text.startswith("Done") and page.run("return window.polls") >= 4


def test_what_the_browser_cannot_show_is_not_called_before(page: Page, photo: Path, tmp_path: Path, theme: str) -> None:
    with Image.open(photo) as image:
        image.save(tmp_path / "scan.tif")
    page.choose(tmp_path / "scan.tif", scale="2", depth="quarter")
    page.enlarge()
    page.wait(lambda: page.at("no-before").is_displayed())
    assert page.at("after").is_displayed() and not page.at("before-pane").is_displayed()
    assert "before" not in page.at("view").text and not page.at("split").is_displayed()
    assert page.at("no-before").text.startswith("This browser cannot show the photo before")
    page.picture(f"7-tiff-{theme}")
    page.choose(photo)
    page.enlarge()
    visible = [page.at(id).is_displayed() for id in ("before-pane", "line", "split", "no-before")]
    assert visible == [True, True, True, False]
    assert "before" in page.at("view").text


def test_a_result_names_its_photo_and_no_other_is_called_done(
    page: Page, photo: Path, tmp_path: Path, theme: str
) -> None:
    page.choose(photo, scale="2", depth="quarter")
    page.enlarge()
    assert photo.name in page.at("result-title").text
    heic = tmp_path / "IMG_0001.HEIC"
    heic.write_bytes(b"\0\0\0\x18ftypheic")
    page.choose(heic)
    assert page.at("status").text == ""
    page.enlarge()
    assert page.at("error").text.startswith("This file is not a photo") and page.at("status").text == ""
    assert photo.name in page.at("result-title").text
    page.picture(f"8-another-{theme}")


def test_cancel_and_go_on_at_once(page: Page, photo: Path, tmp_path: Path, theme: str) -> None:
    large = tmp_path / "large.jpg"
    Image.new("RGB", (2000, 1500), "gray").save(large)
    page.choose(large)
    page.at("start").click()
    page.wait(lambda: page.at("progress").get_attribute("value") not in (None, "", "0"))
    page.picture(f"5-running-{theme}")
    page.at("cancel").click()
    assert page.at("status").text == "Cancelled"
    assert page.at("start").is_displayed() and not page.at("cancel").is_displayed()
    page.choose(photo, depth="quarter")
    page.enlarge()
    assert page.at("status").text.startswith("Done") and page.at("error").text == ""


def test_errors_are_one_sentence(page: Page, server: Server, tmp_path: Path, theme: str) -> None:
    text = tmp_path / "text.png"
    text.write_text("no photo")
    page.choose(text)
    page.enlarge()
    assert page.at("error").text.startswith("This file is not a photo that can be read; wanted PNG, JPEG,")
    assert page.at("start").is_displayed()
    page.picture(f"6-error-{theme}")
    large = tmp_path / "large.bmp"
    large.write_bytes(bytes(4_000_001))
    page.choose(large)
    page.enlarge()
    assert page.at("error").text == "The photo has more than 4 MB."
    wide = tmp_path / "wide.png"
    Image.new("RGB", (3000, 3000)).save(wide)
    page.choose(wide)
    page.enlarge()
    assert page.at("error").text.startswith("The result would have 144 megapixels and this server makes at most 64;")
    wide.write_bytes(b"changed")
    page.enlarge()
    assert page.at("error").text == "The photo has changed or gone; choose it again."
    page.choose(text)
    server.process.send_signal(signal.SIGINT)
    server.process.wait()
    page.at("start").click()
    page.wait(lambda: page.at("error").text == "The server does not answer.")
