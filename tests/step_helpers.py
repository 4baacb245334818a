"""One optimizer step of a tiny Qwen3 through the training loop's own code: its log row and its gradients.

Run as a script it is one of several processes, as `accelerate launch` starts them; each leaves a file of what it got.
"""

import sys
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
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, SignalWriter, sequence_key
from distill.training.loop import Course, Item, StudentLoss, run_step, trainable_parameters

VOCAB, LONGEST, TEACHER_WIDTH = 300, 32, 96
LENGTHS, ANSWER_STARTS = [12, 7, 20, 9, 15, 5, 31, 11], [4, 2, 13, 1, 7, 4, 10, 3]


def items() -> list[Item]:
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in LENGTHS]
    return [
        Item(i, start, sequence_key(i, start)) for i, start in zip(ids, ANSWER_STARTS, strict=True)
    ]


def signal(folder: Path) -> SignalStore:
    """What a random teacher said about the items: 50 draws and a hidden state a token, in a store on disk."""
    header = SignalHeader("sampled", VOCAB, num_draws=50, hidden_size=TEACHER_WIDTH)
    if not folder.exists():
        generator = torch.Generator().manual_seed(4)
        with SignalWriter(folder, header) as writer:
            for item in items():
                labels_N = torch.tensor(item.ids[item.answer_start :])
                logits_NV = 3 * torch.randn(len(labels_N), VOCAB, generator=generator)
                rows = draws.Rows.of(draws.seed_of(item.signal_key), len(labels_N))
                record = draws.draw(logits_NV, labels_N, rows, num_draws=50, vocab_size=VOCAB)
                states = hidden_states.quantize(
                    torch.randn(len(labels_N), TEACHER_WIDTH, generator=generator).numpy()
                )
                writer.add(item.signal_key, record, states)
    return SignalStore(folder, header)


def said_about(chosen: list[Item], store: SignalStore) -> Targets:
    return targets([store.read(i.signal_key) for i in chosen], "cpu")


def model() -> Any:
    """In float64: what differs is then an error, not rounding (Qwen3's norms alone round to float32)."""
    return tiny_qwen3().double()


def course(
    student: Any,
    store: SignalStore | None,
    *,
    soft_weight: float = 0.7,
    hard_weight: float = 0.4,
    packing: bool = True,
    rows_per_micro_batch: int = 1,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    hidden_weight: float = 0.0,
) -> Course:
    options = Train(
        epochs=1,
        max_length=LONGEST,
        batch_tokens=100 * LONGEST,
        micro_batch_tokens=rows_per_micro_batch * LONGEST,
        max_grad_norm=1e9,
        hidden_weight=hidden_weight,
    )
    return Course(
        role="student",
        model=student,
        options=options,
        soft_weight=soft_weight,
        hard_weight=hard_weight,
        items=items(),
        validation=[],
        store=store,
        vocab_size=VOCAB,
        pad_id=0,
        seed=1,
        where=Placement("cpu", "float32"),
        folder=Path("unused"),
        processes=processes,
        accelerator=Accelerator(cpu=True),
        packing=packing,
        teacher_width=TEACHER_WIDTH if hidden_weight else None,
    )


def one_step(what: Course, rows: list[list[int]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(log row, gradients by parameter as the optimizer finds them) of `rows`, lists of item numbers."""
    student = StudentLoss(what.model, what.options, what.vocab_size, what.teacher_width)
    module, trainable = what.accelerator.prepare_model(student), trainable_parameters(student)
    gradients: dict[str, Tensor] = {}
    optimizer = torch.optim.SGD(trainable.values())

    def remember(*_: Any) -> None:
        gradients.update({n: p.grad.clone() for n, p in trainable.items() if p.grad is not None})

    optimizer.register_step_pre_hook(remember)
    row = run_step(what, module, optimizer, trainable, rows, step=0, rate=0.0)
    return row, gradients


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    team = start(int(sys.argv[2]))
    for name, (step_rows, weight) in torch.load(folder / "steps.pt").items():
        what = course(model(), signal(folder / "signals"), processes=team, hidden_weight=weight)
        found = one_step(what, step_rows)
        torch.save(found, folder / f"{name}-{team.rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
