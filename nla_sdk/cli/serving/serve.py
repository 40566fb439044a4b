"""`nla serve`: a pair loaded, an address said, requests answered until somebody stops it."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING

from ...errors import InputError, NLAError, SuspectActivationsWarning
from ...io.progress import say
from ..options import PairOptions, ServeOptions

if TYPE_CHECKING:
    from ...pair import NLAPair
    from ...serve.settings import Settings

ARENA_MAX, ARENAS = -8, 2  # M_ARENA_MAX of glibc's malloc.h
EXTRA = "nla serve needs more than is installed ({name} is missing): pip install 'nla-sdk[serve]'."


def serve(ref: str | None, options: PairOptions, how: ServeOptions) -> None:
    """Load a pair and serve it.

    Args:
        ref: the pair, where it is not named by --av and --ar.
    Raises:
        InputError: it is named twice, what is served with is not installed, or the settings make no sense.
    """
    try:
        from ...serve.app import create_app
        from ...serve.requests.threads import in_new_thread
        from ...serve.running import address_of, bound, listen, run
        from ...serve.settings import Settings
    except ModuleNotFoundError as error:
        raise InputError(EXTRA.format(name=error.name)) from error

    if ref is not None and options.av is not None:
        raise InputError(f"The pair is named twice: {ref} and --av {options.av}; expected one of them.")
    settings = Settings(**how.settings(secret_of(how.secret_env)))
    share_heaps()
    listening = bound(settings.host, how.port)  # before the models are loaded: a taken port is said at once
    try:
        pair, settings = in_new_thread(lambda: loaded(options.with_av(ref), settings), "nla-load", daemon=True).result()
        name = ref or options.av or options.ar or "demo"
        app = create_app(pair, settings, name)
        listen(listening)
        log_to_stderr()
        # what is odd about a request's vectors is in its answer, and no business of the log
        warnings.simplefilter("ignore", SuspectActivationsWarning)
        said = "" if settings.secret is None else " (asks for a secret)"
        print(f"{name} is served at {address_of(listening)}{said}", flush=True)
        run(app, settings, listening)
    finally:
        listening.close()


def loaded(options: PairOptions, settings: Settings) -> tuple[NLAPair, Settings]:
    """The pair, its source in memory, and the settings for it."""
    pair = options.load()
    return pair, with_source(pair, settings)


def share_heaps() -> None:
    """Have the threads of this process share two heaps, where its C library has such a setting.

    Each request's thread steps for all in its turn. glibc gives threads heaps of their own, up to eight a core, and
    each would keep what its largest step took: under 64 clients the memory grew for as long as it was looked at.
    """
    with contextlib.suppress(OSError, AttributeError):  # another system, or another C library
        ctypes.CDLL(None).mallopt(ARENA_MAX, ARENAS)


def secret_of(variable: str | None) -> str | None:
    """The secret that an environment variable holds; None: none was named.

    Raises:
        InputError: it is not set, or empty.
    """
    if variable is None:
        return None
    if not (secret := os.environ.get(variable, "").strip()):
        raise InputError(f"--secret-env {variable}: that variable is not set, or empty; expected the secret in it.")
    return secret


def with_source(pair: NLAPair, settings: Settings) -> Settings:
    """The settings, once the source is in memory; where it cannot be had, texts are not read, and that is said."""
    from dataclasses import replace

    try:
        _ = pair.source
        return settings
    except NLAError as error:
        say(f"warning: texts are not read here, only activations: {error}")
        return replace(settings, source=False)


def log_to_stderr() -> None:
    """A line a request on stderr, with the time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("nla_sdk.serve")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
