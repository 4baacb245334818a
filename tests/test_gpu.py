"""What only a CUDA GPU can show: the same answers, losses and signals as on the CPU, and whole runs in its number formats."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import tiny_qwen3
from cutting_helpers import student_of
from run_helpers import run, signal_when, small, start_fresh

from distill.losses.head import Head
from distill.losses.linear_head import linear_head_loss
from distill.losses.targets import SampledTargets
from distill.models import spread
from distill.models.decode import answer
from distill.models.head import head_of
from distill.models.load import Placement, from_folder
from distill.models.sampling import Sampling
from distill.models.score import score
from distill.models.sequences import TokenSequence
from distill.models.slots import Rolling
from distill.recipe.sections import Train
from distill.signals.columns import Columns
from distill.signals.header import SignalHeader
from distill.signals.pieces import Pieces
from distill.teachers.records import records_of_logits
from distill.training.batches import collate
from distill.training.packed_attention import attention_of, use
from distill.training.prepare import checkpoint_activations
from distill.training.student import StudentLoss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")

PROMPTS = [[5 + i, 6, 7, *range(20, 20 + 7 * i % 40)] for i in range(23)]
ON_GPU = [
    "teacher.device=cuda",
    "teacher.dtype=bfloat16",
    "train.device=cuda",
    "train.precision=bfloat16",
]
WAYS = {
    "bfloat16": [
        "quantize.formats=[f16, q4_0, q2_k, nf4, int8]",
        "quantize.recover=[q4_0, q2_k, nf4]",
        "quantize.recover_steps=4",
    ],
    "nf4, 8-bit optimizer": [
        "teacher.quantization=nf4",
        "train.optimizer=adamw_8bit",
        "train.gradient_checkpointing=true",
    ],
    "int8, LoRA, paged optimizer": [
        "teacher.quantization=int8",
        "train.optimizer=paged_adamw_8bit",
        "train.lora_rank=8",
    ],
    "float32, hidden states, top-k": [
        "teacher.dtype=float32",
        "train.precision=float32",
        "capture.hidden_states=int8",
        "train.hidden_weight=0.5",
        "capture.signal=top_k",
        "train.divergence=jsd",
    ],
}


def test_a_model_with_a_layer_in_memory_says_what_it_says_on_the_gpu_alone(tmp_path):
    """teacher.device_map, as on one GPU that has no room for a layer; its weights come for each pass."""
    tiny_qwen3().save_pretrained(tmp_path)
    parts = dict.fromkeys(("lm_head", "model.embed_tokens", "model.rotary_emb", "model.norm"), 0)
    parts |= {"model.layers.0": 0, "model.layers.1": "cpu"}
    one, several = (
        from_folder(tmp_path, dtype=torch.float32, device_map=placed)
        for placed in ({"": "cuda:0"}, parts)
    )
    assert spread.is_spread(several) and spread.bytes_on(several, spread.HOST) > 0
    sequences = [TokenSequence(list(range(3, 60)), 9), TokenSequence(list(range(7, 30)), 2)]
    found, expected = (
        list(score(model, head_of(model), sequences, batch_tokens=99, pad_id=0, vocab_size=300))
        for model in (several, one)
    )
    for (_, logp, _), (_, other, _) in zip(found, expected, strict=True):
        assert torch.allclose(logp, other, atol=1e-5)
    greedy = Sampling(max_new_tokens=12, stop_ids=(2,))
    assert answers(several, greedy).keys() == answers(one, greedy).keys()


def answers(model, sampling, num_slots=6):
    found = {}
    answer(
        model,
        PROMPTS,
        seeds=range(len(PROMPTS)),
        sampling=replace(sampling, max_new_tokens=200, stop_ids=tuple(range(250, 256))),
        pad_id=0,
        num_slots=num_slots,
        on_finished=lambda i, ids, reason: found.__setitem__(i, ids),
    )
    return found


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(1.0, 0.95, 50)], ids=["greedy", "sampled"]
)
def test_recorded_steps_give_the_answers_of_the_cpu(sampling):
    model = tiny_qwen3(hidden=128)
    expected = answers(model, sampling)
    found = answers(model.cuda(), sampling)
    assert found.keys() == expected.keys() and max(map(len, found.values())) > 128, (
        "more than one graph"
    )
    equal = sum(found[i] == expected[i] for i in found)
    assert equal >= 0.8 * len(found), (
        "sums are rounded in another order, which now and then decides a near tie"
    )


def test_answers_are_the_same_again_and_steps_were_recorded():
    model = tiny_qwen3(hidden=128).cuda()
    rolling = Rolling(
        model, PROMPTS, num_slots=6, max_new_tokens=200, stop_ids=[2], pad_id=0, known_lengths={}
    )
    with torch.inference_mode():
        rolling.run(lambda logits_NV, _: logits_NV.argmax(-1).tolist(), lambda *_: None)
    assert rolling.step.graphs.keys() == {128, max(map(len, PROMPTS)) + 200} | (
        {256} & rolling.step.graphs.keys()
    )
    assert answers(model, Sampling(1.0)) == answers(model, Sampling(1.0))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_head_gives_the_loss_and_gradients_of_the_cpu(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    hidden_NH, weight_VH = (
        torch.randn(700, 64, generator=generator),
        torch.randn(5000, 64, generator=generator) * 0.2,
    )
    hidden_NH, weight_VH = (
        hidden_NH.to(dtype).float(),
        weight_VH.to(dtype).float(),
    )  # numbers that both can hold
    ids_NK = torch.randint(4000, (700, 12), generator=generator)
    said = SampledTargets(ids_NK, torch.full(ids_NK.shape, 1 / 12))
    found = {}
    for device, kind in (("cpu", torch.float32), ("cuda", dtype)):
        h, w = (
            t.detach().to(device, kind, copy=True).requires_grad_() for t in (hidden_NH, weight_VH)
        )
        loss, _ = linear_head_loss(
            h,
            Head(w),
            ids_NK[:, 0].to(device),
            said,
            soft_weight=0.8,
            hard_weight=0.3,
            vocab_size=4001,
            chunk_size=256,
        )
        loss.backward()
        found[device] = [t.detach().float().cpu() for t in (loss, h.grad, w.grad)]
    for name, mine, reference in zip(
        ("loss", "hidden", "weight"), found["cuda"], found["cpu"], strict=True
    ):
        error = float((mine - reference).norm() / reference.norm())
        assert error <= tolerance, f"{name}: {error:.1e}"
    assert not found["cuda"][2][4001:].any()


@pytest.mark.parametrize("trims", [False, True])
def test_a_signal_drawn_on_the_gpu_is_that_of_the_cpu(trims):
    kept = range(0, 1900, 2)
    split = {token: [(token + 1) // 3, token % 7, 5] for token in range(1, 1900, 2)}
    columns = Columns(1900, Pieces(kept, split, 1900) if trims else None)
    logits_NC = 3 * torch.randn(300, 2000, generator=torch.Generator().manual_seed(1))
    labels = list(range(300))
    header = SignalHeader("sampled", len(kept) if trims else 1900, num_draws=50)
    here, there = (
        next(records_of_logits(header, [(slice(0, 300), on)], [labels], ["7" * 16], columns))
        for on in (logits_NC, logits_NC.cuda())
    )
    assert (
        abs(here.entropy - there.entropy).max() < 1e-3
        and abs(here.target_logp - there.target_logp).max() < 1e-3
    )
    mine, other = (
        {(t, i) for t in range(300) for i in r.ids[r.offsets[t] : r.offsets[t + 1]]}
        for r in (here, there)
    )
    assert len(mine & other) > 0.99 * len(mine), (
        "the same uniform numbers draw the same ids, but where rounding decides"
    )


def packed_step(model, batch):
    """Loss and gradients under autocast, and the bytes that the step took at its peak."""
    student = StudentLoss(model, Train(), model.config.vocab_size)
    model.zero_grad()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", torch.bfloat16):
        loss, _ = student(batch, None, 0.0, 1.0)
    loss.backward()
    taken = torch.cuda.max_memory_allocated() - before
    return taken, [loss.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("recomputed", [False, True])
def test_packed_rows_have_the_loss_and_gradients_of_their_mask_without_one(recomputed):
    """By varlen_attn, with grouped heads and a tail of padding, also where layers are recomputed."""
    model = tiny_qwen3(hidden=128).cuda()
    where = Placement("cuda", "bfloat16")
    found = attention_of(model, Train(), where)
    assert found.by_sequence and "varlen_attn" in found.told, found.told
    if recomputed:
        checkpoint_activations(model)
    rows = [
        [(list(range(3, 3 + n)), 1) for n in lengths] for lengths in ([90, 7, 160, 33], [250, 2])
    ]
    batch = collate(rows, pad_id=0).to(torch.device("cuda"))
    _, expected = packed_step(model.train(), batch)
    use(model)
    _, values = packed_step(model, batch)
    for value, reference in zip(values, expected, strict=True):
        assert (value - reference).norm() <= 5e-2 * (1e-6 + reference.norm())


def test_long_packed_rows_take_less_memory_without_a_mask():
    model = tiny_qwen3(hidden=128).cuda().train()
    row = [(list(range(3, 259)), 250)] * 16
    batch = collate([row], pad_id=0).to(torch.device("cuda"))
    masked, _ = packed_step(model, batch)
    use(model)
    without, _ = packed_step(model, batch)
    assert without < masked - 4096 * 4096, "the mask alone has a byte for each pair of tokens"


def test_a_student_cut_out_of_files_is_the_one_that_is_cut_out_of_memory(tmp_path):
    tiny_qwen3().save_pretrained(tmp_path)
    student = {"method": "layers", "layer_share": 0.5, "layers_by": "block_influence"}
    whole, parts = (
        student_of(tmp_path, student, layers_on_disk=on_disk, device="cuda")
        for on_disk in (False, True)
    )
    assert parts[:2] == whole[:2]
    for name, value in whole[2].state_dict().items():
        assert torch.equal(parts[2].state_dict()[name], value)


@pytest.mark.parametrize("way", WAYS)
def test_a_whole_run(way, tmp_path):
    result = run(*small(tmp_path / "run", *ON_GPU, *WAYS[way]))
    assert result.returncode == 0, result.stderr[-3000:]
    for role in ("student", "control"):
        trained = json.loads((tmp_path / "run" / "train" / role / "training.json").read_text())
        assert trained["num_steps"] > 4 and trained["validation_loss"] < 8
    formats = json.loads((tmp_path / "run" / "quantize" / "manifest.json").read_text())["result"][
        "formats"
    ]
    assert formats["f16"]["top_token_agreement"] >= 0.98


def test_a_recipe_that_says_cpu_is_trained_on_the_cpu_where_there_is_a_gpu(tmp_path):
    result = run(*small(tmp_path / "run"), "--stages", "plan,generate,capture,initialize,train")
    assert result.returncode == 0, result.stderr[-3000:]


def test_a_killed_run_goes_on(tmp_path):
    folder = tmp_path / "run"
    given = small(folder, *ON_GPU)
    checkpoints = folder / "train" / "checkpoints"
    signal_when(start_fresh(*given), lambda: any(checkpoints.glob("control/step-*/state.json")), 9)
    result = run(*given)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "continues at step" in result.stdout
