"""What is done to a model before it is trained: other random weights, adapters, checkpointing.

And whether it can be packed.
"""

from typing import Any

from distill.core.processes import Processes
from distill.models.load import Placement, load_model
from distill.recipe.sections import Train

LORA_TARGETS = "all-linear"


def load_start(folder: str, device: str, options: Train, processes: Processes) -> Any:
    """Return the model that training begins with, in float32 whatever the type of the passes.

    Where it is to be divided over the ranks the first has it on its CPU, and the others have None.
    """
    if options.shard == "none":
        return load_model(folder, Placement(device, "float32"), local_rank=processes.local_rank)
    return load_model(folder, Placement("cpu", "float32")) if processes.is_main else None


def draw_weights_anew(model: Any, seed: int) -> None:
    """Give `model` the random weights that a new one of its shape has with this seed, in place.

    They are those of a student of `method: random` in a recipe of this seed.
    """
    import torch

    torch.manual_seed(seed)
    model.load_state_dict(type(model)(model.config).state_dict())


def add_lora(options: Train, model: Any) -> Any:
    """Put adapters into `model` in place and freeze everything else.

    Returns the PeftModel, which can merge them.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        target_modules=LORA_TARGETS,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def checkpoint_activations(model: Any) -> None:
    """Compute activations again in the backward pass; transformers 5.23 has another name for it."""
    enable = getattr(model, "activation_checkpointing_enable", None)
    enable = enable or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def rows_of(
    model: Any, options: Train, where: Placement, processes: Processes
) -> tuple[bool, bool]:
    """Return (whether a row can hold several samples, whether each is attended to by itself there).

    Every rank calls it; the first says how rows are attended to. No rank makes masks unless one has
    to; where the first alone has a model its word holds.
    """
    from distill.training.packed_attention import attention_of

    packing = None if model is None else can_be_packed(model)
    packing = bool(processes.broadcast(packing))
    if not packing:
        return False, False
    here = None if model is None else attention_of(model, options, where)
    found = [attention for attention in processes.gathered(here) if attention is not None]
    chosen = min(found, key=lambda attention: attention.by_sequence)
    if processes.is_main:
        print(f"  train: packed rows are attended to {chosen.told}", flush=True)
    return True, chosen.by_sequence


def can_be_packed(model: Any) -> bool:
    """Return whether position ids that begin anew keep attention inside a sample; measured on two.

    Where they do not (recurrent layers), every sample gets a row of its own.
    """
    import torch

    config = model.config.get_text_config()
    # a recurrent state ignores position ids, and how much it carries over depends on the weights:
    # that is not left to a tolerance
    if "linear_attention" in (getattr(config, "layer_types", None) or ()):
        return False
    ids = torch.arange(2, 14, device=model.device) % config.vocab_size
    second = ids[6:]
    positions = torch.arange(6, device=model.device).repeat(2)[None]

    def hidden_states(input_ids: Any, **options: Any) -> Any:
        return model.base_model(
            input_ids=input_ids[None], use_cache=False, **options
        ).last_hidden_state[0]

    was_training = model.training
    model.eval()
    with torch.no_grad():
        packed = hidden_states(ids, position_ids=positions)[6:]
        alone = hidden_states(second)
        not_packed = hidden_states(ids)[6:]
    model.train(was_training)
    tolerance = 1e-3 * (1 + (not_packed - alone).abs().max())
    return bool((packed - alone).abs().max() < tolerance)
