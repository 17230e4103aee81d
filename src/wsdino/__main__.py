"""Run the command line with ``python -m wsdino``."""

from wsdino.cli.main import main

main()
