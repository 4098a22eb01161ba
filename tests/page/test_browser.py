"""Pages in a real Chromium: what moves, what is read aloud, what is not run."""

import json
import shutil

import numpy as np
import pytest
from pages import HOSTILE

from ekd_tf.compare import Comparison
from ekd_tf.compare import RunFigures
from ekd_tf.compare import write_comparison
from ekd_tf.page import run_content
from ekd_tf.page import write_page

pytestmark = pytest.mark.browser
# As WebDriver sends them.
HOME, PAGE_UP, LEFT, RIGHT, ENTER = "\ue011\ue00e\ue012\ue014\ue007"
_SWITCHES = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    program = shutil.which("chromedriver")
    if not (browser and program):
        pytest.skip("there is no chromium with its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for switch in (*_SWITCHES, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(program)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def open_page(driver, path, width=1280):
    """Opens a page, waits until it is drawn, and expects nothing said or fetched."""
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 900, "deviceScaleFactor": 1}
    size["mobile"] = width < 600
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(path.as_uri())
    drawn = "return document.body.hasAttribute('data-drawn')"
    WebDriverWait(driver, 60).until(lambda d: d.execute_script(drawn))
    assert driver.get_log("browser") == []
    names = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    fetched = driver.execute_script(names)
    assert all(name.startswith("data:") for name in fetched)
    wide = "return document.documentElement.scrollWidth"
    assert driver.execute_script(wide) <= width
    assert len(driver.find_elements("css selector", "svg")) > 0


def figure(driver, name):
    text = driver.find_element("css selector", f"[data-figure={name}]").text
    return float(text.replace(",", ""))


def check_figures(driver, section, pairs):
    """Compares what the page says with NumPy at the threshold of its slider."""
    slider = driver.find_element("css selector", "input[type=range]")
    place = int(slider.get_property("value"))
    threshold = section["slider"]["thresholds"][place]
    above = pairs.cosine > np.float32(threshold)
    for kind, of_kind in enumerate((pairs.same, ~pairs.same)):
        accepted, number = (above & of_kind).sum(), of_kind.sum()
        assert figure(driver, f"above{kind}") == accepted
        assert figure(driver, f"below{kind}") == number - accepted
        shown = figure(driver, f"rate{kind}")
        assert shown == pytest.approx(accepted / number, rel=5e-3, abs=5e-5)
    said = slider.get_attribute("aria-valuetext")
    assert said.startswith(f"Threshold {threshold:.4f}: TPR ")
    return threshold


def test_the_slider_gives_the_figures_of_numpy(driver, page, section, pairs):
    from selenium.webdriver.support.ui import WebDriverWait

    open_page(driver, page)
    slider = driver.find_element("css selector", "input[type=range]")
    charts = driver.find_elements("css selector", ".chart")[:2]
    found, lines = [], [None]

    def drawn_lines(_):
        rule = ".mark-rule.role-mark"
        rules = [chart.find_elements("css selector", rule) for chart in charts]
        drawn = [found[-1].get_attribute("outerHTML") for found in rules]
        return drawn != lines[-1] and drawn

    for keys in (HOME, PAGE_UP, 3 * RIGHT, LEFT):
        slider.send_keys(keys)
        found.append(check_figures(driver, section, pairs))
        # The line of both charts moves; waits until it has.
        lines.append(WebDriverWait(driver, 10).until(drawn_lines))
    assert found[0] < found[1] < found[3] < found[2]
    # The nearest of the pairs that have pictures.
    slider.send_keys(HOME, *[PAGE_UP] * 5)
    threshold = check_figures(driver, section, pairs)
    cosines = [p[1] for p in section["pairs"] if p[0] == 1]
    nearest = sorted(cosines, key=lambda cosine: abs(cosine - threshold))[:4]
    captions = driver.find_elements("css selector", ".pairs:last-of-type figcaption")
    assert [c.text for c in captions] == [
        f"cosine {c:.4f}, {'accepted' if c > threshold else 'rejected'}"
        for c in nearest
    ]


