"""What a report on many treatments weighs, and how soon it answers: `python benchmarks/report.py`.

Screens of :data:`SIZES` treatments are made (four wells each, on plates of 384 wells with 32
controls, two sites a well; fields of simulated cells), evaluated, and reported on. Each report is
then opened in headless Chromium: the size of the file and of what lies beside it, elements, seconds
until it has loaded and until the explorer is at work, CPU seconds of the page until then, seconds
from there until the map answers the pointer and the search box a word, and the longest time in
which the page could answer nothing; of three visits the least. `--folder` keeps runs and
reports, and takes up what is there. `--write` writes `benchmarks/results/report.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from playwright.sync_api import Browser

RESULT = Path(__file__).parent / "results" / "report.md"
# Treatments, mechanisms, and the bytes that the file may have.
SIZES = {500: (60, 8_000_000), 2_000: (150, None), 5_000: (150, 25_000_000)}
WELLS, CONTROLS, REPLICATES, DOSES, SITES = 384, 32, 4, 4, 2
NUM_FEATURES, FIELD_PX, NUM_FIELDS = 128, 512, 24
QUALITIES = ("Focus", "Saturation", "Foreground", "Intensity")
CHANNELS = ("DAPI", "Tubulin", "Actin")
# Notes when the explorer is at work, and every stretch in which nothing else can be.
WATCH = """
globalThis.longest = 0;
new PerformanceObserver((list) => {
  for (const each of list.getEntries()) longest = Math.max(longest, each.duration);
}).observe({type: "longtask", buffered: true});
new MutationObserver(() => {
  if (document.documentElement?.dataset.explorer !== "ready") return;
  globalThis.ready ??= performance.now();
}).observe(document, {subtree: true, attributes: true, attributeFilter: ["data-explorer"]});
"""
SEEN = """() => ({
  loaded: performance.getEntriesByType("navigation")[0].loadEventEnd / 1000,
  ready: ready / 1000, longest: longest / 1000, elements: document.querySelectorAll("*").length,
})"""
FOUND = "() => document.getElementById('explorer-count').textContent.includes('found')"
NUM_VISITS = 3
POINT = """() => {
  const made = Bokeh.documents.at(-1), data = made.get_model_by_name("points").data;
  const {x_scale, y_scale} = Bokeh.index.get_by_id(made.get_model_by_name("map").id).frame;
  document.getElementById("explorer-stage").scrollIntoView({block: "center", behavior: "instant"});
  const box = document.getElementById("explorer-stage").getBoundingClientRect();
  return [box.left + x_scale.compute(data.x[0]), box.top + y_scale.compute(data.y[0])];
}"""


@dataclass
class Screen:
    """Fields of a screen, with the interface of a store: a few simulated ones, turned and moved."""

    fields: np.ndarray
    manifest: pd.DataFrame
    channels: tuple[str, ...] = CHANNELS

    @property
    def pixel_sizes(self) -> np.ndarray:
        """Width of a pixel of each site in micrometres."""
        return np.full(len(self), 0.65)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, site: int) -> np.ndarray:
        field = self.fields[site % len(self.fields)]
        generator = np.random.default_rng(site)
        moved = np.roll(field, generator.integers(FIELD_PX, size=2), axis=(1, 2))
        turned: np.ndarray = np.rot90(moved, generator.integers(4), axes=(1, 2))
        return turned


def simulated_fields() -> np.ndarray:
    """Draw fields of cells of several phenotypes: uint16 (fields, 3, height, width)."""
    from wsdino.simulate.randomised import draw_screen, render_randomised, screen_sites

    screen = draw_screen(3, seed=0, size=FIELD_PX, num_phenotypes=8)
    sites = screen_sites(screen, fields_per_plate=2)[:NUM_FIELDS]
    return np.stack([render_randomised(screen, site) for _, site in sites])


def sites_table(num: int, num_moas: int) -> pd.DataFrame:
    """Make embeddings of sites: metadata with the quality of each field, and features."""
    generator = np.random.default_rng(num)
    on_plate = WELLS - CONTROLS
    per_replicate = -(-num // on_plate)
    rows = []
    for plate in range(REPLICATES * per_replicate):
        first = plate % per_replicate * on_plate
        treated = range(first, min(first + on_plate, num))
        received = [*([-1] * CONTROLS), *treated]
        for well, treatment in zip(generator.permutation(WELLS), received, strict=False):
            rows += [(plate, int(well), treatment, site) for site in range(1, SITES + 1)]
    plate, well, treatment, site = np.array(rows).T
    is_control = treatment < 0
    compound = treatment // DOSES
    moa = compound % num_moas
    features = generator.normal(size=(len(rows), NUM_FEATURES))
    strength = np.where(is_control, 0.0, 0.4 + 0.4 * (treatment % DOSES))
    features += strength[:, None] * generator.normal(size=(num_moas, NUM_FEATURES))[moa]
    table = pd.DataFrame(
        {
            "Metadata_Plate": [f"P{each:03d}" for each in plate],
            "Metadata_Batch": [f"week {1 + each // per_replicate}" for each in plate],
            "Metadata_Well": [f"{chr(65 + each // 24)}{1 + each % 24:02d}" for each in well],
            "Metadata_Site": site,
            "Metadata_Compound": [f"compound {n}" if n >= 0 else "DMSO" for n in compound],
            "Metadata_Concentration": np.where(is_control, 0.0, 0.1 * 4.0 ** (treatment % DOSES)),
            "Metadata_MoA": [f"mechanism {n} of action" for n in moa],
            "Metadata_Control": is_control,
        }
    )
    table.loc[is_control, "Metadata_MoA"] = None
    for quality in QUALITIES:
        for channel in CHANNELS:
            table[f"Metadata_QC_{quality}_{channel}"] = generator.gamma(9, 0.1, len(table))
    names = [f"emb_{CHANNELS[0]}_{n:03d}" for n in range(NUM_FEATURES)]
    values = pd.DataFrame(features.astype(np.float32), columns=names)
    return pd.concat([table, values], axis=1)


def make_run(run: Path, num: int, num_moas: int) -> None:
    """Write what a report reads: profiles, results and the normalised sites."""
    from wsdino.evaluate.results import evaluate_sites, write_results
    from wsdino.profile.aggregate import make_profiles
    from wsdino.profile.normalise import normalise
    from wsdino.tables.writing import write_table

    run.mkdir(parents=True)
    table = sites_table(num, num_moas)
    write_table(make_profiles(table), run / "profiles.parquet")
    write_table(normalise(table)[0], run / "sites.parquet")
    write_results(evaluate_sites(table, num_permutations=20), run / "results.json")


def report_on(run: Path) -> dict[str, Any]:
    """Write the report, unless it is there; return what it weighs."""
    from wsdino.report.html import write_report

    page = run / "report.html"
    if not page.exists():
        write_report(run, store=_screen(run), sites=_sites(run), warnings=[])
    beside = page.read_text().count(f'src="{page.stem}-pictures/')
    return {"bytes": page.stat().st_size, "beside": beside}


def _sites(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "sites.parquet")


def _screen(run: Path) -> Screen:
    sites = _sites(run)
    names = [name for name in sites if name.startswith("Metadata_")]
    fields = run.parent / "fields.npy"
    if not fields.exists():
        np.save(fields, simulated_fields())
    return Screen(np.load(fields), sites[names])


def opened(path: Path) -> dict[str, float]:
    """Open a report in a browser and use it; seconds, and elements."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        visits = [_visited(browser, path) for _ in range(NUM_VISITS)]
        browser.close()
    return {key: min(visit[key] for visit in visits) for key in visits[0]}


