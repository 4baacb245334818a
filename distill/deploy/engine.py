"""llama.cpp's server engine on one GGUF file, in this process, on the CPU.

`distill chat` and `serve` run on it.
"""

import importlib
import socket
from typing import Any

from distill.deploy.choose import GgufChoice
from distill.errors import DataError, MismatchError, MissingError
from distill.llama_cpp import ggml

# Tokens, unless asked for more: keys and values of a long context need more memory than the weights
CONTEXT = 4096
SILENT, ERRORS = 0, 1  # verbosity


def start(
    chosen: GgufChoice,
    *,
    host: str,
    port: int,
    num_threads: int,
    context_length: int | None,
    api_key: str | None = None,
    verbosity: int = SILENT,
) -> Any:
    """Return an `xllamacpp.Server` that listens on host:port (0 = any), and answers calls too.

    Prompts are written by the file's own template, as the student was trained; where a request does
    not say how to sample, the recipe does. Raises MissingError (no xllamacpp), MismatchError (the
    address is taken) and DataError (llama.cpp cannot load the file).
    """
    xllamacpp = _import_xllamacpp()
    _require_free(host, port)
    params = xllamacpp.CommonParams()
    _set_model(params, chosen, context_length or CONTEXT, num_threads)
    _set_sampling(params.sampling, chosen)
    params.hostnames, params.port = [host], port
    params.cors_origins = ""  # else every web page in a browser on this machine may ask it
    params.api_keys = [api_key] if api_key else []
    params.verbosity = verbosity
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        raise DataError(
            f"{chosen.path}: llama.cpp cannot load it, or not with a context of {params.n_ctx} "
            "tokens"
        ) from None


def _import_xllamacpp() -> Any:  # compiled, without types
    try:
        return importlib.import_module("xllamacpp")
    except ImportError:
        install = f"run `pip install xllamacpp=={ggml.TESTED_WHEEL}`"
        raise MissingError(
            f"xllamacpp, which carries llama.cpp, is not installed: {install}"
        ) from None


def _set_model(params: Any, chosen: GgufChoice, context_length: int, num_threads: int) -> None:
    """Say what is loaded, and what it may use of this machine."""
    params.model.path, params.model_alias = str(chosen.path), {chosen.name}
    params.n_ctx = context_length  # llama.cpp takes no more than the student was made for
    params.fit_params = False  # else it may choose another context length
    params.n_parallel = 1  # requests queue: each slot would need its own keys and values
    params.cache_ram_mib = 0  # else up to 8 GiB of old prompts
    params.n_gpu_layers, params.warmup = 0, False
    params.cpuparams.n_threads = num_threads
    params.cpuparams_batch.n_threads = num_threads


def _set_sampling(sampling: Any, chosen: GgufChoice) -> None:
    options = chosen.recipe.generate
    sampling.temp = options.sampling_temperature
    sampling.top_p = options.top_p
    sampling.top_k = options.top_k
    sampling.min_p = 0.0


def _require_free(host: str, port: int) -> None:
    """Raise MismatchError where nothing can listen on host:port."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, socket_type, protocol, _, address = found[0]
        with socket.socket(family, socket_type, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise MismatchError(
            f"--host {host} --port {port}: {error.strerror}; choose another"
        ) from None
