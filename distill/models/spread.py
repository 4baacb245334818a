"""A model whose layers lie on several devices: the GPUs of one process, and this machine's memory.

transformers places the layers (`device_map="auto"`), and accelerate's hooks carry what goes in and out
from device to device. A layer in this machine's memory is copied to a GPU for each pass. Token ids go
to the first device, where logits come out again; hidden states are brought to where the head is.
"""

from collections.abc import Mapping
from typing import Any

from distill.errors import MismatchError

# Of a GPU's free memory for weights: the rest holds keys, values and passes. Of this machine's: the
# rest is for what else runs on it.
GPU_SHARE, HOST_SHARE = 0.8, 0.9
HOST_COPY_SPEED = 16e9  # bytes a second to a GPU over 16 lanes of PCIe 4.0, not pinned
HOST, DISK = "cpu", "disk"
WAY_OUT = (
    "take teacher.quantization nf4, a smaller teacher, teacher.gguf, or teacher.server with a "
    "machine that holds it"
)


def room_for_weights(*, on_host: bool = True) -> dict[int | str, int]:
    """Return how many bytes of weights each GPU may hold, by its number, and this machine's memory."""
    from accelerate.utils import get_max_memory

    free = {device: int(num_bytes) for device, num_bytes in get_max_memory().items()}
    host = int(HOST_SHARE * free.pop(HOST, 0))
    room: dict[int | str, int] = {device: int(GPU_SHARE * free[device]) for device in free}
    return {**room, HOST: host if on_host else 0}


def placing_of(model: Any) -> Mapping[str, Any]:
    """Return the device of each part of a model, by the part's name; {} where one holds it all."""
    return getattr(model, "hf_device_map", None) or {}


def is_spread(model: Any) -> bool:
    """Return whether the parts lie on more than one device."""
    return len(set(placing_of(model).values())) > 1


def bring_to_head(model: Any) -> None:
    """Have the hidden states that come out of the layers brought to where the head is."""
    device = head_device(model)

    def move(_: Any, inputs: Any, output: Any) -> Any:
        output["last_hidden_state"] = output["last_hidden_state"].to(device)
        return output

    model.base_model.register_forward_hook(move)


def head_device(model: Any) -> Any:
    """Return where the head computes."""
    layer = model.get_output_embeddings()
    return layer._hf_hook.execution_device if layer.weight.is_meta else layer.weight.device


def head_weight(model: Any) -> Any:
    """Return the head's weight; of one that lies elsewhere than it computes, a copy that stays there."""
    from accelerate.utils import align_module_device

    layer = model.get_output_embeddings()
    if not layer.weight.is_meta:
        return layer.weight
    with align_module_device(layer):
        return layer.weight.detach().clone()


def refuse_disk(location: object, model: Any) -> None:
    """Raise MismatchError where some layers have room neither on a GPU nor in memory."""
    num_bytes = bytes_on(model, DISK)
    if num_bytes:
        raise MismatchError(
            f"{location}: {num_bytes / 1e9:.1f} GB of its weights have room neither on the GPUs nor in "
            f"this machine's memory (teacher.device_map: auto): {WAY_OUT}"
        )


def bytes_on(model: Any, device: str) -> int:
    """Return the bytes of the parts of a spread model that lie on a device (`HOST`, `DISK`)."""
    parts = tuple(f"{name}." for name, where in placing_of(model).items() if where == device)
    return sum(
        parameter.numel() * parameter.element_size()
        for name, parameter in model.named_parameters()
        if f"{name}.".startswith(parts)
    )


def told(model: Any) -> str | None:
    """Return where the layers of a spread model lie, and what those in this machine's memory cost."""
    if not is_spread(model):
        return None
    gpus = {where for where in placing_of(model).values() if where not in (HOST, DISK)}
    text = f"its layers lie on {len(gpus)} GPUs" if len(gpus) > 1 else "its layers lie on one GPU"
    if gpus and (num_bytes := bytes_on(model, HOST)):
        text += f"; {price_of_host(num_bytes)}"
    return text


def price_of_host(num_bytes: float) -> str:
    """Return what it costs that so many bytes of weights lie in this machine's memory."""
    return (
        f"{num_bytes / 1e9:.1f} GB lie in this machine's memory and are copied to a GPU for each pass, "
        f"about {num_bytes / HOST_COPY_SPEED:.1f} s for each token that is written side by side "
        "(teacher.quantization nf4, or a server that holds it, is faster)"
    )