def _visited(browser: Browser, path: Path) -> dict[str, float]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.add_init_script(WATCH)
    metrics = page.context.new_cdp_session(page)
    metrics.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(path.as_uri(), timeout=300_000)
    page.wait_for_function("() => globalThis.ready", timeout=300_000)
    found: dict[str, float] = page.evaluate(SEEN)
    taken = metrics.send("Performance.getMetrics")["metrics"]
    found["cpu"] = next(each["value"] for each in taken if each["name"] == "TaskDuration")
    x, y = page.evaluate(POINT)
    start = time.monotonic()
    page.mouse.move(x - 3, y - 3)
    page.mouse.move(x, y)
    page.wait_for_selector("#explorer-card:not([hidden])", timeout=300_000)
    found["hover"] = time.monotonic() - start
    start = time.monotonic()
    page.fill("#explorer-find", "compound 77")
    page.wait_for_function(FOUND)
    found["search"] = time.monotonic() - start
    page.close()
    return found


def markdown(rows: dict[int, dict[str, Any]]) -> str:
    """Write the table."""
    sizes = " ".join(map(str, rows))
    how = (
        f"`python benchmarks/report.py --treatments {sizes}`: {REPLICATES} wells a treatment, "
        f"{SITES} sites a well, {len(CHANNELS)} channels, {len(QUALITIES)} qualities of each. MB "
        "are millions of bytes; beside: in a folder next to the file. Main thread: CPU "
        "seconds of the page's until the explorer is at work, which other work on the machine "
        "prolongs least. Loaded and at work: seconds since the page was asked for; pointer and "
        "search: until the map's card and the number found are shown; longest: in which the page "
        "answers nothing. Of "
        f"{NUM_VISITS} visits the least."
    )
    where = (
        f"Python {platform.python_version()}, headless Chromium, {os.cpu_count()} CPUs shared with "
        "other work."
    )
    heads = (
        "| treatments | mechanisms | file, MB | goal, MB | pictures beside "
        "| elements | main thread, CPU s | loaded, s | at work, s | pointer, s | search, s "
        "| longest, s |"
    )
    lines = ["# What a report on many treatments weighs, and how soon it answers", "", how, ""]
    lines += [where, "", heads, "|---" * 12 + "|"]
    for num, row in rows.items():
        moas, goal = SIZES.get(num, (150, None))
        times = " | ".join(
            f"{row[key]:.2f}" for key in ("cpu", "loaded", "ready", "hover", "search", "longest")
        )
        shown = [
            f"{num:,}",
            moas,
            f"{row['bytes'] / 1e6:.1f}",
            f"{goal / 1e6:.0f}" if goal else "-",
        ]
        shown += [f"{row['beside']:,}", f"{row['elements']:,}", times]
        lines.append(f"| {' | '.join(map(str, shown))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure each size, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--treatments", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    rows: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        for num in given.treatments:
            run = folder / f"run-{num}"
            if not (run / "results.json").exists():
                make_run(run, num, SIZES.get(num, (150, None))[0])
            rows[num] = report_on(run) | opened(run / "report.html")
            print(num, json.dumps(rows[num]), flush=True)
    print(markdown(rows))
    if given.write:
        RESULT.write_text(markdown(rows))


if __name__ == "__main__":
    main()
