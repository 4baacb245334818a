"""A model of which each rank of a team holds a part, by transformers' own plan for its class.

Attention heads and neurons are divided (tensor parallel), experts stay whole and are shared out (expert
parallel); the ranks add up or join what they have in each layer, so all make every pass together.
The leader alone knows what is to be done: whatever it calls of the functions that are marked
`together`, the others of its team call with it (`follow`). What is drawn is drawn by the leader, so
that ranks whose last bits differ never write different answers.

Sources: Shoeybi et al., "Megatron-LM", 2019 (arXiv 1909.08053); transformers.distributed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from math import gcd
from typing import Any, Concatenate, ParamSpec, TypeVar

from distill.core import activity
from distill.core.processes import Processes
from distill.core.teams import Team
from distill.errors import MismatchError, Stopped
from distill.models.families import EXPERTS, first_of

P = ParamSpec("P")
R = TypeVar("R")

LEAST_TRANSFORMERS = (5, 23)  # whose plans were tried here
BY_ONE = "teacher.tensor_parallel=null teacher.device_map=auto with one process"
PART = "distill_part"  # the attribute of a model that is held in parts


class _Interrupted(Exception):
    """The leader has broken off what a team does together."""


@dataclass(frozen=True)
class _Told:
    """What a leader tells its team to do with the model."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]


@dataclass(frozen=True)
class _End:
    """That it ends; `stopped`: the words of the signal that ends it."""

    stopped: str | None = None


