"""A model with the rows of some of its tokens alone: embedding, head, and the ids in its configs."""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.errors import MismatchError

# lists of ids of which none has to be there: what is not cannot be written either
SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")


def keep_rows(model: Any, kept: Sequence[int]) -> None:
    """Keep the rows `kept` (ids, ascending) of a transformers model's embedding and head, in place.

    Row i is then the old row kept[i]; a head that is tied stays so. Its configs name the new ids.
    Raises MismatchError for a family that has more tables by token, or ids in other places.
    """
    import torch

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    num_rows = embedding.weight.shape[0]
    _refuse_other_tables(model, num_rows, [embedding, head])
    rows = torch.tensor(kept, device=embedding.weight.device)
    bias = getattr(head, "bias", None)
    tables = [t.detach()[rows] for t in (embedding.weight, head.weight)]
    padding, bias_rows = embedding.padding_idx, None if bias is None else bias.detach()[rows]
    model.resize_token_embeddings(len(kept), mean_resizing=False)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    with torch.no_grad():
        embedding.weight.copy_(tables[0])
        head.weight.copy_(tables[1])
        if bias_rows is not None:
            head.bias.copy_(bias_rows)
    new_ids = {old: new for new, old in enumerate(kept)}
    embedding.padding_idx = new_ids.get(padding)
    configs = [model.config, model.config.get_text_config(), model.generation_config]
    for config in {id(config): config for config in configs if config is not None}.values():
        _use_new_ids(config, new_ids)


def _refuse_other_tables(model: Any, num_rows: int, known: Sequence[Any]) -> None:
    """Raise MismatchError for a weight with as many rows as there are tokens, beside the two tables."""
    of_known = {id(parameter) for module in known for parameter in module.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in of_known and num_rows in parameter.shape:
            raise MismatchError(
                f"{type(model).__name__}: {name} has a row for each token beside embedding and head, "
                "and student.vocabulary cannot trim it: set student.vocabulary=null"
            )


def _use_new_ids(config: Any, new_ids: Mapping[int, int]) -> None:
    """Write the new ids into a config of a model or of generation.

    An id whose token is not kept is left out: the config named none of the tokenizer's.
    """
    names = [name for name in vars(config) if name.endswith("_token_id")]
    for name in [*names, *SUPPRESSED]:
        value = getattr(config, name, None)
        if isinstance(value, int):
            setattr(config, name, new_ids.get(value))
        elif value is not None:
            setattr(config, name, [new_ids[old] for old in value if old in new_ids] or None)
    for name in ("bad_words_ids", "force_words_ids", "sequence_bias"):
        if getattr(config, name, None) is not None:
            raise MismatchError(
                f"generation_config.json: {name} names tokens by id, which student.vocabulary "
                f"cannot trim: remove {name} there"
            )
