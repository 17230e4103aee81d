"""The command line's beginning and end: processes, signals, one line for what goes wrong."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import NoReturn

from wsdino import stopping
from wsdino.cli import models, profiles, runs, screens
from wsdino.cli.app import app, is_job, let_others_write, wants_traceback
from wsdino.errors import InputError, JobError, WsdinoError
from wsdino.progress import complain

for group in (runs, screens, models, profiles):
    app.add_typer(group.commands)


def main() -> None:
    """Run the command line; turn errors into one line and an exit status."""
    try:
        with stopping.stoppable():
            (_run_in_job if is_job() else app)()
    except stopping.Stopped:
        _end(stopping.STOPPED, 1)
    except WsdinoError as error:
        if wants_traceback():
            traceback.print_exc()
        _end(_one_line(error), error.exit_status, is_lost=isinstance(error, JobError))
    except Exception as error:
        if stopping.has_come():
            _end(stopping.STOPPED, 1)
        if wants_traceback():
            raise
        told = f"{type(error).__name__}: {_one_line(error)} (--debug shows where)"
        _end(told, 1)
    finally:
        let_others_write()


def _run_in_job() -> None:
    """Run as one of several processes, of which the first one speaks."""
    from wsdino import job

    job.start()
    with (
        Path(os.devnull).open("w") as nobody,
        redirect_stdout(nobody if job.rank() else sys.stdout),
    ):
        try:
            status = app(standalone_mode=False)
        except Exception as error:
            # What is wrong with the command line itself has a type that Typer keeps to itself.
            if hasattr(error, "format_message"):
                raise InputError(error.format_message()) from error
            raise
    job.finish()
    sys.exit(status if isinstance(status, int) else 0)


def _end(message: str, status: int, *, is_lost: bool = False) -> NoReturn:
    """Say why the command ends, in a job once, and exit."""
    if not is_job():
        complain(f"wsdino: {message}")
        sys.exit(status)
    from wsdino import job

    # torchrun ends whoever is left a moment after the first; what is to say is said before.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    told = job.told_status() if is_lost else None
    if told is None and job.is_first_to_say(message):
        complain(f"wsdino: {message}")
    job.fail(status if told is None else told)
    sys.exit(status if told is None else told)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
