"""Runs: demo, train, run, report, explore."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from wsdino.cli.app import ConfigArgument, RunOption, Settings, lock_output
from wsdino.lock import one_writer
from wsdino.runfolder import RunFolder, RunPaths

commands = typer.Typer()

# The demo's screen has 108 control sites, fewer than the 128 features of a channel: whitened
# exactly, axes that hold only noise are blown up, which costs trained networks most.
_REGULARISATION = "profile.regularisation=0.01"


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
        settings = [f"seed={seed}", f"screen.source={screen}", _REGULARISATION]
        config = load_config("demo", settings)
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


@commands.command(name="explore", epilog="Example: wsdino explore RUN")
def explore_command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    host: Annotated[
        str, typer.Option(help="Address to bind to; another than this machine's asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8357,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
) -> None:
    """Look at a run's whole screen in the browser, until it is stopped with Ctrl-C."""
    import webbrowser

    from wsdino.config import load_config
    from wsdino.pipeline import explore
    from wsdino.report.serving import serve
    from wsdino.stopping import Stopped

    def ready(address: str) -> None:
        typer.echo(address)
        if browser:
            webbrowser.open(address)

    screen, page = explore(load_config(RunPaths(run).config), run)
    # Stopping it is how it ends.
    with suppress(Stopped):
        serve(screen, page, host=host, port=port, ready=ready)


def _run(config: Any, out: Path) -> None:
    from wsdino.pipeline import run
    from wsdino.report.terminal import print_results

    results = run(config, out)
    print_results(results, name="this run")
    typer.echo(f"\nreport: {RunPaths(out).report}")
