"""The report's page in a browser, used as a person uses it."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from generated_run import NASTY, MeanModel, make_run, make_screen, make_sites
from PIL import Image

from wsdino.report import pictures
from wsdino.report.attentive import site_maps, site_patches
from wsdino.report.components import principal_components
from wsdino.report.html import write_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Locator, Page, ViewportSize

sync_api = pytest.importorskip("playwright.sync_api")
READY = "html[data-explorer=ready]"
# Where a point of the map is on the screen.
POINT = """row => {
  const made = Bokeh.documents.at(-1), data = made.get_model_by_name("points").data;
  const {x_scale, y_scale} = Bokeh.index.get_by_id(made.get_model_by_name("map").id).frame;
  const box = document.getElementById("explorer-stage").getBoundingClientRect();
  return [box.left + x_scale.compute(data.x[row]), box.top + y_scale.compute(data.y[row])];
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on nine treatments, with pictures, and wells on one plate."""
    run = make_run(tmp_path_factory.mktemp("browser") / "run", num_steps=0)
    profiles = pd.read_parquet(run / "profiles.parquet")
    # Few enough wells for a layout without UMAP, which takes long to load.
    sites = make_sites(profiles.iloc[:3], num_plates=2, num_controls=1, num_sites=1)
    store = make_screen(make_sites(profiles, num_plates=2))
    return write_report(run, store=store, model=MeanModel(), sites=sites, attention_sites=[0])


@contextmanager
def opened(browser: Browser, path: Path) -> Iterator[Page]:
    """A page at work; fails on anything in the console, and on any request."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
    page.on(
        "request",
        lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else trouble.append(r.url),
    )
    page.goto(path.as_uri())
    page.wait_for_selector(READY, state="attached")
    yield page
    context.close()
    assert not trouble


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    with opened(browser, report) as page:
        yield page


@pytest.fixture(scope="module")
def dosed(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page with doses, training curves and heat maps, without pictures; few enough for PCA."""
    run = make_run(tmp_path_factory.mktemp("dosed") / "run", num_per_moa=1, num_doses=3)
    # Two controls on a plate, so that there are distances to draw.
    sites = make_sites(pd.read_parquet(run / "profiles.parquet").iloc[:2], num_controls=2)
    with opened(browser, write_report(run, sites=sites)) as page:
        yield page


def move_to(page: Page, row: int) -> tuple[float, float]:
    """Bring the map into view and the pointer onto a point; return where it is."""
    page.locator("#explorer-stage").evaluate(
        "each => each.scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    x, y = page.evaluate(POINT, row)
    page.mouse.move(x - 3, y - 3)
    page.mouse.move(x, y)
    return x, y


def click_on(page: Page, row: int, name: str) -> None:
    """Click on a point until its name is shown: a click that a busy machine draws out is none."""
    title = page.locator("#explorer-details h3").first
    for _ in range(5):
        page.mouse.click(*move_to(page, row))
        try:
            sync_api.expect(title).to_have_text(name, timeout=2000)
        except AssertionError:
            continue
        return
    sync_api.expect(title).to_have_text(name)


def saved(page: Page) -> list[list[str]]:
    """Rows of the CSV that the button saves."""
    with page.expect_download() as download:
        page.click("#explorer-csv")
    return list(csv.reader(download.value.path().read_text(encoding="utf-8").splitlines()))


def test_the_pointer_on_a_point_shows_its_field_beside_controls(page: Page) -> None:
    move_to(page, 0)
    card = page.locator("#explorer-card")
    sync_api.expect(card).to_be_visible()
    assert NASTY in card.inner_text()
    assert "Actin disruptors" in card.inner_text()
    assert card.locator("img").count() == 2
    page.mouse.move(2, 2)
    sync_api.expect(card).to_be_hidden()


def test_a_click_gives_fields_facts_and_neighbours_and_the_address_keeps_it(page: Page) -> None:
    click_on(page, 4, "Eg5 i-1 0.3 µM")
    details = page.locator("#explorer-details")
    title = details.locator("h3").first
    assert details.locator(".pair img").count() == 2
    assert details.locator(".neighbours li").count() == 8
    assert "cosine" in details.locator(".neighbours li").first.inner_text()
    sync_api.expect(page).to_have_url(re.compile("select=4$"))
    address = page.url
    # A click on one of several that are selected leaves that one.
    page.fill("#explorer-find", "eg5")
    page.keyboard.press("Enter")
    sync_api.expect(title).to_have_text("3 selected")
    click_on(page, 4, "Eg5 i-1 0.3 µM")
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector(READY, state="attached")
    sync_api.expect(title).to_have_text("Eg5 i-1 0.3 µM")
    details.locator(".neighbours button").first.click()
    sync_api.expect(title).not_to_have_text("Eg5 i-1 0.3 µM")


def test_fields_and_neighbours_come_before_facts_which_stay_as_they_were_left(page: Page) -> None:
    click_on(page, 4, "Eg5 i-1 0.3 µM")
    details = page.locator("#explorer-details")
    brief, facts = details.locator("p.note").first, details.locator(".facts")
    q, distance = (
        details.locator(f"dt:text-is('{name}') + dd").text_content()
        for name in ("q value", "Distance to controls")
    )
    assert (
        brief.inner_text()
        == f"Eg5 inhibitors, active, q value {q}, Distance to controls {distance}"
    )
    sync_api.expect(facts).to_be_hidden()
    # Without scrolling: the field, and the first neighbours.
    box, third = (each.bounding_box() for each in (details, details.locator("ol li").nth(2)))
    assert box
    assert third
    assert third["y"] + third["height"] < box["y"] + box["height"]
    details.locator("summary").click()
    sync_api.expect(facts).to_be_visible()
    details.locator("ol button").first.click()
    sync_api.expect(details.locator("h3").first).not_to_have_text("Eg5 i-1 0.3 µM")
    sync_api.expect(facts).to_be_visible()


def test_a_well_has_its_own_field_and_a_treatment_its_replicates(page: Page) -> None:
    details = page.locator("#explorer-details")
    click_on(page, 1, "Actin-1 0.3 µM")
    replicates = details.locator("ul.neighbours li")
    assert replicates.count() == 2
    assert replicates.locator("img").count() == 2
    replicates.nth(1).locator("button").click()
    sync_api.expect(details.locator("h3").first).to_have_text("Actin-1 0.3 µM, P/2 C02")
    sync_api.expect(page.locator("#explorer-level")).to_have_value("wells")
    captions = details.locator(".pair figcaption").all_inner_texts()
    assert captions == ["P/2 C02 site 1", "controls, plate P/2"]
    own = details.locator(".pair img").first.get_attribute("src")
    strip = page.locator("details.compound img[alt='Field of Actin-1 0.3 µM, P/2 C02 site 1']")
    assert strip.get_attribute("src") == own
    details.get_by_role("button", name="Show them on the map of wells").click()
    sync_api.expect(details.locator("h3").first).to_have_text("2 selected")


def test_what_the_lasso_encloses_is_what_the_csv_has(page: Page) -> None:
    page.click("[data-tool=lasso]")
    x, y = move_to(page, 3)
    corners = [(-12, -12), (12, -12), (12, 12), (-12, 12), (-12, -12)]
    page.mouse.move(x + corners[0][0], y + corners[0][1])
    page.mouse.down()
    for dx, dy in corners[1:]:
        page.mouse.move(x + dx, y + dy, steps=4)
    page.mouse.up()
    sync_api.expect(page.locator("#explorer-csv")).to_have_text("CSV of the 1 selected")
    head, *rows = saved(page)
    assert head[:2] == ["name", "Mechanism"]
    assert [row[:2] for row in rows] == [["Eg5 i-0 0.1 µM", "Eg5 inhibitors"]]
    page.click("#explorer-clear")
    assert len(saved(page)) == 10


def test_search_and_keyboard_alone_reach_a_treatment(page: Page) -> None:
    page.locator("#explorer-find").focus()
    page.keyboard.type("eg5")
    sync_api.expect(page.locator("#explorer-count")).to_have_text("3 found")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#explorer-details h3")).to_have_text("3 selected")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#explorer-details h3").first).to_have_text("Eg5 i-0 0.1 µM")
    page.locator("#explorer-find").focus()
    page.keyboard.press("Escape")
    sync_api.expect(page).not_to_have_url(re.compile("select="))


def test_the_legend_hides_and_is_searched(page: Page) -> None:
    visible = "Bokeh.documents.at(-1).get_model_by_name('visible').booleans"
    page.uncheck("#explorer-legend label:nth-child(2) input")
    assert page.evaluate(visible) == [True] * 3 + [False] * 3 + [True] * 3
    page.fill("#explorer-legend-find", "synth")
    assert page.locator("#explorer-legend label").count() == 1
    page.click("#explorer-all")
    assert page.evaluate(visible) == [True] * 9


def test_points_are_coloured_by_what_is_asked_at_every_level(page: Page) -> None:
    colours = "new Set(Bokeh.documents.at(-1).get_model_by_name('points').data.colour).size"
    assert page.evaluate(colours) == 3
    page.select_option("#explorer-colour", "Distance to controls")
    assert page.evaluate(colours) > 3
    assert page.locator("#explorer-legend .ramp").count() == 1
    page.select_option("#explorer-level", "wells")
    page.select_option("#explorer-colour", "Batch")
    assert page.evaluate(colours) == 2
    assert "PCA of 8 wells" in page.locator("#explorer-note").inner_text()


def test_mechanisms_are_sorted_by_the_share_that_is_right(page: Page) -> None:
    head = page.locator("#confusion th", has_text="NSCB")
    head.locator("button").click()
    texts = page.locator("#confusion tbody td:nth-child(3)").all_inner_texts()
    known = [text.split("/") for text in texts if text != "-"]
    shares = [int(right) / int(total) for right, total in known]
    assert shares == sorted(shares)
    assert texts[-1] == "-"


def test_the_table_of_treatments_sorts_and_leads_to_the_explorer(page: Page) -> None:
    names = page.locator("#treatments-table tbody th")
    distance = page.locator("#treatments-table th", has_text="Distance to controls")
    column = distance.evaluate("each => each.cellIndex")
    distance.locator("button").click()
    cells = page.locator(f"#treatments-table tbody td:nth-child({column + 1})")
    values = [float(text) for text in cells.all_inner_texts()]
    assert values == sorted(values)
    assert distance.get_attribute("aria-sort") == "ascending"
    distance.locator("button").click()
    assert [float(text) for text in cells.all_inner_texts()] == values[::-1]
    page.fill("#treatments-find", "synthesis")
    assert names.count() == 3
    first = names.first.inner_text()
    names.first.locator("button").click()
    sync_api.expect(page.locator("#explorer-details h3").first).to_have_text(first)


def test_a_well_of_a_heat_map_is_shown_in_the_explorer(page: Page) -> None:
    plate = page.locator("svg.plate[data-plate='P/2']").first
    plate.scroll_into_view_if_needed()
    box = plate.bounding_box()
    assert box
    # B02, the first treatment.
    plate.click(position={"x": 1.5 * box["width"] / 12, "y": 1.5 * box["height"] / 8})
    title = page.locator("#explorer-details h3").first
    sync_api.expect(title).to_have_text(f"{NASTY} 0.1 µM, P/2 B02")


def test_wells_of_a_heat_map_are_reached_named_and_opened_by_keyboard(page: Page) -> None:
    # One stop for Tab in each measure that is open, whatever the number of wells.
    well = page.locator("#plates .well")
    sync_api.expect(well).to_have_count(1)
    stops = "all => all.filter((each) => each.tabIndex >= 0).length"
    assert page.locator("#plates .plates *").evaluate_all(stops) == 1
    page.locator("#plates summary").first.focus()
    page.keyboard.press("Tab")
    sync_api.expect(well).to_be_focused()
    shown = page.locator("#plates .said").first
    values = dict(means(page))
    for key, place, name in (
        ("ArrowRight", "P/1 B03", "Eg5 i-1 0.3 µM"),
        ("ArrowDown", "P/1 C03", "Eg5 i-2 0.9 µM"),
        ("PageDown", "P/2 C03", "Eg5 i-2 0.9 µM"),
        ("End", "P/2 E04", "DMSO 0 µM"),
        ("ArrowRight", "P/2 E04", "DMSO 0 µM"),
        ("ArrowUp", "P/2 D04", "DMSO 0 µM"),
        ("ArrowLeft", "P/2 D03", "Prote-0 0.1 µM"),
        ("PageUp", "P/1 D03", "Prote-0 0.1 µM"),
        ("Home", "P/1 B02", f"{NASTY} 0.1 µM"),
        ("PageDown", "P/2 B02", f"{NASTY} 0.1 µM"),
    ):
        page.keyboard.press(key)
        sync_api.expect(well).to_be_focused()
        said = well.get_attribute("aria-label")
        measure, _, value = said.rpartition(" ")
        assert measure == f"{place}, {name}: Mean intensity, DAPI"
        assert float(value) == pytest.approx(values[place], rel=0.005)
        assert shown.inner_text() == said
    # It lies over its well: B02 of a plate with 8 rows and 12 columns.
    place_in_wells = """each => {
      const rect = (one) => one.getBoundingClientRect();
      const [well, plate] = [rect(each), rect(each.previousElementSibling)];
      const px = plate.width / 12;
      return [(well.x - plate.x) / px, (well.y - plate.y) / px, well.width / px, well.height / px];
    }"""
    assert well.evaluate(place_in_wells) == pytest.approx([1, 1, 1, 1], abs=0.05)
    page.keyboard.press("Enter")
    title = page.locator("#explorer-details h3").first
    sync_api.expect(title).to_have_text(f"{NASTY} 0.1 µM, P/2 B02")
    sync_api.expect(page.locator("#explorer-details")).to_be_focused()


def means(page: Page) -> Iterator[tuple[str, float]]:
    """Place and value of each well of the first measure, as the page has them."""
    wells, own = (
        json.loads(page.locator(name).first.text_content() or "")
        for name in ("#plates-wells", "#plates details .figure-data")
    )
    for plate, well, value in zip(wells["plate"], wells["well"], own["values"], strict=True):
        if value is not None:
            yield f"{wells['plates'][plate]} {well}", value


def test_a_map_shows_nothing_of_the_one_before(page: Page) -> None:
    page.select_option("#explorer-level", "wells")
    sync_api.expect(page.locator("#explorer-note")).to_contain_text("wells")
    page.wait_for_timeout(300)
    stage = page.locator("#explorer-plot")
    first = stage.screenshot()
    page.click("#explorer-in")
    page.wait_for_timeout(300)
    assert stage.screenshot() != first
    page.click("#explorer-reset")
    page.wait_for_timeout(300)
    assert stage.screenshot() == first


def test_figures_and_tables_are_saved_as_svg_and_csv(page: Page) -> None:
    with page.expect_download() as download:
        page.click("button[aria-label='SVG of confusion-nsc']")
    drawn = download.value.path().read_text(encoding="utf-8")
    assert drawn.startswith("<svg")
    assert 'xmlns="http://www.w3.org/2000/svg"' in drawn
    assert "var(" not in drawn
    ET.fromstring(drawn)
    with page.expect_download() as download:
        page.click("button[aria-label='CSV of confusion-nsc']")
    rows = list(csv.reader(download.value.path().read_text(encoding="utf-8").splitlines()))
    assert [row[0] for row in rows[1:]] == rows[0][1:]
    with page.expect_download() as download:
        page.click("button[aria-label='CSV of treatments']")
    assert len(download.value.path().read_text(encoding="utf-8").splitlines()) == 10
    table = page.locator("table[data-name=mechanisms]")
    rows_of = table.locator("tbody tr")
    shown = rows_of.evaluate_all("all => all.map((each) => each.cells[1].innerText)")
    assert all(re.fullmatch(r"\d/3", text) for text in shown)
    rows = list(csv.reader(content_of(page, page.get_by_label("CSV of mechanisms")).splitlines()))
    assert [row[1] for row in rows[1:]] == [text.replace("/", " of ") for text in shown]


def content_of(page: Page, button: Locator) -> str:
    """Press a button and return what it saves."""
    with page.expect_download() as download:
        button.click()
    return str(download.value.path().read_text(encoding="utf-8"))


def test_every_figure_has_its_svg_and_its_csv(dosed: Page) -> None:
    page = dosed
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    figures = page.locator("main figure:has(svg), .stage, .plates, svg.dose").evaluate_all(
        "all => all.map((each) => each.dataset.name ?? each.className.baseVal ?? each.className)"
    )
    assert {"confusion-nsc", "forest", "training-1", "stage", "plates", "dose"} <= {*figures}
    names = {name.removeprefix("SVG of ") for name in labels(page, "SVG of ")}
    tables = {name.removeprefix("CSV of ") for name in labels(page, "CSV of ")}
    assert names - {"map"} <= tables
    assert "comparison" in tables
    for figure in page.locator("main figure[data-name]").all():
        assert figure.get_attribute("data-name") in names
    # One of each kind: a browser asks before a page saves more than ten files.
    kinds = {name.partition("-")[0]: name for name in sorted(names - {"map"}, reverse=True)}
    assert {"forest", "confusion", "dose", "training"} <= kinds.keys()
    for name in kinds.values():
        drawn = content_of(page, page.get_by_label(f"SVG of {name}", exact=True))
        assert "<path" in drawn or "<image" in drawn
        assert "var(" not in drawn
        ET.fromstring(drawn)


def test_maps_of_patches_are_saved_as_they_were_computed(page: Page, report: Path) -> None:
    store = make_screen(make_sites(pd.read_parquet(report.parent / "profiles.parquet")))
    model = MeanModel()
    maps = site_maps(model, store, 0)
    head, *rows = csv.reader(content_of(page, page.get_by_label("CSV of attention-0")).splitlines())
    assert head == ["network", "head", "row", "column", "attention, 1 is even"]
    frame = pd.DataFrame(rows, columns=head)
    assert len(frame) == maps.shape[0] * (maps.shape[1] + 1) * 6 * 8
    for number, name in enumerate(model.network_names):
        expected = [maps[number].mean(axis=0), *maps[number]]
        for label, own in zip(("mean", "1", "2"), expected, strict=True):
            is_own = (frame["network"] == name) & (frame["head"] == label)
            found = frame[is_own].iloc[:, 4].to_numpy(dtype=float).reshape(6, 8)
            np.testing.assert_allclose(found, own / own.mean(), rtol=1e-3, atol=1e-3)
    head, *rows = csv.reader(content_of(page, page.get_by_label("CSV of components")).splitlines())
    assert head == ["network", "field", "row", "column", *(f"component {n}" for n in (1, 2, 3))]
    frame = pd.DataFrame(rows, columns=head)
    scores = principal_components([site_patches(model, store, 0)[1]]).scores[0]
    own = frame[frame["network"] == "Tubulin"].iloc[:, 4:].to_numpy(dtype=float)
    np.testing.assert_allclose(own, scores.reshape(-1, 3), rtol=1e-3, atol=1e-3 * scores.max())
    # Each row has the field, the mean and two heads; each picture of components has its field.
    for name, num in (("attention-0", 3 * 4), ("components", 3 * 2)):
        drawn = ET.fromstring(content_of(page, page.get_by_label(f"SVG of {name}", exact=True)))
        images = list(drawn.iter("{http://www.w3.org/2000/svg}image"))
        assert len(images) == num
        assert all(image.get("href").startswith("data:image/jpeg;base64,") for image in images)
        words = " ".join(text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text"))
        # The scale bar, as on the page.
        assert "10 µm" in words
    pairs = page.locator("#attention .two")
    for pair in pairs.all():
        field, components = (pair.locator("img").nth(n).bounding_box() for n in (0, 1))
        assert field["y"] == components["y"]
        assert 0 < components["x"] - field["x"] - field["width"] < 10


def test_example_fields_are_saved_with_what_they_show(page: Page) -> None:
    head, *rows = csv.reader(
        content_of(page, page.get_by_label("CSV of example-fields")).splitlines()
    )
    assert head == ["shown as", "treatment", "place", "row of the store"]
    assert rows[0] == ["Negative control", "DMSO 0 µM", "P/1 C04 site 1", "9"]
    drawn = ET.fromstring(content_of(page, page.get_by_label("SVG of example-fields")))
    words = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    images = list(drawn.iter("{http://www.w3.org/2000/svg}image"))
    assert len(images) == len(rows)
    # Whether or not it has been seen, and so loaded.
    assert all(float(image.get("height")) == 160 for image in images)
    for row in rows:
        assert set(row[:3]) <= {*words}


def labels(page: Page, start: str) -> list[str]:
    buttons = page.locator(f"button[aria-label^='{start}']")
    found: list[str] = buttons.evaluate_all("all => all.map((each) => each.ariaLabel)")
    return found


def test_a_dose_curve_is_saved_as_it_was_measured(dosed: Page) -> None:
    compound = dosed.locator("details.compound[data-curve]").first
    compound.evaluate("each => { each.open = true; }")
    csv_button = compound.locator("button[aria-label^='CSV of dose-']")
    head, *rows = csv.reader(content_of(dosed, csv_button).splitlines())
    assert len(rows) == 3
    assert head[:2] == ["dose, µM", "distance to controls"]
    said = compound.locator("svg").first.get_attribute("aria-label")
    for dose, distance, *_ in rows:
        assert f"{dose} µM: {float(distance):.3g}" in said


def test_the_map_is_saved_as_it_is_shown(page: Page) -> None:
    page.uncheck("#explorer-legend label:nth-child(2) input")
    drawn = ET.fromstring(content_of(page, page.locator("#explorer-svg")))
    fills = [path.get("fill") for path in drawn.iter("{http://www.w3.org/2000/svg}path")]
    shown = page.evaluate("Bokeh.documents.at(-1).get_model_by_name('points').data.colour")
    # Six treatments of two mechanisms, and these in the legend.
    assert fills[:6] == shown[:3] + shown[6:]
    assert len(fills) == 8
    words = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert words == ["Mechanism", "Actin disruptors", "Protein <i>synthesis</i>"]


def test_channels_are_switched_off_in_every_picture_at_once(page: Page) -> None:
    values = "document.querySelector('#channels feColorMatrix').getAttribute('values')"
    before = page.evaluate(values).split()
    page.locator("#compounds [data-channel='1']").uncheck()
    after = page.evaluate(values).split()
    assert [float(after[n]) for n in (1, 6, 11)] == [0, 0, 0]
    assert [float(after[n]) for n in (0, 5, 10)] == [float(before[n]) for n in (0, 5, 10)]


def test_an_open_compound_has_its_controls_beside_it(page: Page) -> None:
    compound = page.locator("details.compound[id]").nth(1)
    images = compound.locator("img").count()
    compound.locator("summary").click()
    sync_api.expect(compound.locator("img")).to_have_count(2 * images)


def test_pictures_beside_the_page_are_shown_in_it(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", num_steps=0)
    store = make_screen(make_sites(pd.read_parquet(run / "profiles.parquet"), num_plates=1))
    monkeypatch.setattr(pictures, "BASE_BYTES", 12_000)
    with opened(browser, write_report(run, store=store)) as page:
        source = page.locator("[id^=picture-][src^=report-pictures]").first
        row = int(source.get_attribute("id").removeprefix("picture-"))
        page.mouse.click(*move_to(page, row))
        image = page.locator("#explorer-details .pair img").first
        page.wait_for_function("each => each.complete", arg=image.element_handle())
        assert image.evaluate("each => each.naturalWidth") == 48


def test_a_measure_of_wells_is_saved_plate_by_plate(dosed: Page) -> None:
    page = dosed
    button = page.get_by_label("CSV of plates-distance-to-controls", exact=True)
    button.locator("xpath=ancestor::details").evaluate("each => { each.open = true; }")
    head, *rows = csv.reader(content_of(page, button).splitlines())
    assert head == ["plate", "well", "treatment", "Distance to controls"]
    treated = [f"{NASTY} 0.1 µM", f"{NASTY} 0.3 µM", "DMSO 0 µM", "DMSO 0 µM"]
    assert [row[:3] for row in rows] == [
        [plate, well, name]
        for plate in ("P/1", "P/2")
        for well, name in zip(("B02", "C02", "D02", "E02"), treated, strict=True)
    ]
    assert all(float(row[3]) > 0 for row in rows)


def bar_px(picture: Locator) -> float:
    """Measure the scale bar that is drawn over a picture, in pixels of the screen."""
    image = picture.locator("img").first
    image.evaluate("each => { each.style.visibility = 'hidden'; }")
    picture.evaluate("each => { each.style.background = '#000'; }")
    picture.scroll_into_view_if_needed()
    drawn = Image.open(io.BytesIO(picture.screenshot())).convert("L")
    height = round(image.bounding_box()["height"])
    # Without the margin, where the page may shine through; the longest row of white is the bar.
    rows = np.asarray(drawn)[height // 2 : height - 2, 2:-2]
    texts = ("".join(map(str, (row > 250).astype(int))) for row in rows)
    return max(len(run) for text in texts for run in re.findall("1+", text))


@pytest.mark.parametrize("width", [1200, 390])
def test_scale_bars_are_as_long_as_they_say(browser: Browser, report: Path, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(report.as_uri())
    page.wait_for_selector(READY, state="attached")
    page.mouse.click(*move_to(page, 1))
    compound = page.locator("details.compound[id]").nth(1)
    compound.locator("summary").click()
    # Of fields of 48 x 64 px, 0.65 um wide each, all but those of attention are cut to 48 px.
    measured = [
        (page.locator("#example_fields figure").first, 48),
        (compound.locator("figure").first, 48),
        (compound.locator("figure .frame").first, 48),
        (page.locator("#explorer-details .pair .frame").first, 48),
        (page.locator("#attention .frame").first, 64),
    ]
    for picture, num_pixels in measured:
        micrometres = float(picture.get_attribute("data-bar").removesuffix(" µm"))
        shown = picture.locator("img").first.bounding_box()["width"]
        expected = micrometres / 0.65 * shown / num_pixels
        assert bar_px(picture) == pytest.approx(expected, abs=1.01)
    # Of each of three networks: a field, and the components of its patches.
    assert page.locator("#attention [data-bar]").count() == 6
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_nothing_overflows_and_axe_finds_nothing(
    browser: Browser, report: Path, width: int, scheme: Any
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    size = {"width": width, "height": 900}
    # Its own script is what the page's policy would keep out.
    context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(report.as_uri())
    page.wait_for_selector(READY, state="attached")
    page.mouse.click(*move_to(page, 1))
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    # All of it is laid out by then, whether it is near the screen or not.
    page.wait_for_function("!document.documentElement.classList.contains('loading')")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    found = axe.run(page)
    context.close()
    assert not found.violations_count, found.generate_report()


def test_a_link_leads_to_its_section_though_far_ones_are_laid_out_late(page: Page) -> None:
    link = page.locator("nav a").last
    link.click()
    title = page.locator(f"{link.get_attribute('href')} h2").first
    sync_api.expect(title).to_be_in_viewport()


def test_without_scripts_it_still_says_everything(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    sync_api.expect(page.locator("#treatment_map .static svg").first).to_be_visible()
    sync_api.expect(page.locator("#explorer")).to_be_hidden()
    assert page.locator("#treatments-table tbody tr").count() == 9
    context.close()


def test_print_shows_all_treatments_and_opens_what_is_closed(page: Page) -> None:
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    sync_api.expect(page.locator("#explorer")).to_be_hidden()
    sync_api.expect(page.locator("#treatment_map .static").first).to_be_visible()
    laid_out = "all => all.map((each) => getComputedStyle(each).contentVisibility)"
    assert set(page.locator("main > section").evaluate_all(laid_out)) == {"visible"}
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 0


def test_paper_is_light_and_holds_every_column(browser: Browser, report: Path) -> None:
    # What is between the margins of A4, in px.
    size: ViewportSize = {"width": 703, "height": 900}
    context = browser.new_context(viewport=size, color_scheme="dark")
    page = context.new_page()
    page.goto(report.as_uri())
    page.wait_for_selector(READY, state="attached")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    right = "all => Math.max(...all.map((each) => each.getBoundingClientRect().right))"
    assert page.locator("table, svg, img, pre").evaluate_all(right) <= 703
    colour = "each => getComputedStyle(each)"
    assert page.locator("body").evaluate(f"{colour}.backgroundColor") == "rgb(255, 255, 255)"
    link = page.locator("#treatments-table button.link").first
    assert link.evaluate(f"{colour}.color") == "rgb(0, 0, 0)"
    pages = page.pdf(format="A4").count(b"/Type /Page\n")
    context.close()
    assert 4 < pages < 20