def test_buttons_stop_at_the_thresholds_of_the_json(driver, page, section, case, pairs):
    open_page(driver, page, width=390)
    student = case.result.document["student"]
    buttons = driver.find_elements("css selector", ".slider button")
    assert [b.text for b in buttons] == ["FPR 1e-1", "FPR 1e-2"]
    # Slider and slices begin where 1,000 of 19,500 negative pairs and more lie above.
    pressed = driver.find_element("css selector", "button[aria-pressed=true]")
    chosen = driver.find_element("css selector", "select option:checked")
    assert pressed.text == "FPR 1e-1" and chosen.text.startswith("FPR 1e-1 (")
    for button, fpr in zip(buttons, ("1e-1", "1e-2")):
        button.send_keys(ENTER)
        assert check_figures(driver, section, pairs) == student["thresholds"][fpr]
        assert button.get_attribute("aria-pressed") == "true"
        assert figure(driver, "rate0") == pytest.approx(student["tpr"][fpr], abs=5e-5)
        low, high = student["intervals"][f"tpr_at_fpr_{fpr}"]
        text = driver.find_element("css selector", "main").text
        assert f"[{low:.4f}, {high:.4f}]" in text


def test_tables_are_sorted_by_keyboard(driver, page, section):
    open_page(driver, page)
    table = driver.find_element("css selector", "[aria-label='Critical pairs'] table")
    head = table.find_elements("css selector", "th button")[1]
    off = [row["off"] for row in section["critical"]["rows"]]
    for order in ("descending", "ascending"):
        head.send_keys(ENTER)
        assert table.find_element("css selector", f"th[aria-sort={order}]")
        cells = table.find_elements("css selector", "tbody tr td:nth-child(2)")
        expected = [f"{v:.4f}" for v in sorted(off, reverse=order == "descending")]
        assert [cell.text for cell in cells] == expected


def test_names_are_text_and_pictures_have_them(driver, page):
    open_page(driver, page)
    assert driver.execute_script("return window.hacked") is None
    assert driver.title == HOSTILE.strip()
    images = driver.find_elements("css selector", "img")
    texts = [image.get_attribute("alt") for image in images]
    assert len(texts) > 40
    assert all(t.startswith(HOSTILE) and t.endswith(".jpg") for t in texts)
    for chart in driver.find_elements("css selector", ".chart"):
        assert chart.get_attribute("role") == "img"
        assert len(chart.get_attribute("aria-label")) > 20
    unnamed = "return [...document.querySelectorAll('button, select, input')].filter("
    unnamed += "n => !n.textContent.trim() && !n.ariaLabel).length"
    assert driver.execute_script(unnamed) == 0


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_of_a_run_and_of_a_comparison_are_drawn(driver, tmp_path, width):
    lines = [
        {"step": k, "loss": 9 / k, f"threshold/student/fpr_{HOSTILE}": 0.1, "loss/a": k}
        for k in (1, 2, 3)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    open_page(driver, write_page(tmp_path, "run", {}, run_content(tmp_path)), width)
    assert "Thresholds of both models" in driver.find_element("tag name", "main").text

    def run(tpr):
        return RunFigures(0.5, {1e-2: tpr}, ((0.01, 1.0), (tpr, 1.0)))

    methods = {"alone": {0: run(0.2), 1: run(0.4)}, "ekd": {0: run(0.5)}}
    comparison = Comparison("faces", methods, {0: run(0.8), 1: run(0.8)})
    summary = {"method": "ekd", "seed": 0, "state": "finished", "note": HOSTILE}
    summary |= {"images_per_second": 20, "ms_per_step": 512.3, "seconds": None}
    few = RunFigures(0.5, {1e-2: 0.2, 1e-3: None}, ((0.01, 1.0), (0.2, 1.0)))
    sets = [comparison, Comparison("one", {"alone": {0: few}})]
    write_comparison(tmp_path, sets, [{**summary, "command": "x"}], {})
    open_page(driver, tmp_path / "report.html", width)
    text = driver.find_element("tag name", "main").text
    # The mean of two seeds and both; half of the way from 0.2 to 0.8; the cost.
    assert "30.0 (20.0..40.0)" in text and "50.0" in text and "512.3" in text
    assert "30%" in text and "In %, of one seed." in text
    captions = driver.find_elements("css selector", "figcaption")
    assert [c.text for c in captions] == [
        "Mean ROC of teacher, alone, ekd.",
        "TPR at FPR 1e-2: bar from the lowest to the highest seed, tick the mean, "
        "circles the seeds. Teacher: 80.0 %.",
        "ROC of alone.",
        "TPR at FPR 1e-2.",
    ]
    assert "FPR 1e-3 is not measurable: it takes 10000 negative pairs" in text
    assert driver.execute_script("return window.hacked") is None
