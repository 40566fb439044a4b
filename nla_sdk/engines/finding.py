"""Which server answers at an address, by what it says of itself."""

from __future__ import annotations

from .connection import Connection, EngineError
from .server import Server
from .sglang import SGLang
from .vllm import VLLM


def find_server(connection: Connection) -> Server:
    """The server at an address.

    Raises:
        EngineError: nobody answers, it is neither vLLM nor SGLang, or runs in a way that would give wrong texts.
    """
    for path in ("/model_info", "/get_model_info"):  # SGLang's; the second is what older ones call it
        said = connection.ask("GET", path, optional=True)
        if isinstance(said, dict) and isinstance(said.get("model_path"), str):
            return SGLang.found(connection, said)
    said = connection.ask("GET", "/version", optional=True)
    if isinstance(said, dict) and isinstance(said.get("version"), str):
        return VLLM.found(connection, said["version"])
    raise EngineError(
        f"{connection.url} is neither vLLM nor SGLang: it answers neither /version nor /model_info as they do. Is it "
        "the address of the server itself?"
    )
