"""Run the command line with ``python -m wsdino``."""

from wsdino.cli import main

main()
