"""Entry points: `python -m launch.<command> --help`."""
