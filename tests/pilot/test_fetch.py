"""`distill fetch` against a hub on loopback: what comes, that it is whole, and what a failure says."""

import random
import resource
import signal
import subprocess
import time

import pytest
from hub_helpers import hash_of
from run_helpers import ROOT, call_distill, command, small

from distill.data.prompts import split_prompts
from distill.errors import DataError, MismatchError, MissingError
from distill.models import find
from distill.models.load import load_tokenizer
from distill.pilot import fetch
from distill.recipe import load_recipe
from distill.reporting.licence_files import licence_texts, notice_file

TEACHER = ROOT / "recipes" / "quickstart" / "teacher"
ROWS = [{"question": f"What is {n} and {n}?", "lang": "en"} for n in range(20)]
BIG = random.Random(0).randbytes(3_000_000)


@pytest.fixture
def recipe(tmp_path):
    """`recipe("teacher.revision=abc")`: a recipe whose teacher and prompts are a hub's."""
    (tmp_path / "p.txt").write_text("What is it?\n")
    (tmp_path / "r.yaml").write_text("""
name: t
languages: [en]
run_folder: ./run
teacher: {model: us/teacher}
student: {method: random}
generate: {prompts: p.txt}
""")

    def make(*overrides):
        return load_recipe(tmp_path / "r.yaml", overrides)

    return make


@pytest.fixture
def model(hub):
    """The quickstart's teacher on the hub, among much that no run reads; its commit."""
    unread = {
        "pytorch_model.bin": b"b" * 100,
        "original/model.safetensors": b"o" * 100,
        "original/params.json": b"{}",
        "consolidated.safetensors": b"c" * 100,
        "modeling_x.py": b"raise SystemExit",
        "picture.png": b"p",
    }
    files = {path.name: path.read_bytes() for path in TEACHER.iterdir() if path.is_file()}
    more = {"LICENSE": b"Apache", "additional_chat_templates/rag.jinja": b"{{ x }}"}
    return hub.commit("models", "us/teacher", {**files, **unread, **more})


def parquet(rows) -> bytes:
    import io

    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def data_set(hub, rows=ROWS, more=None):
    return hub.commit(
        "datasets", "us/prompts", {"data/train-0.parquet": parquet(rows), **(more or {})}
    )


PROMPTS = "generate.prompts=[{dataset: us/prompts, columns: {prompt: question}}]"


def num_of(prompts_and_held_out):
    return sum(map(len, prompts_and_held_out))


def paths_in(cache, commit):
    folder = cache / "models--us--teacher" / "snapshots" / commit
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_model_comes_whole_and_nothing_else_and_is_loaded_without_the_hub(
    hub, asking, offline, model, recipe, capsys
):
    fetch.run(recipe())
    assert "all is here" in capsys.readouterr().out
    here = {p.name for p in TEACHER.iterdir() if p.suffix in (".json", ".safetensors", ".jinja")}
    there = paths_in(asking, model)
    assert here <= set(there)
    assert {"LICENSE", "additional_chat_templates/rag.jinja"} <= set(there)
    unread = ("pytorch_model.bin", "consolidated.safetensors", "modeling_x.py", "picture.png")
    assert not {*unread, "original/params.json"} & set(there)
    asked = len(hub.asked)
    offline()
    folder = find.local_folder("us/teacher")
    assert find.local_folder("us/teacher", weights=False) == folder
    for name in here:
        assert (folder / name).read_bytes() == (TEACHER / name).read_bytes()
    assert load_tokenizer("us/teacher")("a") == load_tokenizer(str(TEACHER))("a")
    assert len(hub.asked) == asked


NOTICES = {"NOTICE": b"By us", "USE_POLICY.md": b"No harm", "License.md": b"MIT, (c) us"}


