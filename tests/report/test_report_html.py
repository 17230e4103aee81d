from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pytest
from generated_run import (
    MOAS,
    NASTY,
    MeanModel,
    MemoryStore,
    activity_results,
    make_run,
    make_store,
    treatments,
)
from PIL import Image

from wsdino.errors import InputError, OutputError
from wsdino.evaluate.results import evaluate_sites, write_results
from wsdino.profile.methods import find_normalisation
from wsdino.report import pictures
from wsdino.report.html import write_report
from wsdino.report.lights import paired_difference
from wsdino.report.parts import SECTIONS
from wsdino.runrecord import read_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TITLES = {section.name: section.title for section in SECTIONS}
VOID = {"br", "img", "input", "link", "meta", "rect", "path", "circle", "use"}
LOADING = {"src", "href", "srcset", "data", "poster", "action", "xlink:href"}


class Page(HTMLParser):
    """What a test asks of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._table: list[list[str]] | None = None
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.append((tag, values))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(values.get("id", f"{len(self.tables)}"), [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in {"td", "th"} and self._table is not None:
            self._table[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag
        if tag == "table":
            self._table = None

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)
        if self._table and self._table[-1] and {"td", "th"} & set(self.open):
            self._table[-1][-1] += data.strip()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def ids(self) -> list[str]:
        return [values["id"] for _, values in self.tags if "id" in values]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder without training curves, which take most of the time to draw."""
    return make_run(tmp_path / "my run", num_steps=0)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report on `run` as it is made, without a store."""
    return Page(write_report(make_run(tmp_path_factory.mktemp("plain") / "my run", num_steps=0)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report on a complete run, for tests that only look at it."""
    run = make_run(tmp_path_factory.mktemp("complete") / "my run")
    options = {"store": make_store(), "model": MeanModel(), "attention_sites": [0, 3]}
    options["warnings"] = ["swapped: plate P7: DAPI looks like Actin & so on"]
    return Page(write_report(run, **options))


def test_a_report_tells_what_looks_wrong_in_the_screen(page: Page, plain: Page, run: Path) -> None:
    assert "swapped: plate P7: DAPI looks like Actin & so on" in page.text
    assert "labels off by a well: replicates agree better after a shift" in page.text
    assert "Nothing looks wrong." not in page.text
    clean = Page(write_report(run, warnings=[]))
    assert "Nothing looks wrong." in clean.text
    assert "there is no store to check" in plain.text


def test_a_complete_report_has_every_section(page: Page) -> None:
    assert set(TITLES) | {"reproduce"} <= set(page.ids)
    assert "omitted" not in page.ids
    assert page.open == []


