"""Runs: demo, train, run, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wsdino.cli.app import ConfigArgument, RunOption, Settings, lock_output
from wsdino.lock import one_writer
from wsdino.runfolder import RunFolder, RunPaths

commands = typer.Typer()


@commands.command(epilog="Example: wsdino demo --out demo_run")
def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("demo_run"),
    seed: Annotated[int, typer.Option(help="Seed of the screen and of the run.")] = 0,
) -> None:
    """Run every stage on a simulated screen; takes minutes on a laptop's CPU."""
    from wsdino.config import load_config
    from wsdino.simulate import simulate

    paths = RunFolder(out).paths
    with one_writer(out):
        screen = simulate(paths.screen, layout="small", size=192, seed=seed)
        config = load_config("demo", [f"seed={seed}", f"screen.source={screen}"])
        _run(config, out)


@commands.command(
    name="train", epilog="Example: wsdino train cpu --set screen.store=STORE --out RUN"
)
def train_command(config: ConfigArgument, out: RunOption, settings: Settings = None) -> None:
    """Train a model; resumes if it was stopped."""
    from wsdino.config import load_config
    from wsdino.pipeline import train_run

    typer.echo(train_run(load_config(config, settings), out).folder)


@commands.command(
    name="run",
    epilog="Example: wsdino run cpu --set screen.source=PLATES --out RUN",
)
def run_command(config: ConfigArgument, out: RunOption, settings: Settings = None) -> None:
    """Run every stage in order, from the screen to the report; skip those already done."""
    from wsdino.config import load_config

    _run(load_config(config, settings), out)


@commands.command(name="report", epilog="Example: wsdino report RUN")
def report_command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: report.html in the run folder.")
    ] = None,
) -> None:
    """Write a run's report again, as one self-contained HTML file."""
    from wsdino.config import load_config
    from wsdino.pipeline import report

    config = load_config(RunPaths(run).config)
    # Lock the report, not the run folder: a run in progress may be reported on.
    path = out or RunPaths(run).report
    lock_output(path)
    typer.echo(report(config, run, path))


def _run(config: Any, out: Path) -> None:
    from wsdino.pipeline import run
    from wsdino.report.terminal import print_results

    results = run(config, out)
    print_results(results, name="this run")
    typer.echo(f"\nreport: {RunPaths(out).report}")