def test_notices_and_policies_come_too_and_are_in_the_report(hub, asking, offline, recipe):
    commit = hub.folder("us/teacher", TEACHER, **NOTICES)
    fetch.run(recipe())
    assert set(NOTICES) <= set(paths_in(asking, commit))
    offline()
    (text,) = licence_texts(recipe("teacher.licence=mit"))
    assert "(c) us" in (text.text or "") and "No harm" in (text.text or "")
    assert notice_file([text], []) == "By us\n"


def test_a_cache_without_them_serves_a_run_all_the_same_and_that_is_said(
    hub, asking, offline, recipe, capsys
):
    commit = hub.folder("us/teacher", TEACHER, **NOTICES)
    fetch.run(recipe())
    offline()
    (asking / "models--us--teacher" / "snapshots" / commit / "NOTICE").unlink()
    for _ in range(2):
        assert find.local_folder("us/teacher").name == commit
    assert (
        capsys.readouterr().err.count("is not on this machine; before the student is publish") == 1
    )
    (asking / "models--us--teacher" / "snapshots" / commit / "tokenizer.json").unlink()
    with pytest.raises(MissingError, match="not whole: 1 file"):
        find.local_folder("us/teacher")


def test_the_plan_says_how_much_and_fetches_nothing(hub, asking, model, recipe, capsys):
    fetch.run(recipe(), only_plan=True)
    told = capsys.readouterr().out
    assert hub.url in told and str(asking) in told and model[:12] in told
    assert "to fetch: " in told and "free there" in told
    assert not hub.downloads and not asking.exists()
    fetch.run(recipe())
    fetch.run(recipe(), only_plan=True)
    assert "to fetch: 0.0 MB" in capsys.readouterr().out


def test_what_is_here_is_compared_and_not_fetched_again(hub, asking, model, recipe):
    fetch.run(recipe())
    asked = len(hub.downloads)
    fetch.run(recipe())
    assert len(hub.downloads) == asked


def test_a_revision_is_the_one_that_is_asked_for(hub, asking, offline, recipe):
    config = (TEACHER / "config.json").read_bytes()
    files = {path.name: path.read_bytes() for path in TEACHER.iterdir() if path.is_file()}
    old = hub.commit("models", "us/teacher", files, branch="v1")
    hub.commit("models", "us/teacher", {**files, "config.json": config + b"\n"})
    for revision in ("v1", old, None):
        fetch.run(recipe(*([f"teacher.revision={revision}"] if revision else [])))
    offline()
    assert find.local_folder("us/teacher", "v1").name == old
    assert find.local_folder("us/teacher", old).name == old
    assert find.local_folder("us/teacher").name != old


def test_a_teacher_whose_server_gives_log_probs_needs_no_weights_and_one_of_text_nothing(
    hub, asking, model, recipe, capsys
):
    served = "teacher.server=http://127.0.0.1:1"
    gives = [served, "capture.from_server=true", "capture.signal=top_k"]
    fetch.run(recipe(*gives))
    there = paths_in(asking, model)
    assert "tokenizer.json" in there and "model.safetensors" not in there
    with pytest.raises(MissingError, match=r"not whole: 1 file.*model\.safetensors.*distill fetch"):
        find_offline(recipe)
    capsys.readouterr()
    (wanted,) = fetch.wanted_models(recipe(served)).values()
    assert wanted.weights, "what the server answers is captured by the weights, here"
    assert (
        fetch.wanted_models(
            recipe(
                served,
                "teacher.server_gives=text",
                "capture.signal=none",
                "train.soft_weight=0",
                "train.hard_weight=1",
                "student.method=base",
                f"student.model={TEACHER}",
            )
        )
        == {}
    )


