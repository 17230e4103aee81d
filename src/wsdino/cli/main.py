"""Entry and exit of the command line: processes, signals, and one line for each error."""

from __future__ import annotations

import codecs
import os
import signal
import sys
import traceback
from contextlib import redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from wsdino import stopping
from wsdino.cli import answers, models, profiles, runs, screens, setup
from wsdino.cli.app import app, is_job, release_outputs, wants_traceback
from wsdino.errors import InputError, JobError, WsdinoError
from wsdino.extras import install_line
from wsdino.progress import print_error

for group in (runs, screens, models, profiles, answers, setup):
    app.add_typer(group.commands)


def main() -> None:
    """Run the command line; turn errors into one line and an exit status."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors=_WRITABLE)
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
        if stopping.signal_received():
            _end(stopping.STOPPED, 1)
        if wants_traceback():
            raise
        if isinstance(error, ModuleNotFoundError) and (line := install_line(error.name or "")):
            _end(f"this needs {error.name}, which is not installed: {line}", InputError.exit_status)
        message = f"{type(error).__name__}: {_one_line(error)} (--debug shows the traceback)"
        _end(message, 1)
    finally:
        release_outputs()


def _writable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write a name of a file as the bytes that it is, and letters the locale lacks as escapes."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


_WRITABLE = "wsdino-writable"
codecs.register_error(_WRITABLE, _writable)


def _run_in_job() -> None:
    """Run as one of several processes; only the first prints results."""
    from wsdino import job

    job.start()
    with (
        Path(os.devnull).open("w", errors=_WRITABLE) as nobody,
        redirect_stdout(nobody if job.rank() else sys.stdout),
    ):
        try:
            status = app(standalone_mode=False)
        except Exception as error:
            # Errors in the command line itself have a type that Typer doesn't export.
            if hasattr(error, "format_message"):
                raise InputError(error.format_message()) from error
            raise
    job.finish()
    sys.exit(status if isinstance(status, int) else 0)


def _end(message: str, status: int, *, is_lost: bool = False) -> NoReturn:
    """Print why the command ends (once per job), and exit."""
    if not is_job():
        print_error(f"wsdino: {message}")
        sys.exit(status)
    from wsdino import job

    # torchrun ends the other processes soon after the first; print the reason before that.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    reported = job.reported_status() if is_lost else None
    if reported is None and job.is_first_report(message):
        print_error(f"wsdino: {message}")
    job.fail(status if reported is None else reported)
    sys.exit(status if reported is None else reported)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
