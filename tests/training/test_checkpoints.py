import pytest
import torch

from distill.errors import DataError
from distill.training import checkpoints


def trained(steps: int, seed: int = 0):
    torch.manual_seed(seed)
    layer = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01, fused=True)
    for _ in range(steps):
        layer(torch.randn(5, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return layer, optimizer


def tensors(layer):
    return {name: p.detach().clone() for name, p in layer.named_parameters()}


def test_weights_optimizer_and_state_come_back_bit_for_bit(tmp_path):
    layer, optimizer = trained(3)
    checkpoints.save(tmp_path, 3, tensors(layer), optimizer, {"best_step": None, "note": "x"})
    _, fresh = trained(0, seed=1)
    step, model, state, notes = checkpoints.load_newest(tmp_path, fresh)
    assert (step, state["note"], notes) == (3, "x", [])
    assert all(torch.equal(model[n], t) for n, t in tensors(layer).items())
    for old, new in zip(
        optimizer.state_dict()["state"].values(), fresh.state_dict()["state"].values(), strict=True
    ):
        assert old.keys() == new.keys() and all(torch.equal(old[k], new[k]) for k in old)


@pytest.mark.parametrize("kind", ["AdamW8bit", "PagedAdamW8bit"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_the_states_of_8_bit_optimizers_come_back_and_the_next_step_is_the_same(kind, tmp_path):
    import bitsandbytes

    def fresh():
        torch.manual_seed(0)
        layer = torch.nn.Linear(128, 64)
        return layer, getattr(bitsandbytes.optim, kind)(layer.parameters(), lr=0.01)

    def step(layer, optimizer, seed):
        layer(
            torch.randn(5, 128, generator=torch.Generator().manual_seed(seed))
        ).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    layer, optimizer = fresh()
    for seed in range(3):
        step(layer, optimizer, seed)
    checkpoints.save(tmp_path, 3, tensors(layer), optimizer, {"best_step": None})
    step(layer, optimizer, 3)
    again, second = fresh()
    _, model, _, notes = checkpoints.load_newest(tmp_path, second)
    again.load_state_dict(model)
    step(again, second, 3)
    assert notes == [] and all(
        torch.equal(a, b) for a, b in zip(layer.parameters(), again.parameters(), strict=True)
    )


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoints.load_newest(tmp_path / "nothing", trained(0)[1]) is None


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path):
    layer, optimizer = trained(2)
    for step in (1, 2):
        checkpoints.save(tmp_path, step, tensors(layer), optimizer, {"best_step": None})
    path = tmp_path / "step-00000002" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    step, _, _, notes = checkpoints.load_newest(tmp_path, optimizer)
    assert step == 1
    assert (
        "step-00000002: damaged (model.safetensors does not match its SHA-256); passed over"
        in notes[0]
    )
    (tmp_path / "step-00000001" / "state.json").write_text("{")
    with pytest.raises(DataError, match="every checkpoint is damaged"):
        checkpoints.load_newest(tmp_path, optimizer)


def test_two_checkpoints_are_kept_and_the_best_weights_they_refer_to(tmp_path):
    layer, optimizer = trained(1)
    for step in range(1, 6):
        if step in (2, 4):
            checkpoints.save_best(tmp_path, step, tensors(layer))
        checkpoints.save(
            tmp_path,
            step,
            tensors(layer),
            optimizer,
            {"best_step": 4 if step >= 4 else 2 if step >= 2 else None},
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best-00000004",
        "step-00000004",
        "step-00000005",
    ]
    assert checkpoints.load_best(tmp_path, 4).keys() == tensors(layer).keys()


def test_half_written_folders_are_not_checkpoints(tmp_path):
    layer, optimizer = trained(1)
    checkpoints.save(tmp_path, 1, tensors(layer), optimizer, {"best_step": None})
    (tmp_path / ".step-00000002.tmp").mkdir()
    assert checkpoints.load_newest(tmp_path, optimizer)[0] == 1
