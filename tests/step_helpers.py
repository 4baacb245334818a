"""One optimizer step of a tiny Qwen3 through the training loop's own code: log row and gradients.

`save_steps_of_a_process` takes such steps as one of several processes, as `accelerate launch` starts
them; each leaves a file of what it got.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from conftest import tiny_qwen3
from torch import Tensor

from distill.core.processes import Processes, start
from distill.losses.targets import Targets
from distill.models.load import Placement
from distill.recipe.sections import Train
from distill.signals import draws, hidden_states
from distill.signals.collate import targets
from distill.signals.columns import Columns
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, SignalWriter, sequence_key
from distill.training.loop import run_step
from distill.training.run import Example, TrainingRun
from distill.training.student import StudentLoss, trainable_parameters

VOCAB, LONGEST, TEACHER_WIDTH = 300, 32, 96
LENGTHS, ANSWER_STARTS = [12, 7, 20, 9, 15, 5, 31, 11], [4, 2, 13, 1, 7, 4, 10, 3]


def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in LENGTHS]
    return [
        Example(i, start, sequence_key(i, start))
        for i, start in zip(ids, ANSWER_STARTS, strict=True)
    ]


DRAWS = SignalHeader("sampled", VOCAB, num_draws=50, hidden_size=TEACHER_WIDTH)
SCORED_DRAWS = replace(DRAWS, draw_log_probs=True)


def signal(folder: Path, header: SignalHeader = DRAWS) -> SignalStore:
    """The signal of a random teacher for the examples: 50 draws and a hidden state a token."""
    if not folder.exists():
        generator = torch.Generator().manual_seed(4)
        with SignalWriter(folder, header) as writer:
            for example in examples():
                labels_N = torch.tensor(example.ids[example.answer_start :])
                logits_NV = 3 * torch.randn(len(labels_N), VOCAB, generator=generator)
                rows = draws.Rows.of(draws.seed_of(example.signal_key), len(labels_N))
                record = draws.draw(
                    logits_NV,
                    labels_N,
                    rows,
                    num_draws=50,
                    columns=Columns(VOCAB),
                    with_log_probs=header.draw_log_probs,
                )
                states = hidden_states.quantize(
                    torch.randn(len(labels_N), TEACHER_WIDTH, generator=generator).numpy()
                )
                writer.add(example.signal_key, record, states)
    return SignalStore(folder, header)


def targets_of(chosen: list[Example], store: SignalStore) -> Targets:
    return targets([store.read(e.signal_key) for e in chosen], "cpu")


def model() -> Any:
    """In float64: what differs is then an error, not rounding (only Qwen3's norms round)."""
    return tiny_qwen3().double()


def biased_phi(vocabulary: int = VOCAB) -> Any:
    """A random two-layer Phi, whose head has a bias, in float32 and evaluation mode."""
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    phi = PhiForCausalLM(config).eval()
    torch.nn.init.normal_(phi.lm_head.bias)
    return phi


def training_run(
    student: Any,
    store: SignalStore | None,
    *,
    soft_weight: float = 0.7,
    hard_weight: float = 0.4,
    packing: bool = True,
    rows_per_micro_batch: int = 1,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    hidden_weight: float = 0.0,
) -> TrainingRun:
    options = Train(
        epochs=1,
        max_length=LONGEST,
        batch_tokens=100 * LONGEST,
        micro_batch_tokens=rows_per_micro_batch * LONGEST,
        max_grad_norm=1e9,
        hidden_weight=hidden_weight,
    )
    return TrainingRun(
        role="student",
        model=student,
        options=options,
        soft_weight=soft_weight,
        hard_weight=hard_weight,
        examples=examples(),
        validation=[],
        store=store,
        vocab_size=VOCAB,
        pad_id=0,
        seed=1,
        placement=Placement("cpu", "float32"),
        folder=Path("unused"),
        processes=processes,
        accelerator=Accelerator(cpu=True),
        packing=packing,
        teacher_width=TEACHER_WIDTH if hidden_weight else None,
    )


def one_step(run: TrainingRun, rows: list[list[int]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return (log row, gradients as the optimizer finds them) of `rows` of example numbers."""
    student = StudentLoss(
        run.model,
        run.options,
        run.vocab_size,
        run.teacher_width,
        stop_ids=run.stop_ids,
        own_divergence=run.own_divergence,
    )
    module = run.accelerator.prepare_model(student)
    trainable = trainable_parameters(student)
    gradients: dict[str, Tensor] = {}
    optimizer = torch.optim.SGD(trainable.values())

    def remember(*_: Any) -> None:
        gradients.update({n: p.grad.clone() for n, p in trainable.items() if p.grad is not None})

    optimizer.register_step_pre_hook(remember)
    row = run_step(run, module, optimizer, trainable, rows, step=0, rate=0.0)
    return row, gradients


def save_steps_of_a_process(folder: Path, num_processes: int) -> None:
    """Take the steps of `folder`/steps.pt as one of several processes, and leave a file for each."""
    processes = start(num_processes)
    for name, (step_rows, weight) in torch.load(folder / "steps.pt").items():
        store = signal(folder / "signals")
        run = training_run(model(), store, processes=processes, hidden_weight=weight)
        torch.save(one_step(run, step_rows), folder / f"{name}-{processes.rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
