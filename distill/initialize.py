"""initialize: the student before training, as a model folder like any other.

    base     a model as it is
    layers   evenly kept layers of a bigger model (first and last always), everything else shared
    random   a new Qwen3 of a given shape with the teacher's tokenizer

Where a signal is captured the student's tokenizer must be the teacher's, id for id: logits are
compared id by id. A student that learns from text alone (capture.signal: none) keeps its own, and its
own chat template.
"""

from typing import Any

from distill import chat, teachers
from distill.chat.tokenizers import load_students_tokenizer
from distill.core.files import FolderWriter, files_under
from distill.core.processes import ALONE, Processes
from distill.core.results import InitializeResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.errors import MismatchError
from distill.models import find, load
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.planning.lengths import check_student
from distill.recipe import Recipe


def run(recipe: Recipe, folder: RunFolder, processes: Processes = ALONE) -> StageOutput:
    out = folder.stage("initialize") / "student"
    load.quiet()
    model, tokenizer = build(recipe)
    with FolderWriter(out) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    config = model.config.get_text_config()
    result = InitializeResult(
        num_parameters=model.num_parameters(),
        method=recipe.student.method,
        model=recipe.student.model,
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        architecture=type(model).__name__,
    )
    return StageOutput(result, files_under(out))


def build(recipe: Recipe) -> tuple[Any, Any]:
    """Return (student in float32 on the CPU, tokenizer).

    Raises MismatchError if the tokenizers differ.
    """
    import torch

    tokenizers = teachers.connect(recipe).tokenizers
    torch.manual_seed(recipe.seed)
    if recipe.student.method == "random":
        return _random(recipe, tokenizers.student), tokenizers.student
    assert recipe.student.model is not None  # the recipe's own check
    location = recipe.model_location(recipe.student.model)
    own = load_students_tokenizer(recipe)
    if tokenizers.same:
        chat.require_same_tokenizer(recipe, tokenizers.teacher, own)
    model = load.load_model(
        location, load.Placement("cpu", "float32"), revision=recipe.student.revision
    )
    check_student(recipe, model.config.get_text_config().to_dict(), own)
    if recipe.student.method == "layers":
        num_layers = model.config.get_text_config().num_hidden_layers
        keep_layers(model, kept_layers(num_layers, recipe.student.layer_share))
    if tokenizers.same:
        # the student answers in the format that the teacher's template makes, so it carries that
        own.chat_template = tokenizers.student.chat_template
    return model, own


def _random(recipe: Recipe, tokenizer: Any) -> Any:
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    shape = recipe.student
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=True,
        max_position_embeddings=max(2048, recipe.train.max_length),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def kept_layers(num_layers: int, share: float) -> list[int]:
    """Return evenly spaced layer numbers, the first and the last among them (of two or more)."""
    num_kept = max(1, round(num_layers * share))
    if num_kept == 1:
        return [0]
    return [round(i * (num_layers - 1) / (num_kept - 1)) for i in range(num_kept)]


def keep_layers(model: Any, kept: list[int]) -> None:
    """Remove all but the layers numbered `kept` from a transformers decoder, in place.

    Its config follows. Raises MismatchError where the family's config cannot say what is left: the
    folder would load with random weights.
    """
    import torch

    layers = getattr(model.base_model, "layers", None)
    if layers is None:
        raise MismatchError(
            f"{type(model).__name__}: no `layers` list to cut; use student.method: base"
        )
    model.base_model.layers = torch.nn.ModuleList(layers[i] for i in kept)
    for number, layer in enumerate(model.base_model.layers):
        for module in layer.modules():  # the number finds a layer's place in the key/value cache
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", number)  # noqa: B010 - torch types them as tensors
    _keep_layers_in_config(model, kept)
    _require_config_of_its_weights(model, kept)


def _keep_layers_in_config(model: Any, kept: list[int]) -> None:
    config = model.config.get_text_config()
    config.num_hidden_layers = len(kept)
    if layer_types := getattr(config, "layer_types", None):
        kept_types = [layer_types[i] for i in kept]
        has_full_attention = any("full" in kind for kind in kept_types)
        if "linear_attention" in layer_types and not has_full_attention:
            raise MismatchError(
                f"{type(model).__name__}: layers {kept} are all linear attention, and the family "
                "needs one of full attention; raise student.layer_share"
            )
        config.layer_types = kept_types
    # mixtures of experts begin with some dense layers, which the config counts
    if getattr(config, "first_k_dense_replace", None):
        config.first_k_dense_replace = sum(i < config.first_k_dense_replace for i in kept)
    if hasattr(config, "moe_layer_start_index"):
        config.moe_layer_end_index = sum(i <= config.moe_layer_end_index for i in kept) - 1
        config.moe_layer_start_index = sum(i < config.moe_layer_start_index for i in kept)


def _require_config_of_its_weights(model: Any, kept: list[int]) -> None:
    """Raise MismatchError where a model made of the config has other weights than this one."""
    import torch

    with torch.device("meta"):
        of_config = type(model)(model.config).state_dict()
    expected = {name: value.shape for name, value in of_config.items()}
    actual = {name: value.shape for name, value in model.state_dict().items()}
    names = expected.keys() | actual.keys()
    wrong = sorted(name for name in names if expected.get(name) != actual.get(name))
    if wrong:
        raise MismatchError(
            f"{type(model).__name__}: layers {kept} cannot be told in its config ({wrong[0]} is "
            f"{actual.get(wrong[0])}, the config says {expected.get(wrong[0])}); use another "
            "student.layer_share, or student.method: base"
        )


def fingerprint(recipe: Recipe) -> Fingerprint:
    model = recipe.student.model or recipe.teacher.model
    identity = find.identity(recipe.model_location(model), recipe.student.revision)
    return Fingerprint({"student": recipe.student.identity()}, {"student": identity}, recipe.seed)


def cost(work: Workload) -> Cost:
    source, parameters = work.student_source, work.student.parameters
    download = 2 * source.parameters if source and not source.is_local else 0
    loaded = source.parameters if source else parameters
    return Cost(
        PROCESS_BYTES + 4 * loaded,
        1 + 4 * parameters / 2e8,
        disk=4 * parameters,
        download=download,
    )


STAGE = Stage(
    "initialize",
    "make the student before training",
    run,
    InitializeResult,
    fingerprint,
    cost=cost,
)