def test_of_several_teachers_each_comes_with_what_is_read_of_it():
    two = ROOT / "recipes" / "two_teachers.yaml"  # Kimi, behind an API, gives text
    wanted = {one.id: what for one, what in fetch.wanted_models(load_recipe(two)).items()}
    whole = fetch.Wanted(weights=True, code=False)
    assert wanted == {"Qwen/Qwen3-8B": whole, "Qwen/Qwen3-0.6B": whole}
    pinned = load_recipe(two, ["teachers.kimi.server_gives=null", "teachers.qwen.revision=v1"])
    wanted = {(one.id, one.revision): what for one, what in fetch.wanted_models(pinned).items()}
    assert wanted["Qwen/Qwen3-8B", "v1"] == whole
    assert wanted["moonshotai/Kimi-K2-Instruct-0905", None] == fetch.Wanted(False, False)


@pytest.mark.parametrize("place", ["blobs", "incomplete"])
def test_a_flipped_byte_is_found_told_and_mended(hub, asking, model, recipe, capsys, place):
    weights = (TEACHER / "model.safetensors").read_bytes()
    fetch.run(recipe())
    link = asking / "models--us--teacher" / "snapshots" / model / "model.safetensors"
    blob = link.resolve()
    flipped = bytearray(weights)
    flipped[len(weights) // 3] ^= 4
    if place == "blobs":
        blob.write_bytes(flipped)
    else:
        blob.unlink()
        blob.with_name(f"{blob.name}.distill.incomplete").write_bytes(flipped[: len(weights) // 2])
    fetch.run(recipe())
    assert "model.safetensors: " in (told := capsys.readouterr().out)
    assert "fetched again" in told or "from its beginning" in told
    assert link.read_bytes() == weights
    assert not list(asking.rglob("*.incomplete"))


def test_what_the_hub_sends_is_not_taken_for_what_it_lists(hub, asking, model, recipe):
    hub.lies = {"model.safetensors"}
    with pytest.raises(DataError, match=r"model\.safetensors: what http.* has not the hash"):
        fetch.run(recipe())
    bad = hash_of("model.safetensors", (TEACHER / "model.safetensors").read_bytes())
    assert not list(asking.rglob(f"{bad}*"))
    with pytest.raises(MissingError, match=r"distill fetch .*r\.yaml"):
        find_offline(recipe)
    hub.lies = set()
    fetch.run(recipe())


def find_offline(recipe):
    from huggingface_hub import constants

    from distill.recipe import advising

    constants.HF_HUB_OFFLINE = True
    try:
        with advising(recipe()):
            find.local_folder("us/teacher")
    finally:
        constants.HF_HUB_OFFLINE = False


@pytest.mark.parametrize(
    "change",
    [
        {"oid": "../../../x"},
        {"oid": "0" * 39},
        {"path": "../x.json"},
        {"path": "/x.json"},
        {"path": "a//x.json"},
        {"size": -1},
        {"lfs": {"oid": "../../x", "size": 1, "pointerSize": 1}},
    ],
)
def test_a_list_of_files_that_would_leave_the_cache_is_refused(hub, asking, model, recipe, change):
    hub.listed = lambda entry: {**entry, **change} if entry["path"] == "config.json" else entry
    with pytest.raises(DataError, match="which is no file"):
        fetch.run(recipe())
    assert not asking.exists()


@pytest.mark.parametrize(
    ("overrides", "gated", "words"),
    [
        (["teacher.revision=nowhere"], None, r"no revision 'nowhere' of it.*/us/teacher"),
        (["teacher.model=us/nothing"], None, r"shows none of this name.*hf auth login"),
        ([], 401, r"accept their terms at http.*/us/teacher, then log in by `hf auth login`"),
        ([], 403, r"accept their terms at http.*/us/teacher, then log in by `hf auth login`"),
        (["teacher.model=no hub id/at all/x"], None, "no name of a hub's"),
        (["generate.prompts=[{dataset: us/none}]"], None, "data set us/none: .*none of this name"),
    ],
)
def test_what_the_hub_does_not_give_is_named_with_the_way_out(
    hub, asking, model, recipe, overrides, gated, words
):
    if gated:
        hub.gated["us/teacher"] = gated
    with pytest.raises(MissingError, match=words):
        fetch.run(recipe(*overrides))


def test_weights_that_can_run_code_are_refused_before_they_are_fetched(hub, asking, recipe):
    hub.commit("models", "us/teacher", {"config.json": b"{}", "pytorch_model.bin": b"b"})
    with pytest.raises(MissingError, match="other weight files can run code"):
        fetch.run(recipe())


def test_a_full_disk_is_told_before_and_in_the_middle_and_what_came_is_kept(
    hub, asking, recipe, monkeypatch
):
    hub.commit("models", "us/teacher", {"config.json": b"{}", "model.safetensors": BIG})
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_free", lambda: 1000)
        with pytest.raises(DataError, match=r"3\.0 MB are to be fetched.*HF_HOME"):
            fetch.run(recipe())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(
            DataError, match=r"the disk \(or quota\) is full.*HF_HOME.*same command"
        ):
            fetch.run(recipe())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    hub.asked.clear()
    fetch.run(recipe())
    assert ("/us/teacher", "bytes=1000000-") in [(p[:11], of) for p, of in hub.downloads]


def test_a_connection_that_breaks_goes_on_where_it_broke(hub, asking, recipe):
    commit = hub.commit(
        "models", "us/teacher", {"config.json": b"{}", "model.safetensors": BIG * 5}
    )
    hub.cut_after = 12_000_000
    fetch.run(recipe())
    link = asking / "models--us--teacher" / "snapshots" / commit / "model.safetensors"
    assert link.read_bytes() == BIG * 5
    assert any(of for _, of in hub.downloads)


def test_the_hub_is_not_asked_where_that_is_forbidden(hub, asking, offline, model, recipe):
    offline()
    with pytest.raises(MismatchError, match="HF_HUB_OFFLINE=0"):
        fetch.run(recipe())
    assert not hub.asked


def test_a_recipe_without_a_hub_has_nothing_to_fetch(asking, recipe, capsys):
    fetch.run(recipe(f"teacher.model={TEACHER}"))
    assert "nothing to fetch" in capsys.readouterr().out


def test_a_data_set_comes_and_is_read_without_the_hub(hub, asking, offline, model, recipe):
    commit = data_set(hub, more={"big.bin": b"x"})
    fetch.run(recipe(PROMPTS))
    online = split_prompts(recipe(PROMPTS))
    offline()
    asked = len(hub.asked)
    assert split_prompts(recipe(PROMPTS)) == online
    assert len(hub.asked) == asked
    assert sum("train-0.parquet" in path for path, _ in hub.downloads) == 1
    assert not any("big.bin" in path for path, _ in hub.downloads)
    assert (asking / "datasets--us--prompts" / "snapshots" / commit).is_dir()


def test_a_data_set_is_read_at_its_revision_whatever_came_last(hub, asking, offline, model, recipe):
    """The library alone takes the newest on the disk, whatever revision is asked for."""
    old = data_set(hub, rows=[{"question": "What is old?", "lang": "en"}] * 1 + ROWS)
    new = data_set(hub)

    def pinned(revision):
        return recipe(PROMPTS.replace("us/prompts,", f"us/prompts, revision: {revision},"))

    for revision in (old, new):
        fetch.run(pinned(revision))
    offline()
    assert num_of(split_prompts(pinned(old))) == 21
    assert num_of(split_prompts(pinned(new))) == 20
    with pytest.raises(MissingError, match=r"revision 'aaaa.* not on this machine.*distill fetch"):
        split_prompts(pinned("a" * 40))


@pytest.mark.parametrize("more", [{}, {"README.md": b"# A card"}])
def test_a_data_set_of_a_branch_is_found_without_the_hub(hub, asking, offline, model, recipe, more):
    hub.commit("datasets", "us/prompts", {"train.parquet": parquet(ROWS[:7]), **more}, branch="v1")
    data_set(hub)
    of_branch = recipe(PROMPTS.replace("us/prompts,", "us/prompts, revision: v1,"))
    fetch.run(of_branch)
    fetch.run(recipe(PROMPTS))
    offline()
    assert num_of(split_prompts(of_branch)) == 7
    assert num_of(split_prompts(recipe(PROMPTS))) == 20


def test_two_splits_of_a_data_set_are_counted_and_fetched_once(
    hub, asking, model, recipe, capsys, monkeypatch
):
    files = {"train.parquet": parquet(ROWS), "test.parquet": parquet(ROWS[:5])}
    hub.commit("datasets", "us/prompts", files)
    both = recipe(
        PROMPTS,
        "evaluate.prompts=[{dataset: us/prompts, split: test, columns: {prompt: question}}]",
        f"teacher.model={TEACHER}",
    )
    size = sum(map(len, files.values()))
    monkeypatch.setattr(fetch, "_free", lambda: size)
    fetch.run(both)
    assert "all is here" in capsys.readouterr().out
    assert sum(".parquet" in path for path, _ in hub.downloads) == 2


def test_two_files_of_one_content_come_by_one_download(hub, asking, offline, recipe, monkeypatch):
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    files = {"config.json": b"{}", **dict.fromkeys(names, BIG)}
    commit = hub.commit("models", "us/teacher", files)
    hub.pause = 0.001
    monkeypatch.setattr(fetch, "_free", lambda: len(BIG) + 2)
    fetch.run(recipe())
    assert sum(".safetensors" in path for path, _ in hub.downloads) == 1
    snapshot = asking / "models--us--teacher" / "snapshots" / commit
    assert all((snapshot / name).read_bytes() == BIG for name in names)


def test_a_run_asks_without_the_hub(hub, asking, offline, model, tmp_path, recipe):
    """The quickstart with its teacher from a hub, to the answers."""
    words = small(tmp_path / "run", "teacher.model=us/teacher", f"teacher.revision={model}")
    given = list(map(str, words))
    assert call_distill(["fetch", *given]) == 0
    offline()
    asked = len(hub.asked)
    for stage in ("plan", "generate"):
        assert call_distill([stage, *given]) == 0
    assert len(hub.asked) == asked


def test_a_configuration_comes_without_the_others(hub, asking, offline, model, recipe):
    card = """---
configs:
- {config_name: one, data_files: one/*.parquet}
- {config_name: two, data_files: two/*.parquet}
---
"""
    rows = parquet(ROWS)
    files = {"README.md": card.encode(), "one/a.parquet": rows, "two/b.parquet": parquet(ROWS[:5])}
    hub.commit("datasets", "us/prompts", files)
    of_two = recipe(PROMPTS.replace("us/prompts,", "us/prompts, config: two,"))
    fetch.run(of_two)
    assert not any("one/a.parquet" in path for path, _ in hub.downloads)
    offline()
    assert num_of(split_prompts(of_two)) == 5


def test_a_process_that_is_killed_in_the_middle_goes_on_from_there(hub, model, tmp_path, recipe):
    hub.commit("models", "us/teacher", {"config.json": b"{}", "model.safetensors": BIG * 10})
    hub.pause = 0.01
    environment = hub.environment(tmp_path / "home")
    words = command(recipe().source, word="fetch")
    with subprocess.Popen(words, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL) as child:
        end = time.monotonic() + 60
        while time.monotonic() < end and not any(
            path.stat().st_size > len(b"{}") for path in tmp_path.rglob("*.distill.incomplete")
        ):
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    part = next(tmp_path.rglob("*.distill.incomplete"))
    had = part.stat().st_size
    assert 0 < had < len(BIG) * 10
    hub.pause = 0.0
    hub.asked.clear()
    subprocess.run(words, env=environment, cwd=ROOT, check=True, capture_output=True)
    assert f"bytes={had}-" in [of for _, of in hub.downloads]
    blob = part.with_name(part.name.removesuffix(".distill.incomplete"))
    assert blob.read_bytes() == BIG * 10
    assert not list(tmp_path.rglob("*.incomplete"))
