"""`wsdino explore`: what is drawn and found, who is answered, and the page as a person uses it."""

from __future__ import annotations

import asyncio
import csv
import http.client
import io
import json
import re
import threading
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import pytest
from generated_run import NASTY, MemoryStore, make_run, make_screen, make_sites
from PIL import Image
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from wsdino.errors import InputError
from wsdino.report.explore import explore_page
from wsdino.report.html import write_report
from wsdino.report.images import composite
from wsdino.report.serving import Guard, application, guard_of, is_loopback
from wsdino.report.viewing import Look, Screen
from wsdino.tables.features import feature_columns, features_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page, ViewportSize

NUM_FEATURES = 20


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A run, and its sites: two plates of nine treatments and a control, two sites a well."""
    run = make_run(tmp_path_factory.mktemp("explore") / "run", num_steps=0)
    profiles = pd.read_parquet(run / "profiles.parquet")
    return run, make_sites(profiles, num_plates=2, num_controls=1, num_sites=2)


@pytest.fixture(scope="module")
def screen(sites: tuple[Path, pd.DataFrame]) -> Screen:
    return Screen(make_screen(sites[1]), sites[1])


class Served:
    """An application on a port of this machine, in a thread of its own."""

    def __init__(self, screen: Screen, page: str, guard: Guard | None = None) -> None:
        (self._socket,) = bind_sockets(0, "127.0.0.1")
        self.port = self._socket.getsockname()[1]
        self.guard = guard or guard_of("127.0.0.1", self.port)
        self._made = (screen, page, self.guard)
        self._loop = asyncio.new_event_loop()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def up() -> None:
            self._server = HTTPServer(application(*self._made))
            self._server.add_sockets([self._socket])
            self._is_up.set()

        self._loop.run_until_complete(up())
        self._loop.run_forever()

        async def down() -> None:
            self._server.stop()
            await self._server.close_all_connections()
            await self._loop.shutdown_default_executor()

        self._loop.run_until_complete(down())
        self._loop.close()

    def __enter__(self) -> Served:
        self._thread.start()
        self._is_up.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            connection.putrequest("GET", path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def served(screen: Screen) -> Iterator[Served]:
    with Served(screen, "<p>the page</p>") as server:
        yield server


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def test_a_field_has_every_pixel_and_only_the_channels_asked_for(screen: Screen) -> None:
    pixels = screen.store[3]
    found = opened(screen.draw(3, Look((0, 1, 2), contrast="field")))
    expected = composite(pixels, screen.store.channels).astype(int)
    assert found.shape == (48, 64, 3)
    # JPEG.
    assert np.abs(found - expected).mean() < 8
    (alone,) = (opened(screen.draw(3, Look((0,), contrast="field"))) for _ in range(1))
    assert alone[..., 2].mean() > 3 * alone[..., 0].mean()
    assert opened(screen.draw(3, Look((), contrast="field"))).max() < 5
    assert opened(screen.draw(3, Look((0,), max_px=32))).shape[:2] == (24, 32)
    cut = opened(screen.draw(3, Look((0, 1, 2), low=0, high=100, is_middle=True)))
    whole = opened(screen.draw(3, Look((0, 1, 2), low=0, high=100)))
    assert cut.shape == (48, 48, 3)
    assert np.abs(cut - whole[:, 8:56]).mean() < 8


def test_fields_of_a_plate_have_one_contrast_and_percentiles_are_taken() -> None:
    images = np.full((3, 1, 16, 16), 100, np.uint16)
    images[:, :, :, 8:] = 200
    images[1] *= 2
    manifest = pd.DataFrame(
        {"Metadata_Plate": "P", "Metadata_Compound": list("aad"), "Metadata_Control": [0, 0, 1]}
    ).astype({"Metadata_Control": bool})
    own = Screen(MemoryStore(images, manifest, channels=("DAPI",)), None)
    look = Look((0,), "plate", low=0, high=100)
    dim, bright, control = (opened(own.draw(site, look)).max(axis=2) for site in range(3))
    np.testing.assert_allclose(dim, control, atol=3)
    assert bright[:, 8:].min() > 250 > 5 > control[:, :7].max()
    by_itself = opened(own.draw(1, Look((0,), "field", low=0, high=100))).max(axis=2)
    np.testing.assert_allclose(by_itself, control, atol=3)
    for wrong, words in (
        (Look((1,)), "the store has 0 to 0"),
        (Look((0,), "all"), "contrast 'all'"),
        (Look((0,), low=50, high=50), "low below high"),
    ):
        with pytest.raises(InputError, match=words):
            own.draw(0, wrong)


@pytest.mark.parametrize("apart", ["none", "compound", "plate"])
def test_neighbours_are_those_of_a_loop_over_all_sites(
    screen: Screen, sites: tuple[Path, pd.DataFrame], apart: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsdino.report import viewing

    monkeypatch.setattr(viewing, "ROWS_AT_ONCE", 7)
    table, query = sites[1], 5
    features = features_of(table)
    cosines = {
        row: features[row] @ features[query] / np.linalg.norm(features[row]) / np.linalg.norm(
            features[query]
        )
        for row in range(len(table))
        if row != query
        and not (apart == "compound" and screen.compounds[row] == screen.compounds[query])
        and not (apart == "plate" and screen.plates[row] == screen.plates[query])
    }  # fmt: skip
    expected = sorted(cosines, key=cosines.get, reverse=True)[:6]
    found = screen.neighbours(query, num=6, apart=apart)
    assert [each["site"] for each in found] == expected
    assert [each["cosine"] for each in found] == pytest.approx(
        [cosines[row] for row in expected], abs=1e-5
    )


def test_controls_beside_a_site_are_the_first_others_of_its_plate(screen: Screen) -> None:
    for site in range(len(screen)):
        others = [
            row
            for row in np.flatnonzero(screen.is_control).tolist()
            if screen.plates[row] == screen.plates[site] and row != site
        ]
        assert screen.control_of(site) == others[0]
    bare = screen.store.manifest.assign(Metadata_Control=False)
    alone = Screen(MemoryStore(screen.store.images, bare), None)
    assert alone.control_of(0) is None


def test_sites_are_matched_by_place_whatever_their_order(
    sites: tuple[Path, pd.DataFrame],
) -> None:
    shuffled = sites[1].sample(frac=0.5, random_state=0)
    screen = Screen(make_screen(sites[1]), shuffled)
    assert screen.rows_of(shuffled) == shuffled.index.tolist()
    row = int(shuffled.index[0])
    near = screen.neighbours(row, num=len(sites[1]))
    assert {each["site"] for each in near} == set(shuffled.index) - {row}
    other = next(row for row in range(len(screen)) if row not in shuffled.index)
    with pytest.raises(InputError, match=f"site {other} has no features"):
        screen.neighbours(other)
    with pytest.raises(InputError, match="the store has the sites 0 to"):
        screen.neighbours(len(screen))


def test_sites_of_rounding_errors_have_no_neighbours_and_a_wild_one_takes_none(
    sites: tuple[Path, pd.DataFrame], screen: Screen
) -> None:
    table = sites[1].copy()
    names = feature_columns(table)
    table[names] = table[names].astype(np.float64)
    table.loc[table.index[2], names] *= 1e-16
    table.loc[table.index[3], names] *= 1e15
    odd = Screen(make_screen(sites[1]), table)
    found, expected = (each.neighbours(5, num=len(table)) for each in (odd, screen))
    assert [each["site"] for each in found] == [e["site"] for e in expected if e["site"] != 2]
    with pytest.raises(InputError, match="site 2 has no features, or all of them are zero"):
        odd.neighbours(2)


def test_the_server_draws_describes_and_finds(served: Served, screen: Screen) -> None:
    status, headers, content = served.get("/field/3?channels=0,2&contrast=field")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert opened(content).shape == (48, 64, 3)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert json.loads(served.get("/site/3")[2]) == screen.describe(3)
    found = json.loads(served.get("/neighbours/3?num=4&apart=compound")[2])
    assert found == screen.neighbours(3, num=4, apart="compound")
    assert served.get("/map/wells")[0] == 400
    found = json.loads(served.get("/find?text=EG5%20I-1")[2])
    assert [each["site"] for each in found] == [
        row for row, name in enumerate(screen.names) if "Eg5 i-1" in name
    ]
    for wrong, words in (
        ("/field/999", b"the store has the sites"),
        ("/field/3?channels=9", b"the store has 0 to 2"),
        ("/field/3?low=x", b"could not convert"),
    ):
        status, _, content = served.get(wrong)
        assert status == 400
        assert words in content
    assert served.get("/elsewhere")[0] == 404


@pytest.mark.parametrize("path", ["/", "/field/0", "/site/0", "/neighbours/0", "/find", "/none"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:{port}"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "image"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Dest": "empty"},
    ],
)
def test_other_hosts_and_origins_are_refused(
    served: Served, path: str, headers: dict[str, str]
) -> None:
    sent = {name: value.format(port=served.port) for name, value in headers.items()}
    status, answered, content = served.get(path, **sent)
    assert status == 403
    assert b"the page" not in content.replace(b"not this page", b"")
    assert "Access-Control-Allow-Origin" not in answered


def test_the_page_itself_and_a_link_to_it_are_answered(served: Served) -> None:
    own = f"http://127.0.0.1:{served.port}"
    assert served.get("/", Host=f"localhost:{served.port}")[0] == 200
    assert served.get("/site/0", Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
    visit = served.get("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="document")
    assert (visit[0], visit[2]) == (200, b"<p>the page</p>")


def test_bound_elsewhere_a_token_is_asked_for(screen: Screen) -> None:
    guard = guard_of("0.0.0.0", 80)
    assert len(guard.token) >= 32
    assert guard.token != guard_of("192.168.0.4", 80).token
    with Served(screen, "<p>the page</p>", guard) as server:
        for path in ("/", "/field/0", "/?token=wrong", "/find?token="):
            assert server.get(path)[0] == 403
        status, headers, _ = server.get(f"/?token={guard.token}")
        assert (status, headers["Location"]) == (302, "/")
        cookie = headers["Set-Cookie"].split(";")[0]
        assert "HttpOnly" in headers["Set-Cookie"]
        assert server.get("/", Cookie=cookie)[2] == b"<p>the page</p>"
        assert server.get("/field/0", Cookie=cookie)[0] == 200
        assert server.get("/", Cookie="wsdino_explore=wrong")[0] == 403


def test_which_addresses_are_this_machine_s() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.3.2.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.1.2", "::", "myhost")))


def test_a_map_is_laid_out_when_it_is_asked_for(
    sites: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsdino.report import explorer

    run, table = sites
    store, taken = make_screen(table), table.sample(frac=1, random_state=1)
    screen, page = explore_page(run, store, taken)
    data = json.loads(re.search('id="explorer-data">(.*?)</script>', page).group(1))
    assert [level["pending"] for level in data["levels"]] == [True] * 3
    assert data["levels"][0]["names"]
    assert [data["levels"][at]["x"] for at in range(3)] == [[]] * 3
    found = {level["name"]: screen.map_of(level["name"]) for level in data["levels"]}
    assert found["treatments"]["names"] == data["levels"][0]["names"]
    assert found["sites"]["sites"] == taken.index.tolist()
    assert len(found["wells"]["x"]) == len(table) / 2
    assert found["wells"] is screen.map_of("wells")
    with pytest.raises(InputError, match="map 'plates': expected one of treatments, wells, sites"):
        screen.map_of("plates")
    # Of more than are laid out, others lie beside what they resemble, and the note says so.
    monkeypatch.setattr(explorer, "MAX_POINTS", 10)
    level = explore_page(run, store, taken)[0].map_of("sites")
    assert len(level["x"]) == len(table)
    assert level["note"].startswith("10 of them were laid out by PCA")


def parts_of(page: str) -> dict[str, list[str]]:
    """What a page says of treatments, compounds and plates."""
    patterns = {
        "table": r'<script type="application/json" id="treatments-data">(.*?)</script>',
        "compounds": r'<details class="compound".*?</summary>',
        "captions": r'<section id="compounds".*?</section>',
        "plates": r'<svg class="plate".*?</svg>',
        "wells": r'id="plates-wells">(.*?)</script>',
        "lights": r'<div class="light .*?</div>',
    }
    found = {name: re.findall(pattern, page, re.DOTALL) for name, pattern in patterns.items()}
    return found | {"captions": re.findall("<figcaption>(.*?)</figcaption>", *found["captions"])}


def test_the_page_has_the_parts_of_the_report(sites: tuple[Path, pd.DataFrame]) -> None:
    run, table = sites
    store = make_screen(table)
    report = write_report(run, store=store, sites=table, num_example_fields=0).read_text(
        encoding="utf-8"
    )
    theirs, ours = parts_of(report), parts_of(explore_page(run, store, table)[1])
    assert ours == theirs
    assert [len(ours[name]) for name in ("table", "compounds", "wells", "lights")] == [1, 10, 1, 3]
    assert len(ours["plates"]) == 2 * 3
    assert sum("P/2" in caption for caption in ours["captions"]) > 9


# In a browser.

READY = "html[data-explorer=ready]"


@pytest.fixture(scope="module")
def at_work(sites: tuple[Path, pd.DataFrame]) -> Iterator[Served]:
    screen, page = explore_page(sites[0], make_screen(sites[1]), sites[1])
    with Served(screen, page) as server:
        yield server


@pytest.fixture
def page(at_work: Served, browser: Browser) -> Iterator[Page]:
    """The page; fails on anything in the console, and on any request to another host."""
    own, trouble = f"http://127.0.0.1:{at_work.port}/", []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
    page.on(
        "request",
        lambda r: None if r.url.startswith((own, "data:", "blob:")) else trouble.append(r.url),
    )
    page.goto(own)
    page.wait_for_selector(READY, state="attached")
    yield page
    page.close()
    assert not trouble


def test_a_field_is_found_looked_at_and_leads_to_its_neighbours(page: Page) -> None:
    from playwright.sync_api import expect

    # A treatment that is picked on the map shows its field in full beside controls.
    page.fill("#explorer-find", "Eg5 i-1")
    page.get_by_role("button", name="Eg5 i-1 0.3 µM", exact=True).first.click()
    images = page.locator("#fields-pair img")
    expect(images).to_have_count(2)
    expect(page.locator("#fields-pair figcaption").first).to_contain_text("Eg5 i-1")
    natural = "each => each.complete && [each.naturalWidth, each.naturalHeight].join()"
    for image in (images.first, images.last):
        page.wait_for_function(natural, arg=image.element_handle())
        assert image.evaluate(natural) == "64,48"
    expect(page.locator("#explorer-details .pair img")).to_have_count(2)
    # Channels and contrast.
    page.uncheck("[data-field-channel='1']")
    expect(images.first).to_have_attribute("src", re.compile("channels=0%2C2&contrast=plate"))
    page.select_option("#fields-contrast", "field")
    expect(images.first).to_have_attribute("src", re.compile("contrast=field"))
    # Neighbours over all sites, without the compound's own.
    page.select_option("#fields-apart", "compound")
    rows = page.locator("#fields-neighbours li")
    expect(rows).to_have_count(10)
    expect(page.locator("#fields-neighbours")).not_to_contain_text("Eg5 i-1")
    with page.expect_download() as download:
        page.click("#fields-csv")
    head, *saved = list(csv.reader(download.value.path().read_text(encoding="utf-8").splitlines()))
    assert head == ["of", "site", "name", "place", "plate", "mechanism", "cosine"]
    assert len(saved) == 10
    name = rows.first.locator("button").inner_text()
    rows.first.locator("button").click()
    expect(page.locator("#fields-pair figcaption").first).to_contain_text(name.split(",")[0])


def test_any_field_is_found_by_its_place(page: Page) -> None:
    from playwright.sync_api import expect

    page.fill("#fields-find", "P/2 B02 site 2")
    expect(page.locator("#fields-count")).to_have_text("1 found")
    page.click("#fields-found button")
    caption = page.locator("#fields-pair figcaption").first
    expect(caption).to_contain_text(f"{NASTY} 0.1 µM, P/2 B02 site 2")


def test_table_compounds_and_plates_lead_to_fields(page: Page) -> None:
    from playwright.sync_api import expect

    rows, title = (
        page.locator(f"#{where}") for where in ("treatments-table tbody th", "explorer-details h3")
    )
    expect(rows).to_have_count(9)
    head = page.locator("#treatments-table th", has_text="Distance to controls")
    head.locator("button").click()
    column = head.evaluate("each => each.cellIndex")
    cells = page.locator(f"#treatments-table tbody td:nth-child({column + 1})").all_inner_texts()
    assert [float(cell) for cell in cells] == sorted(map(float, cells))
    name = rows.first.inner_text()
    rows.first.locator("button").click()
    expect(title.first).to_have_text(name)
    # Its compound, with the fields of both its wells beside controls.
    page.get_by_role("link", name="All doses of the compound").click()
    compound = page.locator("details.compound[open]")
    expect(compound.locator("summary")).to_contain_text(name.rsplit(" ", 2)[0])
    expect(compound.locator("img")).to_have_count(4)
    for image in compound.locator("img").all():
        page.wait_for_function("each => each.complete", arg=image.element_handle())
        assert image.evaluate("each => [each.naturalWidth, each.naturalHeight].join()") == "48,48"
    # A well of a heat map, by keyboard, loads the map of wells and shows its field.
    page.locator("#plates .well").first.focus()
    page.keyboard.press("PageDown")
    page.keyboard.press("Enter")
    expect(title.first).to_have_text(f"{NASTY} 0.1 µM, P/2 B02")
    expect(page.locator("#fields-pair figcaption").first).to_contain_text("P/2 B02 site 1")
    expect(page.locator("#explorer-details ul.neighbours img")).to_have_count(2)


@pytest.mark.parametrize(("width", "scheme"), [(1200, "dark"), (390, "light")])
def test_nothing_overflows_and_axe_finds_nothing(
    at_work: Served, browser: Browser, width: int, scheme: Literal["light", "dark"]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    size: ViewportSize = {"width": width, "height": 900}
    context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{at_work.port}/")
    page.wait_for_selector(READY, state="attached")
    page.locator("#treatments-table tbody button").first.click()
    page.wait_for_selector("#fields-neighbours li")
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    found = axe.run(page)
    context.close()
    assert not found.violations_count, found.generate_report()


def test_the_map_of_wells_is_had_when_it_is_chosen(page: Page) -> None:
    from playwright.sync_api import expect

    page.select_option("#explorer-level", "wells")
    expect(page.locator("#explorer-note")).to_contain_text(re.compile(r"(UMAP|PCA) of \d+ wells"))
    page.fill("#explorer-find", "P/2 B02")
    expect(page.locator("#explorer-count")).to_have_text("1 found")
    page.locator("#explorer-found button").first.click()
    caption = page.locator("#fields-pair figcaption").first
    expect(caption).to_contain_text(f"{NASTY} 0.1 µM, P/2 B02 site 1")
    # The address brings back what was looked at.
    page.reload()
    expect(page.locator("#explorer-level")).to_have_value("wells")
    expect(page.locator("#explorer-details h3").first).to_contain_text("P/2 B02")
