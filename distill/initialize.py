"""initialize: the student before training, as a model folder like any other.

    base     a model as it is
    layers   some layers of a bigger model, everything else shared (shaping/layer_choice.py)
    random   a new Qwen3 of a given shape with the teacher's tokenizer

Where a signal is captured the student's tokenizer must be the teacher's, id for id: logits are
compared id by id. A student that learns from text alone, or from chunks of bytes (capture.signal:
none, chunks), keeps its own, and its own chat template. Where the recipe trims the vocabulary the
student has the rows of the tokens that are kept, and the trimmed tokenizer.
"""

from collections.abc import Sequence
from typing import Any

from distill import chat
from distill.chat.tokenizers import load_students_tokenizer
from distill.core.files import FolderWriter, files_under
from distill.core.processes import ALONE, Processes
from distill.core.results import InitializeResult
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage, by_seed
from distill.data.stored_samples import read_samples
from distill.errors import MismatchError
from distill.models import find, load, on_disk
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.planning.cuts import READ_LAYERS, choice_seconds, has_room, making_bytes, searches
from distill.planning.lengths import RANDOM_CONTEXT, check_student
from distill.planning.machine import available_bytes
from distill.planning.sizes import UNKNOWN_SIZE, student_size
from distill.recipe import Recipe
from distill.shaping.cutting import cut, is_cut, reads_samples, told
from distill.shaping.rows import keep_rows
from distill.shaping.trimmed import (
    TrimmedVocabulary,
    kept_path,
    samples_stage,
    trim_stage,
    trimmed_vocabulary,
)
from distill.teachers.routes import students_tokenizers


def run(recipe: Recipe, folder: RunFolder, processes: Processes = ALONE) -> StageOutput:
    out = folder.stage("initialize") / "student"
    load.quiet()
    model, tokenizer = build(recipe, trimmed_vocabulary(recipe, folder))
    samples = read_samples(kept_path(recipe, folder)) if reads_samples(recipe.student) else None
    device = "cpu"
    if samples is not None:
        device = _device_of_cut(recipe, model)
        _read_once_if_it_fits(recipe, model, device)
    cuts, nll_before_cuts = cut(recipe, model, tokenizer, samples, device)
    for line in told(cuts, nll_before_cuts):
        print(f"initialize: {line}")
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
        cuts=cuts,
        nll_before_cuts=nll_before_cuts,
    )
    return StageOutput(result, files_under(out))


def _read_once_if_it_fits(recipe: Recipe, model: Any, device: str) -> None:
    """Read all layers of a model that samples go through on `device`, where there is room; else tell it.

    What is made of it is the same either way.
    """
    import torch

    if not on_disk.are_on_disk(model):
        return
    num_bytes, free = 4 * model.num_parameters(), available_bytes()
    if device == "cuda":
        free = min(free, torch.cuda.mem_get_info()[0])
    if has_room(num_bytes, free) or searches(recipe.student):
        on_disk.keep(model)
        return
    print(
        f"initialize: {num_bytes / 1e9:.1f} GB in float32 have no room in the {free / 1e9:.1f} GB that "
        "are free: its layers are read from the disk for each batch of samples"
    )


def _device_of_cut(recipe: Recipe, model: Any) -> str:
    """Return where samples go through the model: on a GPU where what stays in memory has room there.

    That is what the cuts leave of it, beside the layers that are read; all of it where layers are tried
    one by one, and where they are in memory already.
    """
    import torch

    device = load.placement(recipe.train.device, "float32").device
    if device != "cuda":
        return device
    num_bytes = 4 * model.num_parameters()
    if on_disk.are_on_disk(model) and not searches(recipe.student):
        num_rows = len(model.get_input_embeddings().weight)
        layer = max(sum(p.numel() for p in one.parameters()) for one in model.base_model.layers)
        left = student_size(recipe, UNKNOWN_SIZE, num_rows).parameters
        num_bytes = 4 * (left + READ_LAYERS * layer)
    free = torch.cuda.mem_get_info()[0]
    if has_room(num_bytes, free):
        return device
    print(
        f"initialize: {num_bytes / 1e9:.1f} GB in float32 have no room in the {free / 1e9:.1f} GB that "
        "are free on the GPU: it is cut on the CPU"
    )
    return "cpu"


