"""The section `teacher`: the model that is learnt from, and where it is reached."""

from typing import Literal

from pydantic import PositiveInt, model_validator

from distill.recipe.addresses import NO_VARIABLE, address_problem, is_variable
from distill.recipe.paths import PathText
from distill.recipe.schema import Section, field


class Teacher(Section):
    """The large model that is learnt from."""

    model: PathText = field(..., "Folder (./, / or ~) or hub id of the teacher")
    revision: str | None = field(None, "Hub revision; pin a commit to make the run repeatable")
    licence: str | None = field(None, "Licence key, where the catalogue does not know the model")
    device: Literal["auto", "cpu", "cuda"] = field(
        "auto", "auto = cuda if there is one, else cpu", machine=True
    )
    device_map: Literal["auto"] | None = field(
        None,
        "auto = its layers are spread over all GPUs of this machine, by one process, and what has "
        "no room there lies in memory and is copied to a GPU for each pass, which is slow; null = "
        "one device holds it. Without a GPU there is one device",
        machine=True,
    )
    tensor_parallel: PositiveInt | None = field(
        None,
        "So many processes, each with a GPU of its own, hold it together: a part of its heads and "
        "neurons each, of a mixture whole experts, by transformers' plan for its class. A launch with "
        "a multiple of them holds several copies, each on one node, which share the work; null = each "
        "process holds it whole",
        machine=True,
    )
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        "auto",
        "Of its weights, for answers and capture. auto = bfloat16 on cuda; on cpu float32, or "
        "bfloat16 where the processor multiplies it and a measurement at the start finds it faster "
        "(the choice is noted in generate/ and capture/precision.json, and a run that goes on keeps it)",
    )
    quantization: Literal["none", "nf4", "int8"] = field(
        "none", "bitsandbytes, when the GPU is small"
    )
    gguf: PathText | None = field(
        None,
        "A GGUF file of the model, run by llama.cpp on the CPU: it answers and gives the "
        "signal, `model` only the tokenizer and the chat template (a folder or hub id; its "
        "weights are not needed). With server and capture.from_server scores that one scores",
    )
    batch_tokens: PositiveInt = field(
        16384, "Tokens (prompt + answer) in one batch; less = less memory"
    )
    server: str | None = field(
        None,
        "URL of an OpenAI-compatible server that serves the model (http://host:8000; a path "
        "with a version in it, such as https://open.bigmodel.cn/api/paas/v4, is used as it is, "
        "else /v1 is added); null = load it here",
        machine=True,
    )
    server_model: str | None = field(
        None,
        "The model's name on that server; null = teacher.model. Another name may be another "
        "model, with answers of its own",
        machine=True,
    )
    api_key_env: str | None = field(
        None,
        "Environment variable that holds the server's key (its name, never the key itself); "
        "null = no key",
        machine=True,
    )
    server_gives: Literal["text"] | None = field(
        None,
        "text = ask the server for text alone, in conversations; the teacher's tokenizer is "
        "then not needed and `model` may be any name (capture.signal: none, and a student with "
        "a tokenizer of its own); null = what it gives is found out by asking",
    )
    trust_remote_code: bool = field(
        False, "Run code from the model's folder; needs a pinned revision"
    )

    @model_validator(mode="after")
    def _remote_code_is_pinned(self) -> "Teacher":
        if self.trust_remote_code and not self.revision:
            raise ValueError(
                "trust_remote_code needs a pinned revision: set teacher.revision to a commit"
            )
        return self

    @model_validator(mode="after")
    def _gguf_runs_alone(self) -> "Teacher":
        elsewhere = self.quantization != "none" or self.device == "cuda" or self.device_map
        if self.gguf and elsewhere:
            raise ValueError(
                "gguf runs on the CPU in its own quantization: remove gguf, or quantization, "
                "device: cuda and device_map"
            )
        return self

    @model_validator(mode="after")
    def _has_devices_to_spread_over(self) -> "Teacher":
        if self.device_map and self.device == "cpu":
            raise ValueError(
                "device_map auto spreads layers over GPUs, and device is cpu: remove one of them"
            )
        return self

    @model_validator(mode="after")
    def _is_divided_in_one_way(self) -> "Teacher":
        if self.num_parts == 1:
            return self
        others = {
            "device_map": self.device_map,
            "gguf": self.gguf,
            "quantization": None if self.quantization == "none" else self.quantization,
        }
        named = [f"{name} {value}" for name, value in others.items() if value]
        if named:
            raise ValueError(
                f"tensor_parallel {self.num_parts} divides weights in 16 or 32 bits over processes, "
                f"which does not go with {' and '.join(named)}: remove one of them"
            )
        return self

    @model_validator(mode="after")
    def _server_can_be_asked(self) -> "Teacher":
        if self.server and (problem := address_problem(self.server)):
            raise ValueError(f"server: {problem}")
        if self.api_key_env is not None and not is_variable(self.api_key_env):
            raise ValueError(f"api_key_env: {NO_VARIABLE}")
        if self.server_gives and not self.server:
            raise ValueError(
                f"server_gives {self.server_gives} without server: name the server, "
                "or remove server_gives"
            )
        return self

    @property
    def text_only(self) -> bool:
        """Return whether it is asked for text alone, so that nothing here needs its tokenizer."""
        return self.server_gives == "text"

    @property
    def num_parts(self) -> int:
        """Return how many processes hold its weights together, where they are loaded here."""
        return self.tensor_parallel or 1

    @property
    def answers_on_server(self) -> bool:
        """Return whether it answers on `server`; beside a GGUF file that one scores alone."""
        return self.server is not None and self.gguf is None

    @property
    def served_name(self) -> str | None:
        """Return the name on its server of the model that answers, where that is another than `model`."""
        return self.scoring_name if self.answers_on_server else None

    @property
    def scoring_name(self) -> str | None:
        """Return the model's name on `server`, where that is another than `model`."""
        if self.server is None or self.server_model in (None, self.model):
            return None
        return self.server_model
