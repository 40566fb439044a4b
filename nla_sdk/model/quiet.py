"""Loading a model prints nothing: what transformers, PEFT and bitsandbytes would say is checked and raised instead."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries' progress bars, log lines and warnings off the terminal while a model loads.

    What matters of them is checked here explicitly and raised as an error; bitsandbytes logs on import, PEFT only
    warns where a key fits nowhere, transformers draws bars for loads of a second.
    """
    os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    others = [logging.getLogger(name) for name in ("bitsandbytes", "accelerate", "peft")]
    levels = [logger.level for logger in others]
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for logger in others:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        for logger, level in zip(others, levels, strict=True):
            logger.setLevel(level)
