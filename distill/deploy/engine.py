"""llama.cpp's server engine on one GGUF file, in this process, on the CPU: what `distill chat` and `serve` run on."""

import importlib
import socket
from typing import Any

from distill.deploy.choose import GgufChoice
from distill.errors import DataError, MismatchError, MissingError
from distill.formats.gguf.chat_template import as_trained
from distill.llama_cpp import ggml
from distill.llama_cpp.gguf_header import read_string

CONTEXT = 4096  # tokens, unless asked for more: keys and values of a long one need more memory than the weights
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
    """An `xllamacpp.Server` that listens on host:port (0 = any) and answers in-process calls too.

    It writes prompts as the student was trained (chat_template.py), and samples as the recipe says where a request does
    not. Raises MissingError (no xllamacpp), MismatchError (the address is taken) and DataError (llama.cpp cannot load the file).
    """
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")  # compiled, without types
    except ImportError:
        install = f"run `pip install xllamacpp=={ggml.TESTED_WHEEL}`"
        raise MissingError(
            f"xllamacpp, which carries llama.cpp, is not installed: {install}"
        ) from None
    _require_free(host, port)
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(chosen.path), {chosen.name}
    params.hostnames, params.port = [host], port
    params.n_ctx = (
        context_length or CONTEXT
    )  # llama.cpp takes no more than the student was made for
    params.fit_params = False  # else it may choose another context length
    params.n_parallel = 1  # requests queue: each slot would need its own keys and values
    params.cache_ram_mib = 0  # else up to 8 GiB of old prompts
    params.n_gpu_layers, params.warmup = 0, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = num_threads
    params.cors_origins = ""  # else every web page in a browser on this machine may ask it
    params.api_keys = [api_key] if api_key else []
    params.verbosity = verbosity
    options, sampling = chosen.recipe.generate, params.sampling
    sampling.temp, sampling.top_p, sampling.top_k, sampling.min_p = (
        options.sampling_temperature,
        options.top_p,
        options.top_k,
        0.0,
    )
    if template := read_string(chosen.path, "tokenizer.chat_template"):
        params.chat_template = as_trained(
            template, options
        )  # a file of an older version has the student's own
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        raise DataError(
            f"{chosen.path}: llama.cpp cannot load it, or not with a context of {params.n_ctx} tokens"
        ) from None


def _require_free(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise MismatchError(
            f"--host {host} --port {port}: {error.strerror}; choose another"
        ) from None
