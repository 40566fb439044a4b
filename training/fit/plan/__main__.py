"""`python -m training.fit.plan`: see `estimate`."""

import typer

from .estimate import command

if __name__ == "__main__":
    typer.run(command)
