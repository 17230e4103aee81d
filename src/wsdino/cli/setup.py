"""Set-up: presets, config, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wsdino.cli.app import ConfigArgument, Settings

commands = typer.Typer()


@commands.command(name="presets", epilog="Example: wsdino presets")
def presets_command() -> None:
    """List the built-in configs, and what each is for."""
    from wsdino.config import preset_names, preset_summary

    names = preset_names()
    width = max(map(len, names))
    for name in names:
        typer.echo(f"{name:{width}}  {preset_summary(name)}")


@commands.command(
    name="config", epilog="Example: wsdino config cpu --set train.epochs=20 > my.yaml"
)
def config_command(
    config: ConfigArgument,
    settings: Settings = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Say above each option what it does, what it may be, and why it has its value.",
        ),
    ] = False,
) -> None:
    """Print a config whole, with every default, as YAML that a run takes."""
    from wsdino.config import load_config
    from wsdino.explain import explain as explained

    if explain:
        typer.echo(explained(config, settings), nl=False)
    else:
        typer.echo(load_config(config, settings).to_yaml(), nl=False)


@commands.command(name="doctor", epilog="Example: wsdino doctor /data/screens")
def doctor_command(
    folder: Annotated[
        Path, typer.Argument(help="Where stores and runs are to be; its disk is timed.")
    ] = Path(),
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Look at this machine: versions, device, memory, disk, what is missing, what to begin with."""
    from json import dumps

    from wsdino.doctor import examine

    found = examine(folder)
    typer.echo(dumps(found, indent=1) if json else "\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    machine, disk, gpu = found["machine"], found["disk"], found["gpu"]
    rows = {
        "wsdino": found["versions"]["wsdino"],
        "Python": f"{machine['python']} on {machine['platform']}",
        "packages": ", ".join(
            f"{name} {version or 'missing'}"
            for name, version in found["versions"].items()
            if name != "wsdino"
        ),
        "CPUs": f"{machine['num_cpus']}, {found['cpu_capability'] or 'unknown'}",
        "memory": f"{machine['free_memory_bytes'] / 1e9:.1f} GB free",
        "GPU": f"{gpu['name']}, {gpu['memory_bytes'] / 1e9:.0f} GB" if gpu else "none",
        "extras": ", ".join(
            f"{name} {'yes' if is_there else 'no'}" for name, is_there in found["extras"].items()
        ),
        "disk": f"{disk['free_bytes'] / 1e9:.0f} GB free in {disk['folder']}; writes "
        f"{disk['written_bytes_per_second'] / 1e6:.0f} MB/s, "
        f"{disk['small_files_per_second']:,} small files/s",
        "preset": found["preset"],
    }
    width = max(map(len, rows))
    lines = [f"{name:{width}}  {text}" for name, text in rows.items()]
    return lines + [f"{'advice':{width}}  {text}" for text in found["advice"]]
