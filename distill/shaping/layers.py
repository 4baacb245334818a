"""Which layers of a decoder are kept, and the decoder that has only those."""

from typing import Any

from distill.errors import MismatchError

WAY_OUT = "use another student.layer_share, or student.method: base"
# what a config has a value a layer of: which kind of attention, and whether it knows places (RoPE)
BY_LAYER = ("layer_types", "no_rope_layers")


def num_kept_of(num_layers: int, share: float) -> int:
    return max(1, round(num_layers * share))


def evenly_spaced(num_layers: int, share: float) -> list[int]:
    """Return evenly spaced layer numbers, the first and the last among them (of two or more)."""
    num_kept = num_kept_of(num_layers, share)
    if num_kept == 1:
        return [0]
    return [round(i * (num_layers - 1) / (num_kept - 1)) for i in range(num_kept)]


def layers_of(model: Any) -> Any:
    """Return a decoder's list of layers. Raises MismatchError where there is none."""
    layers = getattr(model.base_model, "layers", None)
    if layers is None:
        raise MismatchError(
            f"{type(model).__name__}: no `layers` list to cut; use student.method: base"
        )
    return layers


def keep_layers(model: Any, kept: list[int]) -> None:
    """Remove all but the layers numbered `kept` (ascending) from a transformers decoder, in place.

    Its config follows. Raises MismatchError where the family's config cannot say what is left: the
    folder would load with random weights.
    """
    import torch

    layers = layers_of(model)
    model.base_model.layers = torch.nn.ModuleList(layers[i] for i in kept)
    for number, layer in enumerate(model.base_model.layers):
        for module in layer.modules():  # the number finds a layer's place in the key/value cache
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", number)  # noqa: B010 - torch types them as tensors
    _keep_layers_in_config(model, kept)
    of_config = require_config_of_its_weights(model, f"layers {kept}", WAY_OUT)
    _require_settings_of_its_config(model, of_config, kept)


def _keep_layers_in_config(model: Any, kept: list[int]) -> None:
    config = model.config.get_text_config()
    if layer_types := getattr(config, "layer_types", None):
        has_full_attention = any("full" in layer_types[i] for i in kept)
        if "linear_attention" in layer_types and not has_full_attention:
            raise MismatchError(
                f"{type(model).__name__}: layers {kept} are all linear attention, and the family "
                "needs one of full attention; raise student.layer_share"
            )
    keep_values_by_layer(config, kept)
    # mixtures of experts begin with some dense layers, which the config counts
    if getattr(config, "first_k_dense_replace", None):
        config.first_k_dense_replace = sum(i < config.first_k_dense_replace for i in kept)
    if hasattr(config, "moe_layer_start_index"):
        config.moe_layer_end_index = sum(i <= config.moe_layer_end_index for i in kept) - 1
        config.moe_layer_start_index = sum(i < config.moe_layer_start_index for i in kept)
    if dense := getattr(config, "mlp_only_layers", None):
        config.mlp_only_layers = [new for new, old in enumerate(kept) if old in dense]


def keep_values_by_layer(config: Any, kept: list[int]) -> None:
    """Keep the values of these layers alone in a config, in place, and their number."""
    for name in BY_LAYER:
        if values := getattr(config, name, None):
            setattr(config, name, [values[i] for i in kept])
    config.num_hidden_layers = len(kept)


def _require_settings_of_its_config(model: Any, of_config: Any, kept: list[int]) -> None:
    """Raise MismatchError where the model made of its config treats a layer otherwise than this one.

    Weights do not tell, as of layers with and without RoPE. What is the same in all layers counts as
    no setting of theirs.
    """
    mine, expected = (_settings_of(layers_of(made)) for made in (model, of_config))
    for name in sorted(mine.keys() & expected.keys()):
        found, wanted = mine[name], expected[name]
        differ_by_layer = len({*found.values()}) > 1 or len({*wanted.values()}) > 1
        differ_by_layer |= found.keys() != wanted.keys()
        if found != wanted and differ_by_layer:
            raise MismatchError(
                f"{type(model).__name__}: layers {kept} cannot be told in its config (by layer "
                f"{name} is {found}, the config says {wanted}); {WAY_OUT}"
            )


def _settings_of(layers: Any) -> dict[str, dict[int, Any]]:
    """Return by name what the layers' modules are set to, by the numbers of those that have it."""
    found: dict[str, dict[int, Any]] = {}
    for number, layer in enumerate(layers):
        for path, module in layer.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, bool | int | float | str) and not name.startswith("_"):
                    found.setdefault(f"{path}.{name}", {})[number] = value
    return found


def require_config_of_its_weights(model: Any, what: str, way_out: str) -> Any:
    """Return the model that the config makes, without weights in memory.

    `what`: what was kept of it, for the message. Raises MismatchError where it has other weights than
    this one.
    """
    import torch

    with torch.device("meta"):
        of_config = type(model)(model.config)
    expected = {name: value.shape for name, value in of_config.state_dict().items()}
    actual = {name: value.shape for name, value in model.state_dict().items()}
    names = expected.keys() | actual.keys()
    wrong = sorted(name for name in names if expected.get(name) != actual.get(name))
    if wrong:
        raise MismatchError(
            f"{type(model).__name__}: {what} cannot be told in its config ({wrong[0]} is "
            f"{actual.get(wrong[0])}, the config says {expected.get(wrong[0])}); {way_out}"
        )
    return of_config
