"""What a training run will need of memory, before it starts. `python -m training.fit.plan`, see `estimate`"""

from ...configs.command import run_command
from .estimate import command

if __name__ == "__main__":
    run_command(command)
