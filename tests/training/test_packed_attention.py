"""Packed rows without a mask: the losses, gradients and trainings of those with one."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import step_helpers as helpers
import torch
from conftest import tiny_qwen3
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from distill.core.checksums import write_checksums
from distill.core.processes import Processes
from distill.models.load import Placement, from_folder
from distill.recipe.sections import Train
from distill.training import packed_attention
from distill.training.batches import Batch, collate
from distill.training.loop import train
from distill.training.packed_attention import (
    CPU_MIN_LENGTH,
    Sequences,
    attention_of,
    kernel_problem,
    telling,
    use,
)
from distill.training.prepare import add_lora, checkpoint_activations, rows_of
from distill.training.student import StudentLoss

WITHIN = {torch.float64: 1e-12, torch.float32: 1e-6}
SHAPE: dict[str, Any] = {
    "vocab_size": helpers.VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.15,
    "pad_token_id": 0,
}
CPU = Placement("cpu", "float32")
LONG = Train(max_length=CPU_MIN_LENGTH)
SHORT = Train(max_length=CPU_MIN_LENGTH - 1)


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


def mixture() -> Any:
    more: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **more))


def windowed(window: int) -> Any:
    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=window))


MODELS: dict[str, Callable[[], Any]] = {
    "qwen3": tiny_qwen3,
    "llama": llama,
    "mixture": mixture,
    "a window that cuts sequences": lambda: windowed(5),
    "a window longer than sequences": lambda: windowed(64),
}


def made(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name]()


def random_rows(seed: int) -> list[list[tuple[list[int], int]]]:
    """One to four rows of one to six samples, of two to thirty tokens; all but one have a tail."""
    dice = random.Random(seed)

    def sample() -> tuple[list[int], int]:
        size = dice.choice([2, 3, 8, dice.randint(2, 30)])
        return [dice.randrange(3, helpers.VOCAB) for _ in range(size)], dice.randrange(1, size)

    return [[sample() for _ in range(dice.randint(1, 6))] for _ in range(dice.randint(1, 4))]


def loss_and_gradients(model: Any, batch: Batch) -> dict[str, Tensor]:
    student = StudentLoss(model.eval(), Train(), helpers.VOCAB)
    model.zero_grad()
    model.train()
    loss, _ = student(batch, None, 0.0, 1.0)
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], within: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.abs().max() > 0 or "k_proj.bias" in name, name
        error = (found[name] - value).norm() / (1e-30 + value.norm())
        assert error <= within, f"{name}: {error:.1e}"


def both_ways(model: Any, rows: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    batch = collate(rows, pad_id=0)
    expected = loss_and_gradients(model, batch)
    use(model)
    return loss_and_gradients(model, batch), expected


@pytest.mark.parametrize("dtype", WITHIN, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_with_a_mask(name, dtype):
    for seed in range(4):
        model = made(name).to(dtype)
        if name == "mixture" and dtype == torch.float64:
            model.set_experts_implementation("eager")  # the usual one knows no float64
        found, expected = both_ways(model, random_rows(seed))
        assert_same(found, expected, WITHIN[dtype])


@pytest.mark.parametrize("seed", range(30))
def test_any_packing_is_attended_to_as_with_its_mask(seed):
    """The attention alone, with as many heads and rows as come; a row may hold one token."""
    dice = random.Random(seed)
    batch = collate(random_rows(seed), pad_id=0) if seed else collate([], pad_id=0)
    sequences = Sequences(batch.position_ids_BT)
    num_rows, length = sequences.shape
    assert sum(sequences.lengths) == num_rows * length
    num_kv_heads, group, width = dice.randint(1, 3), dice.randint(1, 3), dice.choice([3, 8])
    generator = torch.Generator().manual_seed(seed)
    shapes = [num_kv_heads * group, num_kv_heads, num_kv_heads]
    inputs = [
        torch.randn(num_rows, heads, length, width, generator=generator, dtype=torch.float64)
        for heads in shapes
    ]
    module = torch.nn.Module()
    module.num_key_value_groups = group  # pyright: ignore[reportArgumentType]
    outcomes = []
    for mask in (sequences, sequences.mask_B1TT):
        leaves = query, key, value = [x.clone().requires_grad_() for x in inputs]
        attended, _ = packed_attention.attention(module, query, key, value, mask, scaling=0.3)
        outcomes.append([attended, *torch.autograd.grad(attended.sin().sum(), leaves)])
    for found, expected in zip(*outcomes, strict=True):
        assert (found - expected).abs().max() <= 1e-12


def test_the_mask_that_is_stood_for_is_the_one_that_transformers_makes():
    batch = collate(random_rows(3), pad_id=0)
    seen = []
    model: Any = tiny_qwen3()
    layer = model.model.layers[0].self_attn
    layer.register_forward_pre_hook(
        lambda _, arguments, given: seen.append(given["attention_mask"]), with_kwargs=True
    )
    for _ in range(2):
        with telling(batch.position_ids_BT):
            model.model(batch.input_ids_BT, position_ids=batch.position_ids_BT, use_cache=False)
        use(model)
    assert isinstance(seen[1], Sequences) and torch.equal(seen[1].mask_B1TT, seen[0])
    config = model.config
    heads = (config.num_attention_heads, config.num_key_value_heads)
    assert seen[1].heads == {(*heads, config.head_dim, config.head_dim)}


@pytest.mark.parametrize(
    "rows",
    [
        [[([5, 6, 7, 8], 2)], [([9, 10, 11, 12], 1)]],
        [[([5, 6, 7, 8, 9], 2)], [([9, 10], 1)]],
        [],
    ],
    ids=["equally long", "a tail", "no rows"],
)
def test_rows_of_one_sample_and_none_are_those_with_a_mask(rows):
    if rows:
        assert_same(*both_ways(llama().double(), rows), 1e-12)
        return
    use(model := llama())
    loss, _ = StudentLoss(model, Train(), helpers.VOCAB)(collate(rows, 0), None, 0.0, 1.0)
    assert float(loss.detach()) == 0


@pytest.mark.parametrize("way", ["adapter", "recomputed", "both"])
def test_adapters_and_recomputed_layers_have_the_gradients_of_a_mask(way):
    model = made("qwen3").double()
    if way != "recomputed":
        add_lora(Train(lora_rank=3), model)
        model.double()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    if way != "adapter":
        checkpoint_activations(model)
    assert_same(*both_ways(model, random_rows(2)), 1e-12)


def test_a_mask_is_made_where_a_window_cuts_a_sequence_and_only_there():
    rows = [[(list(range(3, 13)), 2), (list(range(3, 9)), 2)]]
    positions = collate(rows, 0).position_ids_BT
    for window, asked in ((9, False), (10, True)):
        model = windowed(window)
        use(model)
        with telling(positions) as sequences:
            model(torch.arange(3, 19)[None], position_ids=positions, use_cache=False)
        assert bool(sequences.heads) == asked


def test_a_forward_that_is_told_nothing_is_bit_for_bit_the_usual_one():
    model = llama().eval()
    ids = torch.randint(3, helpers.VOCAB, (2, 9))
    hidden = torch.tensor([[0] * 3 + [1] * 6, [1] * 9])
    packed = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]).expand(2, -1)
    options: list[dict[str, Any]] = [{}, {"attention_mask": hidden}, {"position_ids": packed}]
    expected = [model(ids, **given).logits for given in options]
    use(model)
    for given, logits in zip(options, expected, strict=True):
        assert torch.equal(model(ids, **given).logits, logits)
    written = model.generate(ids, max_new_tokens=5, do_sample=False)
    model.set_attn_implementation("sdpa")
    assert torch.equal(written, model.generate(ids, max_new_tokens=5, do_sample=False))


def test_dropout_of_attention_has_its_mask():
    """The generator's numbers are drawn as with one."""
    model = tiny_qwen3(dropout=0.2)
    batch = collate(random_rows(1), pad_id=0)
    torch.manual_seed(7)
    expected = loss_and_gradients(model, batch)
    use(model)
    torch.manual_seed(7)
    found = loss_and_gradients(model, batch)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class Slicing(LlamaForCausalLM):
    """As some models' own code does, it takes a part of the mask."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.register_forward_pre_hook(_sliced, with_kwargs=True)


def _sliced(_: Any, arguments: Any, given: dict[str, Any]) -> Any:
    return arguments, given | {"attention_mask": given["attention_mask"][:, :, :, :12]}


def test_what_cannot_do_without_a_mask_keeps_it_and_says_why():
    model = llama()
    short = attention_of(model, SHORT, CPU)
    assert short == packed_attention.Attention(
        False, f"with a mask (rows of {CPU_MIN_LENGTH - 1} tokens are short for a CPU)"
    )
    on_gpu = attention_of(model, LONG, Placement("cuda", "float32"))
    assert on_gpu.told == "with a mask (passes are in float32)"
    assert attention_of(tiny_qwen3(dropout=0.1), LONG, CPU).told.endswith("has dropout)")
    slicing = attention_of(Slicing(LlamaConfig(**SHAPE)), LONG, CPU)
    assert "(Slicing needs one: " in slicing.told and "Sequences" in slicing.told
    model.set_attn_implementation("eager")
    assert attention_of(model, LONG, CPU).told.endswith("has an attention of its own)")
    assert model.config._attn_implementation == "eager"
    no_gpu = kernel_problem([(4, 2, 16, 16)], torch.device("cpu"), torch.bfloat16)
    assert no_gpu is not None and no_gpu.startswith("varlen_attn: ") and len(no_gpu) < 250


@pytest.mark.parametrize("option", ["softcap", "s_aux", "block_indices"])
def test_an_attention_that_does_more_keeps_its_mask(option):
    """Else what it asks for would be left out without a word."""
    model = llama()
    more = {option: torch.ones(1)}
    for layer in model.model.layers:
        layer.register_forward_pre_hook(
            lambda _, arguments, given: (arguments, given | more), with_kwargs=True
        )
    found = attention_of(model, LONG, CPU)
    assert not found.by_sequence and option in found.told
    assert model.config._attn_implementation == "sdpa"


def test_each_part_of_a_model_attends_afterwards_as_before():
    model = llama()
    other = tiny_qwen3()
    other.config._attn_implementation = "eager"
    model.model.other = other
    assert attention_of(model, LONG, CPU).by_sequence
    assert model.config._attn_implementation == "sdpa"
    assert other.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", MODELS)
def test_what_can_do_without_is_asked_and_left_as_it_was(name):
    model = made(name)
    found = attention_of(model, LONG, CPU)
    assert found.by_sequence == ("cuts" not in name)
    if found.by_sequence:
        how, _, but = found.told.partition("; ")
        assert how == "without a mask, one sequence after the other"
        assert but.startswith("layers with a window of 64 tokens have one") == ("window" in name)
    assert model.config._attn_implementation == "sdpa"


def test_how_rows_are_attended_to_is_said(capsys):
    for options, by_sequence, how in ((LONG, True, "out a mask, one"), (SHORT, False, " a mask (")):
        assert rows_of(llama(), options, CPU, Processes()) == (True, by_sequence)
        said = capsys.readouterr().out
        assert said.count("\n") == 1 and f"packed rows are attended to with{how}" in said


def test_a_real_model_does_without(smollm2):
    model = from_folder(smollm2, dtype=torch.float32)
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2
    assert attention_of(model, LONG, CPU).by_sequence
    found, expected = both_ways(model.double(), random_rows(5)[:1])
    assert_same(found, expected, 1e-12)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return helpers.signal(tmp_path_factory.mktemp("packed") / "signals")


def course(folder: Path, store: Any, by_sequence: bool) -> Any:
    """A training of 24 steps with checkpoints after the tenth and the twentieth."""
    run = helpers.training_run(tiny_qwen3(), store, soft_weight=1.0, hard_weight=0.0)
    settings = {
        "epochs": 100,
        "max_steps": 24,
        "batch_tokens": 2 * helpers.LONGEST,
        "learning_rate": 3e-3,
        "keep": "last",
        "checkpoint_every": 10,
    }
    options = Train(**{**run.options.model_dump(), **settings})
    examples = helpers.examples()[:2]
    return replace(
        run, options=options, folder=folder, validation=examples, by_sequence=by_sequence
    )


def weights_of(run: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def test_a_training_goes_on_as_it_began(store, tmp_path, capsys):
    """Whether it began without a mask, with one, or in a version that knew of nothing else."""
    ends = {}
    for by_sequence in (True, False):
        folder = tmp_path / str(by_sequence)
        run = course(folder, store, by_sequence)
        train(run)
        ends[by_sequence] = weights_of(run)
        newest = folder / "checkpoints/student/step-00000020"
        content = json.loads((newest / "state.json").read_text())
        assert content["state"]["by_sequence"] is by_sequence
        if not by_sequence:
            del content["state"]["by_sequence"]
            (newest / "state.json").write_text(json.dumps(content))
            write_checksums(newest)
        again = course(folder, store, True)
        train(again)
        assert all(torch.equal(ends[by_sequence][n], p) for n, p in weights_of(again).items())
        said = capsys.readouterr().out
        assert ("it began with a mask for packed rows, and goes on" in said) == (not by_sequence)
    largest = max((ends[True][n] - p).abs().max() for n, p in ends[False].items())
    assert 0 < largest < 1e-4, "two ways, and one training"


def test_where_a_mask_is_needed_on_the_way_it_says_that_bits_differ(store, tmp_path, capsys):
    train(course(tmp_path, store, True))
    run = course(tmp_path, store, False)
    train(run)
    assert "packed rows have a mask from here on" in capsys.readouterr().out
    assert run.model.config._attn_implementation == "sdpa"
    newest = tmp_path / "checkpoints/student/step-00000020/model.safetensors"
    assert load_file(newest).keys() == dict(run.model.named_parameters()).keys()