def build(recipe: Recipe, trimmed: TrimmedVocabulary | None = None) -> tuple[Any, Any]:
    """Return (student before any cut, in float32 on the CPU; tokenizer).

    The layers of one that is to be cut stay in its files (models/on_disk.py). `trimmed`: the tokens
    that it keeps.

    Raises MismatchError if the tokenizers differ, or `trimmed` is of another model's.
    """
    import torch

    tokenizers = students_tokenizers(recipe)
    torch.manual_seed(recipe.seed)
    if recipe.student.method == "random":
        tokenizer = tokenizers.student if trimmed is None else trimmed.tokenizer
        return _random(recipe, tokenizer), tokenizer
    assert recipe.student.model is not None  # the recipe's own check
    location = recipe.model_location(recipe.student.model)
    own = load_students_tokenizer(recipe)
    if tokenizers.same:
        chat.require_same_tokenizer(recipe, tokenizers.teacher, own)
    if trimmed is not None:
        _require_parent(recipe, trimmed, own)  # before its weights are read
    where = load.Placement("cpu", "float32", layers_on_disk=is_cut(recipe.student))
    model = load.load_model(location, where, revision=recipe.student.revision)
    check_student(recipe, model.config.get_text_config().to_dict(), own)
    if trimmed is not None:
        keep_rows(model, trimmed.parent_ids)
        return model, trimmed.tokenizer
    if tokenizers.same:
        # the student answers in the format that the teacher's template makes, so it carries that
        own.chat_template = tokenizers.student.chat_template
    return model, own


def _require_parent(recipe: Recipe, trimmed: TrimmedVocabulary, own: Any) -> None:
    """Raise MismatchError where a kept token has another id in the student's own tokenizer."""
    kept = trimmed.tokenizer.convert_ids_to_tokens(list(range(len(trimmed))))
    parents = own.convert_ids_to_tokens(list(trimmed.parent_ids))
    for parent_id, parent, token in zip(trimmed.parent_ids, parents, kept, strict=True):
        if parent != token:
            raise MismatchError(
                f"{recipe.source}: student.model: {recipe.student.model} has not the tokenizer that was "
                f"trimmed: {token!r} is not its token {parent_id}: run `distill trim RECIPE --redo trim`"
            )


def _random(recipe: Recipe, tokenizer: Any) -> Any:
    from transformers import GenerationConfig, Qwen3ForCausalLM

    model = Qwen3ForCausalLM(random_config(recipe, tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def random_config(recipe: Recipe, tokenizer: Any) -> Any:
    """Return transformers' config of the student that `method: random` makes."""
    from transformers import Qwen3Config

    shape = recipe.student
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=True,
        max_position_embeddings=max(RANDOM_CONTEXT, recipe.train.max_length),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def section(recipe: Recipe) -> dict[str, Any]:
    """Return what of the recipe decides the student before training."""
    return {"student": recipe.student.identity()}


def inputs(recipe: Recipe) -> dict[str, str]:
    """Return which model the student begins as, or is cut from."""
    model = recipe.student.model or recipe.teacher.model
    return {"student": find.identity(recipe.model_location(model), recipe.student.revision)}


def reads(recipe: Recipe) -> Sequence[str]:
    return (samples_stage(recipe),) if reads_samples(recipe.student) else trim_stage(recipe)


def cost(work: Workload) -> Cost:
    parameters = work.student.parameters
    return Cost(
        PROCESS_BYTES + making_bytes(work),
        1 + 4 * parameters / 2e8 + choice_seconds(work),
        disk=4 * parameters,
        download=work.student_download,
    )


STAGE = Stage(
    "initialize",
    "make the student before training",
    run,
    InitializeResult,
    section,
    inputs,
    by_seed,
    reads=reads,
    cost=cost,
)
