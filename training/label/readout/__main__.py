"""Labels read out of the activations themselves, by probes. `python -m training.label.readout --config …`"""

from __future__ import annotations

from ...configs.command import data_stage, run_command
from . import stage

if __name__ == "__main__":
    run_command(data_stage(stage.run))