class Part:
    """This rank's part of a model, and what it does with `members`, the ranks that hold the others."""

    def __init__(self, members: Processes):
        self.members = members
        self._is_at_it = False
        self._failure: Exception | None = None

    def call(
        self,
        told: Callable[..., R],
        function: Callable[..., R],
        model: Any,
        *args: Any,
        **named: Any,
    ) -> R:
        """Call a function of the model, on all ranks where the leader does; `told`: its public name."""
        if self._is_at_it:  # part of what all do already
            return function(model, *args, **named)
        if self.members.is_main:
            others = {name: _without_callback(value) for name, value in named.items()}
            self.members.broadcast(_Told(told, tuple(map(_without_callback, args)), others))
        self._is_at_it = True
        try:
            with activity.in_common():
                result = function(model, *args, **named)
        finally:
            self._is_at_it = False
        self._raise_failure()
        return result

    def heard(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Return the leader's callback for the middle of a function that all call.

        What it raises is kept until all are told (`agreed`): else the others would wait for ever.
        """

        def call(*args: Any) -> None:
            if self._failure is None:
                try:
                    callback(*args)
                except Exception as error:
                    self._failure = error

        return call

    def agreed(self, num: int, choose: Callable[[], Sequence[int]]) -> list[int]:
        """Return `num` ids that the leader chooses, on all ranks.

        Raises on the leader what one of its callbacks has raised, and on the others that it did.
        """
        import torch

        told = torch.zeros(1 + num, dtype=torch.int64)
        if self._failure is not None:
            told[0] = 1
        elif self.members.is_main:
            told[1:] = torch.tensor(choose())
        is_over, *ids = self.members.overwrite(told).tolist()
        if is_over:
            self._raise_failure()
            raise _Interrupted
        return ids

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


def part_of(model: Any) -> Part | None:
    """Return this rank's part of a model that a team holds; None of one that it holds whole."""
    return getattr(model, PART, None)


def together(function: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Have all ranks that hold a model call a function of it when their leader does.

    The others are sent what it is given, but for functions: they get one that does nothing.
    """

    @wraps(function)
    def call(model: Any, *args: P.args, **named: P.kwargs) -> R:
        part = part_of(model)
        if part is None:
            return function(model, *args, **named)
        return part.call(call, function, model, *args, **named)

    return call


def whole(weight: Any) -> Any:
    """Return a weight as it is, or joined from the parts of all ranks, which then all call it."""
    return weight.detach().full_tensor() if hasattr(weight, "full_tensor") else weight


def own(weight: Any) -> Any:
    """Return what this rank holds of a weight: all of one that is not divided."""
    return weight.to_local() if hasattr(weight, "to_local") else weight


def _without_callback(value: Any) -> Any:
    return _nothing if callable(value) else value


def _nothing(*_: Any) -> None:
    pass


def ready(_: Any) -> None:
    """Do nothing with a model: who is told this has loaded it."""


def tell_ready(members: Processes) -> None:
    """Have the others of the team load the model, as their leader is about to."""
    members.broadcast(_Told(ready, (), {}))


def tell_end(members: Processes, stopped: str | None = None) -> None:
    """End the others' `follow`; `stopped`: the words of the signal for which the leader ends."""
    members.broadcast(_End(stopped))


def follow(members: Processes, loaded: Callable[[], Any]) -> None:
    """Do with the model what the leader does with it, until that ends; `loaded` returns it.

    Raises Stopped where the leader was stopped.
    """
    while True:
        told: Any = members.broadcast(None)
        if isinstance(told, _End):
            break
        assert isinstance(told, _Told)
        with suppress(_Interrupted):
            told.function(loaded(), *told.arguments, **told.named)
    if told.stopped is not None:
        raise Stopped(told.stopped)


@contextmanager
def placed_on(team: Team, device: Any) -> Iterator[None]:
    """Let transformers divide a model over this team in the block: by itself it takes all ranks there are."""
    from transformers.distributed.utils import TransformersDeviceMesh

    mixin: Any = import_module("transformers.distributed.mixin")
    of_all_ranks = mixin.initialize_distributed_mesh
    meshes = TransformersDeviceMesh(*team.meshes)
    mixin.initialize_distributed_mesh = lambda _: (device, meshes)
    try:
        yield
    finally:
        mixin.initialize_distributed_mesh = of_all_ranks


def division(config: Any, size: int) -> Any:
    """Return transformers' DistributedConfig for `size` parts of a model."""
    from transformers.distributed.configuration_utils import DistributedConfig

    return DistributedConfig(tp_size=size, ep_size=size if _num_experts(config) else 1)


def require_divisible(location: object, config: Any, size: int) -> None:
    """Raise MismatchError where transformers cannot divide a model into so many parts.

    `config`: transformers' own.
    """
    _require_transformers()
    text = config.get_text_config()
    who = f"{location}: teacher.tensor_parallel {size}: {config.model_type}"
    if not text.base_model_tp_plan:
        raise MismatchError(
            f"{who}: transformers has no plan to divide it: take {BY_ONE}, or teacher.server"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise MismatchError(
            f"{who}: its files are quantized, and how such are divided was not tried: take a model in "
            "16 bits, or serve it (teacher.server)"
        )
    counts = {"attention heads": _num_heads(text, "num_attention_heads")}
    counts["key/value heads"] = _num_heads(text, "num_key_value_heads")
    counts["experts"] = _num_experts(config)
    uneven = [f"{num} {what}" for what, num in counts.items() if num % size]
    if uneven:
        largest = gcd(*(num for num in counts.values() if num))
        sizes = [str(n) for n in range(2, largest + 1) if largest % n == 0]
        way_out = f"set it to {' or '.join(sizes)}" if sizes else f"take {BY_ONE}"
        raise MismatchError(
            f"{who}: it has {' and '.join(uneven)}, which {size} cannot share: {way_out}"
        )


def _num_heads(text: Any, name: str) -> int:
    """Return the heads that the plan of a config divides: 0 where each rank keeps them all."""
    plan = text.base_model_tp_plan.items()
    divides = any(key.endswith(("k_proj", "qkv_proj", "query_key_value")) for key, _ in plan)
    return getattr(text, name, None) or 0 if divides else 0


def _num_experts(config: Any) -> int:
    """Return how many experts a layer has that transformers has a plan for; 0 of none."""
    text = config.get_text_config()
    if not text.base_model_ep_plan:
        return 0
    return first_of(text.to_dict(), EXPERTS)


def _require_transformers() -> None:
    import transformers

    version = tuple(map(int, transformers.__version__.split(".")[:2]))
    if version < LEAST_TRANSFORMERS:
        least = ".".join(map(str, LEAST_TRANSFORMERS))
        raise MismatchError(
            f"teacher.tensor_parallel: transformers {transformers.__version__} is installed, and its "
            f"plans are taken from {least} on: pip install 'transformers>={least}'"
        )


def told(model: Any) -> str | None:
    """Return how a model is divided, in words; None of one that is whole."""
    part = part_of(model)
    if part is None:
        return None
    text = f"its weights are divided over {part.members.num} processes (tensor parallel"
    if num := _num_experts(model.config):
        text += f"; of {num} experts each holds {num // part.members.num}"
    text += ", by transformers' plan)"
    if model.device.type == "cuda":
        text += "; steps of decoding are not recorded as a graph"
    return text
