import hashlib
import json
import random
import shutil

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
        "step-00000002: damaged (step-00000002: model.safetensors does not match its SHA-256); passed over"
        in notes[0]
    )
    (tmp_path / "step-00000001" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"every checkpoint is damaged.*--redo train"):
        checkpoints.load_newest(tmp_path, optimizer)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two checkpoints, each with the best weights that it refers to. Do not change them."""
    folder = tmp_path_factory.mktemp("two")
    layer, optimizer = trained(2)
    for step in (1, 2):
        checkpoints.save_best(folder, step, tensors(layer))
        checkpoints.save(folder, step, tensors(layer), optimizer, {"best_step": step})
    return folder


FILES = [
    "step-00000002/model.safetensors",
    "step-00000002/optimizer.safetensors",
    "step-00000002/state.json",
    "step-00000002/SHA256SUMS",
    "best-00000002/model.safetensors",
    "best-00000002/SHA256SUMS",
]


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_anywhere_in_a_checkpoint_is_named_and_the_one_before_is_taken(
    two, tmp_path, name
):
    shutil.copytree(two, tmp_path / "it")
    path = tmp_path / "it" / name
    whole = path.read_bytes()
    place = random.Random(name)
    for _ in range(20):
        data = bytearray(whole)
        data[place.randrange(len(data))] ^= 1 << place.randrange(8)
        path.write_bytes(data)
        found = checkpoints.load_newest(tmp_path / "it", trained(0)[1])
        assert found.step == 1
        assert len(found.notes) == 1 and path.parent.name in found.notes[0]
        assert "damaged" in found.notes[0] and "passed over" in found.notes[0]


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_checkpoint_that_is_cut_or_gone_is_told(two, tmp_path, name):
    shutil.copytree(two, tmp_path / "it")
    path = tmp_path / "it" / name
    path.write_bytes(path.read_bytes()[:-20])
    assert checkpoints.load_newest(tmp_path / "it", trained(0)[1]).step == 1
    path.unlink()
    found = checkpoints.load_newest(tmp_path / "it", trained(0)[1])
    assert path.parent.name in found.notes[0]
    no_checksums_alone = name == "best-00000002/SHA256SUMS"
    assert found.step == (2 if no_checksums_alone else 1)


def test_the_best_weights_are_compared_before_they_become_the_student(two, tmp_path):
    shutil.copytree(two, tmp_path / "it")
    path = tmp_path / "it" / "best-00000002" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"best-00000002: damaged.*run the same command"):
        checkpoints.load_best(tmp_path / "it", 2)
    assert checkpoints.load_newest(tmp_path / "it", trained(0)[1]).step == 1, "what was advised"


def test_best_weights_that_are_gone_are_never_taken_for_granted(two, tmp_path):
    shutil.copytree(two, tmp_path / "it")
    shutil.rmtree(tmp_path / "it" / "best-00000002")
    found = checkpoints.load_newest(tmp_path / "it", trained(0)[1])
    assert found.step == 1 and "best-00000002: missing" in found.notes[0]
    with pytest.raises(DataError, match="best-00000002: missing"):
        checkpoints.load_best(tmp_path / "it", 2)


def test_what_an_older_version_wrote_without_checksums_is_taken_and_said(two, tmp_path):
    folder = tmp_path / "it"
    shutil.copytree(two, folder)
    for path in folder.rglob("SHA256SUMS"):
        path.unlink()
    for step in folder.glob("step-*"):
        content = json.loads((step / "state.json").read_text())
        content["sha256"] = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in step.glob("*.safetensors")
        }
        (step / "state.json").write_text(json.dumps(content))
    found = checkpoints.load_newest(folder, trained(0)[1])
    assert found.step == 2
    assert any("state.json" in note and "older version" in note for note in found.notes)
    assert any("best-00000002" in note and "older version" in note for note in found.notes)
    path = folder / "step-00000002" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert checkpoints.load_newest(folder, trained(0)[1]).step == 1


def test_a_damaged_checkpoint_does_not_end_the_run_that_passed_it_over(two, tmp_path):
    """Nor does it stay among the two that are kept."""
    shutil.copytree(two, tmp_path / "it")
    (tmp_path / "it" / "step-00000002" / "state.json").write_bytes(b"\xff\x00")
    layer, optimizer = trained(2)
    assert checkpoints.load_newest(tmp_path / "it", optimizer).step == 1
    checkpoints.save(tmp_path / "it", 3, tensors(layer), optimizer, {"best_step": 1})
    checkpoints.save(tmp_path / "it", 4, tensors(layer), optimizer, {"best_step": 1})
    assert sorted(p.name for p in (tmp_path / "it").iterdir()) == [
        "best-00000001",
        "step-00000003",
        "step-00000004",
    ]


@pytest.mark.parametrize(
    "content",
    ["[]", "null", "5", "{}", "[" * 100_000, "\ufeff{", '{"step": "x", "state": [], "sha256": 1}'],
)
def test_a_state_of_another_form_is_damage(two, tmp_path, content):
    """Without checksums, as an older version wrote it: what it holds is not known to be ours."""
    shutil.copytree(two, tmp_path / "it")
    step = tmp_path / "it" / "step-00000002"
    (step / "SHA256SUMS").unlink()
    (step / "state.json").write_text(content)
    found = checkpoints.load_newest(tmp_path / "it", trained(0)[1])
    assert found.step == 1 and "step-00000002: damaged" in found.notes[0]
    assert len(found.notes[0]) < 500


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
