"""The run folder and the store, opened and checked before the first stage, and noted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from wsdino.checks import check, refuse_other_training, screen_warnings, settle
from wsdino.device import resolve_device
from wsdino.environment import environment
from wsdino.errors import ConfigError
from wsdino.progress import say, show
from wsdino.remote import absolute as absolute_path
from wsdino.runfolder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from wsdino.config import Config
    from wsdino.screen.selection import Selection
    from wsdino.screen.store import Store


def prepare(
    config: Config, out: Path, *, evaluated: bool = False
) -> tuple[RunFolder, Store, Config]:
    """Open the run folder and the store, check that they fit the config, and note both.

    In a job of several processes the first one checks and writes, and the others open.

    Parameters
    ----------
    config
        The resolved config.
    out
        Run folder.
    evaluated
        Whether profiles are to be judged in the end: what can't be said of this screen is said
        now.

    Returns
    -------
    tuple
        Run folder, store, and the config with absolute paths and settled by :func:`settle`.

    Raises
    ------
    InputError
        The subclass that fits; nothing is written then.
    """
    from wsdino import job
    from wsdino.evaluate.gallery import why_unmatched
    from wsdino.screen.store import open_store

    job.start()
    resolve_device(config.device)
    folder = RunFolder(out)
    path = config.screen.store or folder.paths.store
    absolute = {
        name: value and absolute_path(value)
        for name in ("source", "platemap", "store")
        for value in [getattr(config.screen, name)]
    }
    resolved = config.model_copy(update={"screen": config.screen.model_copy(update=absolute)})
    job.only_first(lambda: _check_and_note(config, resolved, folder, path))
    store = open_store(path, keep=config.screen.keep)
    # Found out before anything is trained: an image that was replaced in the store.
    job.only_first(lambda: store.pixels_digest)
    text = _environment_of(resolved, store)
    folder.before_work = lambda: folder.note(folder.paths.environment, text)
    settled, notes = settle(resolved, store.manifest)
    if evaluated:
        problem = why_unmatched(store.manifest)
        if problem:
            notes.append(f"{problem}: nothing is matched by mechanism; activity is measured anyway")
        for note in notes:
            say(f"{store.path}: {note}")
    return folder, store, settled


def _check_and_note(config: Config, resolved: Config, folder: RunFolder, path: Path) -> None:
    """Check config, folder and screen; make the store; write config, environment and coverage."""
    from wsdino.screen.correction import Correction
    from wsdino.screen.images import Planes, read_site
    from wsdino.screen.manifest import read_manifest
    from wsdino.tables.manifest import channels_of

    refuse_other_training(config, folder.paths)
    source = config.screen.source
    if source is not None and not path.exists():
        # Ingesting may take an hour: what would be refused after it is refused before.
        manifest = read_manifest(
            source,
            platemap=config.screen.platemap,
            controls=config.screen.controls,
            columns=config.screen.columns,
            selection=_selection(config),
            missing=config.screen.missing,
            pixel_size=config.screen.pixel_size,
        )
        field = read_site(Planes(manifest)[0])
        check(
            config,
            manifest,
            Correction(config.screen.illumination, config.screen.scale).shape(field.shape),
            channels=tuple(channels_of(manifest)),
            origin=str(source),
            run=folder.paths,
        )
    store = _store(config, path)
    check(
        config,
        store.manifest,
        store.field_shape,
        channels=store.channels,
        origin=str(store.path),
        run=folder.paths,
    )
    for line in screen_warnings(config, store):
        say(f"{store.path}: warning: {line}")
    folder.sweep()
    folder.note(folder.paths.config, resolved.to_yaml())
    if not folder.paths.environment.is_file():
        folder.note(folder.paths.environment, _environment_of(resolved, store))
    coverage(config, store, folder)


def _environment_of(config: Config, store: Store) -> str:
    """Say what the run ran on: the machine, and the screen by what it holds."""
    screen = {"pixels_digest": store.pixels_digest, "manifest_digest": store.manifest_digest}
    made = environment(seed=config.seed, device=config.device) | {"screen": screen}
    return json.dumps(made, indent=1) + "\n"


def _selection(config: Config) -> Selection:
    from wsdino.screen.selection import Selection

    return Selection(
        channels=config.screen.channels,
        z=config.screen.z,
        time=config.screen.time,
        acquisition=config.screen.acquisition,
        pattern=config.screen.pattern,
    )


def _store(config: Config, path: Path) -> Store:
    from wsdino.screen.correction import Correction, correction_of
    from wsdino.screen.ingest import ingest
    from wsdino.screen.store import open_store

    screen = config.screen
    if screen.source is not None:
        ingest(
            screen.source,
            path,
            platemap=screen.platemap,
            controls=screen.controls,
            columns=screen.columns,
            selection=_selection(config),
            illumination=screen.illumination,
            scale=screen.scale,
            missing=screen.missing,
            sites_per_file=config.screen.sites_per_file,
            pixel_size=screen.pixel_size,
        )
        return open_store(path, keep=screen.keep)
    if screen.store is None and not path.exists():
        raise ConfigError(
            "config key screen.source: empty; name a screen (--set screen.source=FOLDER) or a "
            "finished store (--set screen.store=STORE)"
        )
    store = open_store(path, keep=screen.keep)
    made, wanted = correction_of(store.attributes), Correction(screen.illumination, screen.scale)
    if made != wanted and wanted != Correction():
        say(
            f"{path}: was made with illumination {made.illumination} and scale {made.scale:g}; "
            f"screen.illumination {wanted.illumination} and screen.scale {wanted.scale:g} apply "
            "only to a screen.source"
        )
    return store


def coverage(config: Config, store: Store, folder: RunFolder) -> None:
    """Print and write how many sites have partners, before training."""
    from wsdino.report.coverage import coverage_table, coverage_title
    from wsdino.train.objectives import objective_of
    from wsdino.train.train import positives

    kind = objective_of(config.objective)
    found = positives(store.manifest, config.pairing, objective=kind)
    record = {
        "label": config.pairing.label,
        "num_labels": len(found.labels.names),
        "num_sites": len(found.labels.sites),
        "partner_from": config.pairing.partner_from,
        "fallback": config.pairing.fallback,
        "rows": found.pairing.coverage() if found.pairing else [],
    }
    say(coverage_title(record))
    if record["rows"]:
        show(coverage_table(record))
    folder.note(folder.paths.coverage, json.dumps(record, indent=1) + "\n")