def test_it_loads_nothing_from_outside(page: Page) -> None:
    targets = [v for _, values in page.tags for k, v in values.items() if k in LOADING]
    assert targets
    assert all(target.startswith(("#", "data:")) for target in targets)
    # Bokeh's script has addresses in it; that none is asked for is seen in the browser's tests.
    written = re.sub(r"<script>.*?</script>", "", page.source, flags=re.DOTALL)
    assert set(re.findall(r"https?://[^\"' )]+", written)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert all(t.startswith("#") for t in re.findall(r"url\(([^)]*)\)", written))
    assert "@import" not in written
    assert "default-src 'none'" in written
    assert not {"iframe", "object", "embed"} & {tag for tag, _ in page.tags}


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    for _, values in page.tags:
        for key in ("href", "clip-path"):
            found = re.search(r"#([^)]*)", values.get(key, ""))
            assert found is None or found[1] in page.ids


def test_pictures_and_drawings_have_an_alternative_text(page: Page) -> None:
    assert all(values.get("alt") for tag, values in page.tags if tag == "img")
    for tag, values in page.tags:
        if tag == "svg":
            assert values.get("aria-label") or values.get("aria-hidden") == "true"


def test_names_are_escaped_everywhere(page: Page) -> None:
    assert NASTY in page.text
    assert MOAS[2] in page.text
    assert not re.search(
        r"<b>&|<i>syn", re.sub(r"<script.*?</script>", "", page.source, flags=re.DOTALL)
    )
    data = page.source.split('id="explorer-data">')[1].split("</script>")[0]
    assert NASTY in json.loads(data)["levels"][0]["names"][0]
    assert any(NASTY in values.get("alt", "") for tag, values in page.tags if tag == "img")


def test_headline_gives_numbers_intervals_and_method(run: Path, plain: Page) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    text = plain.text
    low, high = results["nsc_ci"]
    assert f"{100 * results['nsc']:.1f} %" in text
    assert f"{results['nsc_correct']}/{results['nsc_total']}" in text
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in text
    assert (
        f"tvn: {find_normalisation('tvn').help}; fitted on controls, 330 rows; 48 components"
        in text
    )
    assert "chance 11.0 % (p = 0.001)" in text
    low, high = results["map_ci"]
    assert (
        f"{results['map']:.3f} {results['map_total']} queries 95 % CI [{low:.3f}, {high:.3f}]"
        in text
    )
    assert "chance 0.234 (p = 0.001)" in text
    assert "treatments: 9 in NSC, 6 in NSCB, 9 in mAP" in text
    assert "a note about <this>" in text
    assert "batch 10.0 % - 41.2 % - - - - - 72" in text
    assert "treatments that are controls 6" in text


def test_what_the_evaluation_writes_is_what_the_report_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = treatments(4).loc[lambda rows: rows.index.repeat(4)].reset_index(drop=True)
    frame["Metadata_Batch"] = np.where(np.arange(len(frame)) % 16 < 8, "b1", "b2")
    frame["Metadata_Plate"] = frame["Metadata_Batch"] + np.where(frame.index % 2, "p1", "p2")
    frame["Metadata_Well"] = [f"{'BCDE'[n % 4]}{n // 4 + 1:02d}" for n in range(len(frame))]
    centre = rng.normal(size=(len(MOAS), 6))[np.arange(len(frame)) // 16]
    features = centre + 0.5 * rng.normal(size=(len(frame), 6))
    frame[[f"emb_joint_{n}" for n in range(6)]] = features
    results = evaluate_sites(frame, normalisation="standardise_all", num_permutations=20)
    write_results(results, tmp_path / "results.json")
    assert read_run(tmp_path).wrong == []
    page = Page(write_report(tmp_path))
    assert {"headline", "comparison", "confusion", "wrong_neighbours", "left_out", "leakage"} < set(
        page.ids
    )
    assert f"{results['nsc_correct']}/{results['nsc_total']}" in page.text
    assert f"chance {100 * results['nsc_null']['mean']:.1f} %" in page.text
    leakage = results["leakage"]["plate"]
    shares = [leakage["chance"], leakage["before"]["accuracy"], leakage["accuracy"]]
    assert f"plate {' '.join(f'{100 * share:.1f} %' for share in shares)}" in page.text
    assert "further_numbers" in page.ids
    three, five = results["nearest_k"]["nsc"]
    assert f"({three['correct']}/{three['total']})" in page.text
    assert f"({five['any']}/{five['total']})" in page.text
    assert f"not same compound and plate {100 * results['nscp']:.1f} %" in page.text
    (consistent,) = results["consistency"]
    for row in consistent["labels"]:
        assert f"{row['label']} " in page.text
        assert f"{row['corrected_p_value']:.2g}" in page.text
    assert "treatments that are controls" in page.text
    assert "leakage:" not in page.text
    assert "map per moa" not in page.text


@pytest.mark.parametrize("measure", ["nsc", "nscb"])
def test_confusion_matrix_holds_the_counts(run: Path, plain: Page, measure: str) -> None:
    confusion = json.loads((run / "results.json").read_text(encoding="utf-8"))["confusion"]
    found = re.search(rf'id="confusion-{measure}">(.*?)</script>', plain.source)
    assert found
    head, *rows = json.loads(found[1])
    labels = sorted(MOAS)
    assert head == ["", *labels]
    assert rows == [
        [label, *counts] for label, counts in zip(labels, confusion[measure], strict=True)
    ]


def test_right_answers_are_counted_by_mechanism(run: Path, plain: Page) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    shown = [row for table in plain.tables.values() for row in table]
    for index, label in enumerate(sorted(MOAS)):
        right = []
        for measure in ("nsc", "nscb"):
            mine = [n["correct"] for n in results[f"{measure}_neighbours"] if n["moa"] == label]
            right.append(f"{sum(mine)}/{len(mine)}" if mine else "-")
        expected = [label, *right, f"{results['map_per_moa'][label]:.3f}"]
        assert expected in [row[:4] for row in shown]
        assert results["confusion"]["nsc"][index][index] == int(right[0].split("/")[0])


def test_wrong_neighbours_and_left_out_queries_are_named(run: Path, plain: Page) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    tables = [row for table in plain.tables.values() for row in table]
    wrong = [n for n in results["nsc_neighbours"] + results["nscb_neighbours"] if not n["correct"]]
    assert wrong
    for entry in wrong:
        assert [
            f"{entry['compound']} {entry['concentration']:g} µM",
            entry["moa"],
            f"{entry['neighbour_compound']} {entry['neighbour_concentration']:g} µM",
            entry["neighbour_moa"],
            f"{entry['similarity']:.3f}",
        ] in tables
    assert "NSC: none; every treatment was a query." in plain.text
    (row,) = [row for row in tables if row[-1].startswith("no treatment of the same mechanism")]
    assert all(q["compound"] in row[1] for q in results["left_out"]["nscb"])


def test_of_many_left_out_the_first_are_named(run: Path) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    new = [{"compound": f"new-{n}.", "moa": None, "reason": "it has no MoA"} for n in range(60)]
    results |= {"left_out": {"nsc": new, "nscb": [], "map": new}, "nscb": None}
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    page = Page(write_report(run))
    rows = [row for table in page.tables.values() for row in table if row[-1] == "it has no MoA"]
    assert len(rows) == 2, "NSC and mAP"
    for row in rows:
        assert "new-49. and 10 more (all are in results.json)" in row[1]
        assert "new-50." not in row[1]
    assert "NSCB was not taken." in page.text


def test_of_many_curves_by_dose_the_first_are_shown_and_all_are_counted(run: Path) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    (curve,) = activity_results()["doses"]
    results["activity"]["doses"] = [curve | {"compound": f"drug-{n}"} for n in range(203)]
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    page = Page(write_report(run))
    assert "Distance to controls by dose: 203 compounds" in page.source
    assert "The first 200; the rest are in results.json." in page.source
    assert "drug-199" in page.source
    assert "drug-200" not in page.source


def test_results_of_another_version_are_said_to_be(run: Path, plain: Page) -> None:
    assert "has schema" not in plain.text
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    (run / "results.json").write_text(json.dumps(results | {"schema": 1}), encoding="utf-8")
    assert "results.json has schema 1, and this version writes 2" in Page(write_report(run)).text


@pytest.mark.parametrize(
    ("missing", "section", "reason"),
    [
        ("results.json", "headline", "there is no results.json"),
        ("metrics.jsonl", "training", "there is no metrics.jsonl"),
        ("profiles.parquet", "treatment_map", "there is no profiles.parquet"),
        ("coverage.json", "coverage", "there is no coverage.json"),
        ("config.yaml", "config", "there is no config.yaml"),
        ("environment.json", "environment", "there is no environment.json"),
    ],
)
def test_a_missing_file_costs_its_section_only(
    run: Path, missing: str, section: str, reason: str
) -> None:
    (run / missing).unlink()
    page = Page(write_report(run))
    assert "config" in page.ids or section == "config"
    assert section not in page.ids
    assert f"{TITLES[section]} {reason}" in page.text


def test_an_empty_run_folder_still_gets_a_report(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path))
    assert not set(TITLES) & set(page.ids)
    assert all(title in page.text for title in TITLES.values())


@pytest.mark.parametrize(
    "results",
    [
        {"nsc": 0.5},
        {"nsc": None, "nscb": "x", "map": float("nan"), "nsc_ci": 3},
        {"confusion": {"labels": ["a"], "nsc": [[1, 2]]}, "nsc_neighbours": None},
        {"normalisation": "zscore", "baselines": {"dino": {"nsc": 0.3}}, "left_out": {}},
        {"nsc_neighbours": [{"correct": False}], "left_out": {"nsc": [{}]}, "baselines": 3},
    ],
)
def test_partial_results_are_no_crash(tmp_path: Path, results: dict[str, Any]) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert Page(write_report(tmp_path)).open == []


def test_few_treatments_are_shown_by_principal_components(plain: Page) -> None:
    assert "too few for UMAP" in plain.text
    assert plain.source.count('<g id="map-tip-') == 9
    assert "PCA of 9 treatments" in plain.source


def test_collapse_is_said_in_words(tmp_path: Path) -> None:
    run = make_run(tmp_path / "trained")
    lines = [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for line in lines:
        line["teacher_entropy"] = line["assignment_entropy"] = line["teacher_entropy_max"]
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    text = Page(write_report(run)).text
    assert "Collapse to uniform (this run)" in text
    assert "No sign of collapse (DINO without weak labels)" in text


def test_mechanisms_keep_their_colour_over_tables_map_and_fields(page: Page) -> None:
    swatches = re.findall(
        r'<svg class="swatch"[^>]*fill="(#\w+)">.*?</svg>([^<]+)<', page.source, re.DOTALL
    )
    colours: dict[str, set[str]] = {}
    for colour, name in swatches:
        colours.setdefault(name.strip(), set()).add(colour)
    assert len(colours) == 3
    assert all(len(found) == 1 for found in colours.values())
    marks = page.source.split('id="treatment_map"')[1].split("</svg>")[0]
    assert all(colour in marks for found in colours.values() for colour in found)


def test_example_fields_and_attention_follow_what_is_asked(
    tmp_path: Path, store: MemoryStore
) -> None:
    def num_pictures(**options: Any) -> int:
        page = Page(write_report(tmp_path, store=store, **options))
        # Those of treatments and controls have ids.
        return sum(tag == "img" and "id" not in values for tag, values in page.tags)

    assert num_pictures(num_example_fields=1) == 4
    assert num_pictures(num_example_fields=2) == 8
    assert num_pictures(num_example_fields=0) == 0
    model = MeanModel()
    assert num_pictures(num_example_fields=0, model=model, attention_sites=[5]) == 3 * (4 + 2)
    assert num_pictures(num_example_fields=0, model=model) == 3 * 3 * (4 + 2)


def test_a_model_for_other_channels_costs_its_section_only(run: Path, store: MemoryStore) -> None:
    store.images, store.channels = store.images[:, :2], store.channels[:2]
    page = Page(write_report(run, store=store, model=MeanModel()))
    assert "attention" not in page.ids
    assert "Attention maps attention: 2 channel and 3 network names" in page.text


def test_coverage_says_where_partners_come_from(page: Page) -> None:
    assert "96 sites. Partners come from another plate; where there is none: relax." in page.text
    assert ["another plate", "72", "0.75", "-"] in [r for t in page.tables.values() for r in t]


def test_command_is_the_noted_one(run: Path, plain: Page) -> None:
    assert "wsdino run 'a $1.yaml'" in plain.text
    (run / "environment.json").write_text("{}", encoding="utf-8")
    assert "wsdino run 'my run/config.yaml'" in Page(write_report(run)).text


def test_it_says_which_version_made_the_run_and_which_reports_on_it(run: Path, plain: Page) -> None:
    ours = metadata.version("wsdino")
    assert f"With wsdino {ours} and the same config and data" in plain.text
    assert f"Written by wsdino {ours}." in plain.text
    assert ["versions.torch", metadata.version("torch")] in [
        row for table in plain.tables.values() for row in table
    ]
    record = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    record["versions"]["wsdino"] = "0.0.7"
    (run / "environment.json").write_text(json.dumps(record), encoding="utf-8")
    page = Page(write_report(run))
    assert "With wsdino 0.0.7 and" in page.text
    assert f"Written by wsdino {ours}." in page.text
    assert ("meta", {"name": "generator", "content": f"wsdino {ours}"}) in page.tags


def test_it_is_written_where_asked_and_the_same_every_time(run: Path, store: MemoryStore) -> None:
    out = run.parent / "elsewhere.html"
    assert write_report(run, store=store, out=out) == out
    assert not (run / "report.html").exists()
    first = out.read_bytes()
    write_report(run, store=store, out=out)
    assert out.read_bytes() == first
    assert len(first) < 5_000_000
    assert not [path for path in run.parent.iterdir() if path.name.startswith(".")]


def test_pictures_that_do_not_fit_lie_beside_the_page(
    run: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run.parent / "of all.html"
    folder = run.parent / "of all-pictures"
    write_report(run, store=store, out=out)
    assert not folder.exists()
    monkeypatch.setattr(pictures, "BASE_BYTES", 12_000)
    page = Page(write_report(run, store=store, out=out))
    named = [v["src"] for tag, v in page.tags if tag == "img" and "src" in v]
    beside = sorted(unquote(src) for src in named if not src.startswith("data:"))
    assert len(beside) > 1
    assert beside == sorted(f"of all-pictures/{path.name}" for path in folder.iterdir())
    assert f"The pictures of the {len(beside)} least active treatments lie in the folder" in (
        page.text
    )
    (folder / "mine.jpg").touch()
    monkeypatch.undo()
    write_report(run, store=store, out=out)
    assert [path.name for path in folder.iterdir()] == ["mine.jpg"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda run, _: write_report(run / "absent"), InputError, "no such run folder"),
        (lambda run, _: write_report(run, out=run), OutputError, "can't write a report there"),
        (lambda run, _: write_report(run, out=run / "a" / "b"), OutputError, "existing folder"),
        (
            lambda run, store: write_report(run, store=store, attention_sites=[8]),
            InputError,
            "site 8: the store has the sites 0 to 7",
        ),
    ],
)
def test_user_errors(
    run: Path, store: MemoryStore, call: Callable[..., Path], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        call(run, store)


@pytest.mark.slow
@pytest.mark.parametrize("width", [420, 1200])
def test_a_browser_shows_it_without_overflow(tmp_path: Path, width: int) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    moas = tuple(f"Mechanism number {n}" for n in range(12))
    report = write_report(make_run(tmp_path / "run", num_per_moa=4, moas=moas))
    shot = tmp_path / "shot.png"
    subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--hide-scrollbars",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},3000",
            f"--screenshot={shot}",
            report.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("L")).astype(int)
    assert pixels.shape[1] >= width
    # Text or figures in every part of the page, and margins that nothing runs into.
    assert all(np.ptp(band) > 100 for band in np.array_split(pixels[:3000], 10))
    assert np.ptp(pixels[:, :8]) == 0
    assert np.ptp(pixels[:, -8:]) == 0


def test_further_normalisations_are_rows_of_the_comparison(run: Path) -> None:
    path = run / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    held_out = {"nsc": 0.125, "nscb": 0.25, "map": 0.375, "num_folds": 4, "num_seeds": 5}
    beside = {
        **{key: value for key, value in results.items() if key != "baselines"},
        "nsc": 0.8125,
        "normalisation": {**results["normalisation"], "method": "weak_label"},
        "held_out": held_out,
    }
    path.write_text(json.dumps(results | {"beside": {"weak_label": beside}}), encoding="utf-8")
    text = " ".join(Page(write_report(run)).text.split())
    assert "81.2 %" in text
    assert "left out of the fit 12.5 %" in text
    assert "weak_label" in text


def test_baselines_are_compared_in_pairs(run: Path, plain: Page) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    best = max(results["baselines"], key=lambda name: results["baselines"][name]["nsc"])
    paired = paired_difference(results, results["baselines"][best])
    assert paired is not None
    difference, low, high = (100 * part for part in paired)
    assert f"{difference:+.1f} points, paired 95 % interval {low:+.1f} to {high:+.1f}" in plain.text
    assert "overlap;" not in plain.text


def test_without_mechanisms_there_are_no_empty_scores(run: Path) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for key in ("nsc", "nscb", "map", "baselines", "confusion"):
        results.pop(key)
    results |= {"num_treatments": 0, "nsc_neighbours": [], "nscb_neighbours": []}
    results |= {"nsc_total": 0, "nscb_total": 0, "map_total": 0}
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    page = Page(write_report(run))
    assert "Nothing was matched by mechanism; activity needs none." in page.text
    assert "Treatments 0" not in page.text
    assert "not same compound and batch" not in page.text
    assert "Wrong neighbours nothing was matched by mechanism" in page.text


@pytest.mark.parametrize(
    ("label", "config", "said"),
    [
        (
            "compound",
            "",
            "by self-distillation (DINO, arXiv 2104.14294) with compound as the weak ",
        ),
        ("none", "", "by self-distillation (DINO, arXiv 2104.14294) without weak labels, on 96 "),
        (
            "compound",
            "objective: {name: classify}\nmodel: {weights: /home/me/starter}\n",
            "objective classify (cross-entropy on the weak label) with compound as the weak label",
        ),
    ],
)
def test_the_methods_paragraph_names_what_was_trained(
    label: str, config: str, said: str, run: Path
) -> None:
    coverage = json.loads((run / "coverage.json").read_text(encoding="utf-8"))
    (run / "coverage.json").write_text(json.dumps(coverage | {"label": label}), encoding="utf-8")
    (run / "config.yaml").write_text(config or "seed: 7\n", encoding="utf-8")
    assert said in Page(write_report(run)).text


def test_the_methods_paragraph_says_what_was_recorded_and_no_more(run: Path, plain: Page) -> None:
    text = plain.text
    assert f"learnt with wsdino {metadata.version('wsdino')} by self-distillation" in text
    assert "Features were normalised by tvn, fitted on controls (330 rows)" in text
    assert "p values from 500 random rankings" in text
    (run / "coverage.json").unlink()
    (run / "results.json").write_text(json.dumps({"nsc": 0.5}), encoding="utf-8")
    text = Page(write_report(run)).text
    assert "self-distillation" not in text
    assert "NSCB, of another" not in text
    assert "random rankings" not in text
