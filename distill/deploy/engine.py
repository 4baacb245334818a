"""llama.cpp's server engine on one GGUF file, in this process, on the CPU.

`distill chat` and `serve` run on it. It always listens, on an address of this machine alone: its key
is known to nobody else.
"""

import http.client
import importlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from distill.deploy.choose import GgufChoice
from distill.errors import DataError, MissingError
from distill.llama_cpp import ggml

# Tokens, unless asked for more: keys and values of a long context need more memory than the weights
CONTEXT = 4096
MAX_CONNECTIONS = 64  # of clients at once; all but one wait for their turn
SILENT, ERRORS = 0, 1  # verbosity


@dataclass(frozen=True)
class Engine:
    """A running engine. `server`: the `xllamacpp.Server`; `key`: what its own address wants."""

    server: Any
    key: str

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.server.listening_address).netloc)

    def send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: dict[str, Any] | None,
    ) -> None:
        """Send a request; `body` becomes JSON."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request."""
        connection = self.connect()
        try:
            self.send(connection, "POST", path, body)
            return json.load(connection.getresponse())
        finally:
            connection.close()

    def context_length(self) -> int:
        """Return the tokens that prompt and answer may have together."""
        connection = self.connect()
        try:
            self.send(connection, "GET", "/props", None)
            return json.load(connection.getresponse())["default_generation_settings"]["n_ctx"]
        finally:
            connection.close()

    def num_tokens(self, body: dict[str, Any]) -> int:
        """Return the tokens of a request's `messages`, as the template writes them, or `prompt`."""
        prompt = body.get("prompt")
        if prompt is None:
            prompt = self.post("/apply-template", {"messages": body["messages"]})["prompt"]
        tokenize = {"content": prompt, "add_special": True, "parse_special": True}
        return len(self.post("/tokenize", tokenize)["tokens"])

    def mark_in(self, texts: Sequence[str]) -> str | None:
        """Return a mark of the chat template that stands in a text, None where there is none.

        A mark is a token that llama.cpp reads in a prompt as a control token, e.g. <|im_end|>.
        """
        together = "\n".join(texts)
        read_as_text = self._pieces(together, parse_special=False)
        read_as_prompt = self._pieces(together, parse_special=True)
        # beside a mark a word may be cut otherwise, too: marks are longer than such rests
        return max((piece for _, piece in read_as_prompt - read_as_text), key=len, default=None)

    def _pieces(self, text: str, *, parse_special: bool) -> set[tuple[int, str]]:
        """Return the ids and texts of the tokens of a text."""
        body = {"content": text, "parse_special": parse_special, "with_pieces": True}
        tokens = self.post("/tokenize", body)["tokens"]
        return {(token["id"], str(token["piece"])) for token in tokens}


def start(
    chosen: GgufChoice, *, num_threads: int, context_length: int | None, verbosity: int = SILENT
) -> Engine:
    """Return the engine that answers with the file.

    Prompts are written by the file's own template, as the student was trained; where a request does
    not say how to sample, or how much, the recipe does. Raises MissingError (no xllamacpp) and
    DataError (llama.cpp cannot load the file).
    """
    xllamacpp = _import_xllamacpp()
    params = xllamacpp.CommonParams()
    _set_model(params, chosen, context_length or CONTEXT, num_threads)
    _set_sampling(params.sampling, chosen)
    params.n_predict = chosen.recipe.generate.max_new_tokens
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.cors_origins = ""  # else every web page in a browser on this machine may ask it
    params.ui = False
    params.n_threads_http = MAX_CONNECTIONS + 2  # each waits for its turn in a thread
    key = secrets.token_hex()
    params.api_keys = [key]
    params.verbosity = verbosity
    try:
        engine = Engine(xllamacpp.Server(params), key)
    except RuntimeError:
        raise DataError(
            f"{chosen.path}: llama.cpp cannot load it, or not with a context of {params.n_ctx} "
            "tokens"
        ) from None
    # A server that is taken down before its loop runs waits for that loop for ever; what has gone
    # through its queue shows that it does
    engine.post("/completion", {"prompt": [0], "n_predict": 0})
    return engine


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
