"""Models that two gloo ranks hold together, and what they make of them beside one process that holds all.

A rank of the functions here leaves what it found in a file; `sharding_helpers.ranks` starts them.
"""

from itertools import product
from pathlib import Path
from typing import Any

import families
import torch
from conftest import tiny_qwen3

from distill.core.processes import Processes, finish, start
from distill.core.teams import Team, in_teams
from distill.errors import Stopped
from distill.models import divided, load
from distill.models.continuations import Continued, Reader, log_likelihoods
from distill.models.decode import Drawer, answer
from distill.models.graphed_step import can_record
from distill.models.head import head_of
from distill.models.sampling import Sampling
from distill.models.score import TokenSequence, answer_hidden_states, score

PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13], [20], [21, 22]]
# a dense model whose vocabulary no two ranks divide evenly, experts, latent attention, linear attention
NAMES = ["tied", "qwen3-moe", "deepseek-v3.1", "qwen3.5"]
# torch multiplies experts of 32 bits at most
CASES = [*product(NAMES, ["float32"]), ("tied", "float64"), ("qwen3.5", "float64")]
SEQUENCES = [TokenSequence(list(range(3, 30)), 4), TokenSequence(list(range(40, 52)), 2)]
CHOICES = [Continued((5, 6, 7), ((8, 9), (10,))), Continued((11, 12), ((13, 14, 15), (16, 17)))]


def save_models(folder: Path) -> None:
    tiny_qwen3(vocabulary=301).save_pretrained(folder / "tied")
    for name in NAMES[1:]:
        families.save(families.BY_NAME[name], folder / name)


def answers_of(model: Any, *, temperature: float = 1.0, on_finished: Any = None) -> dict[int, Any]:
    found: dict[int, Any] = {}
    answer(
        model,
        PROMPTS,
        seeds=[1, 2, 3, 4],
        sampling=Sampling(temperature=temperature, max_new_tokens=8, stop_ids=(2,)),
        pad_id=0,
        on_finished=on_finished or (lambda index, ids, why: found.update({index: (ids, why)})),
        vocab_size=299,
        num_slots=2,
    )
    return found


def loaded(folder: Path, dtype: str, team: Team | None = None) -> Any:
    return load.load_model(str(folder), load.Placement("cpu", dtype), team=team)


def measured(model: Any) -> dict[str, Any]:
    """What a model answers, what leaves its layers, and how likely it finds tokens and continuations."""
    head = head_of(model)
    states = answer_hidden_states(model, SEQUENCES, 0)
    scored = list(score(model, head, SEQUENCES, batch_tokens=64, pad_id=0, vocab_size=290))
    reader = Reader(model, head, 0, 290, 64)
    return {
        "states": torch.cat(states),
        "log-probs": torch.cat([logp for _, logp, _ in scored]),
        "choices": torch.tensor(
            [s for of in log_likelihoods(reader, CHOICES, lambda _: None) for s in of]
        ),
        "sampled": answers_of(model),
        "greedy": answers_of(model, temperature=0.0),
        "recorded": can_record(model),
        "told": divided.told(model),
    }


def raises(error: Exception) -> Any:
    def callback(*_: Any) -> None:
        raise error

    return callback


def lead(folder: Path, team: Team) -> None:
    """As the leader: measure all models, and break off what the ranks do together."""
    for name, dtype in CASES:
        model = loaded(folder / name, dtype, team)
        torch.save(measured(model), folder / f"{name}-{dtype}-parts.pt")
        divided.tell_end(team.members)
    model = loaded(folder / NAMES[0], "float32", team)
    told = []
    for error in (Stopped("stopped by SIGTERM"), OSError("disk full")):
        try:
            answers_of(model, on_finished=raises(error))
        except Exception as found:
            told.append(found is error)
    torch.save((told, answers_of(model)), folder / "broken.pt")
    divided.tell_end(team.members, "stopped by SIGTERM")


def help_leader(folder: Path, team: Team) -> None:
    """As the other: draw nothing, and change no answer by that."""

    def refuse(*_: Any) -> list[int]:
        raise AssertionError("the leader draws")

    drawer: Any = Drawer
    drawer.__call__ = refuse
    for name, dtype in CASES:
        part = loaded(folder / name, dtype, team)
        divided.follow(team.members, lambda part=part: part)
    part = loaded(folder / NAMES[0], "float32", team)
    try:
        divided.follow(team.members, lambda: part)
    except Stopped as stopped:
        (folder / "stopped.txt").write_text(str(stopped))


def hold_models(folder: Path) -> None:
    """As one of two ranks that hold models together."""
    torch.set_num_threads(1)
    processes = in_teams(start(2), 2)
    assert isinstance(processes, Processes) and processes.team is not None
    (lead if processes.team.is_led_here else help_leader)(folder, processes.team)
    finish(processes)
