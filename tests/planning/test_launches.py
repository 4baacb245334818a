"""What the plan says of several processes: their memory, the time, and how much of it they wait."""

from dataclasses import replace

import pytest
from run_helpers import QUICKSTART, run_forked, small

from distill import plan
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.core.stage import Cost
from distill.pipeline import PLANNED
from distill.plan import stage_costs
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.planning.launches import launch_of, launch_told, too_little_memory
from distill.planning.machine import GB, Machine
from distill.planning.training import training_bytes
from distill.recipe import load_recipe

GPU = Machine(16, 64 * GB, 1e12, "RTX 3090", 24 * GB, 4.5e13, 9.4e11, num_gpus=4)
CPU = Machine(8, 64 * GB, 1e12, None, 0.0, 1e11)


def work(*overrides, machine=GPU):
    return Workload.of(load_recipe(QUICKSTART, list(overrides)), machine)


def stages_at(seconds):
    """The pipeline's stages with these seconds each: the others cost nothing."""

    def cost(name):
        return lambda _: Cost(1 * GB, seconds.get(name, 0.0))

    return [replace(stage, cost=cost(stage.name)) for stage in PLANNED]


def test_one_process_and_none_named_are_as_they_were():
    assert launch_told(work(), PLANNED) is launch_told(work("num_processes=1"), PLANNED) is None
    stages = {stage.name: stage for stage in PLANNED}
    for one in (work(), work("num_processes=1")):
        for name, cost in stage_costs(one, PLANNED).items():
            assert cost == stages[name].cost(work())
    launch = launch_of(work(), PLANNED)
    assert (launch.num, launch.num_nodes, launch.waiting) == (1, 1, 0.0)


def test_shared_stages_are_divided_and_what_one_does_alone_the_others_wait_for():
    stages = stages_at({"capture": 80.0, "initialize": 30.0})
    launch = launch_of(work("num_processes=4"), stages)
    assert launch.seconds == pytest.approx(80 / 4 + 30)
    assert launch.waiting == pytest.approx(30 * 3 / 4 / 50)
    assert launch.alone[0] == "initialize" and "capture" not in launch.alone


@pytest.mark.parametrize(
    ("num", "share"), [(2, 2 / 4), (3, 2 / 4), (4, 1 / 4), (8, 1 / 4)], ids=str
)
def test_rows_of_a_step_that_do_not_divide_evenly_leave_processes_waiting(num, share):
    step = ("train.batch_tokens=1024", "train.max_length=256", f"num_processes={num}")
    launch = launch_of(work(*step), stages_at({"train": 100.0}))
    assert launch.seconds == pytest.approx(100 * share)
    assert launch.waiting == pytest.approx(1 - 1 / share / num)


def test_more_formats_than_processes_are_made_in_turns():
    three = ("quantize.formats=[q8_0, f16]", "num_processes=2")  # and w16a16
    launch = launch_of(work(*three), stages_at({"quantize": 90.0}))
    assert launch.seconds == pytest.approx(60) and launch.waiting == pytest.approx(1 / 4)


def test_a_server_is_not_hastened_by_more_processes():
    server = "teacher.server=http://127.0.0.1:1"
    one, four = (
        stage_costs(work(server, *more), PLANNED)["generate"].seconds
        for more in ((), ("num_processes=4",))
    )
    assert one >= four > 0.9 * work(server).teacher_seconds(work(server).num_requests)


def test_ddp_holds_the_gradients_once_more_and_a_sharded_student_does_not():
    alone, two = training_bytes(work()), training_bytes(work("num_processes=2"))
    assert two - alone == pytest.approx(4 * work().student.parameters)
    lora = ("train.lora_rank=8", "train.optimizer=adamw")
    added = training_bytes(work(*lora, "num_processes=2")) - training_bytes(work(*lora))
    assert added == pytest.approx(0.02 * 4 * work().student.parameters)


def test_processes_that_share_the_cores_are_no_faster_and_their_memory_is_warned_of():
    alone, two = work(machine=CPU), work("num_processes=2", machine=CPU)
    seconds = [stage_costs(one, PLANNED)["generate"].seconds for one in (alone, two)]
    assert seconds[0] == seconds[1]
    assert too_little_memory(two, PLANNED) is None
    small_node = replace(CPU, memory=launch_of(two, PLANNED).node_memory - 1)
    warning = too_little_memory(work("num_processes=2", machine=small_node), PLANNED)
    assert warning is not None and "start fewer on each" in warning
    assert too_little_memory(work(machine=small_node), PLANNED) is None


def test_a_plan_for_several_processes_is_made_by_one(tmp_path):
    words = small(tmp_path / "run", "num_processes=2")
    result = run_forked(*words, word="plan")
    assert result.returncode == 0, result.stderr
    assert "2 processes (num_processes), on one node" in result.stdout
    result = run_forked(*words, word="generate")
    assert result.returncode == 2 and "the recipe wants 2, 1 is running" in result.stderr


def test_nodes_are_as_many_as_the_gpus_of_this_one_make_necessary():
    launch = launch_of(work("num_processes=8"), PLANNED)
    assert (launch.num_a_node, launch.num_nodes) == (4, 2)
    assert launch.node_memory == 4 * PROCESS_BYTES
    sharded = launch_of(work("num_processes=8", "train.shard=full"), PLANNED)
    whole = 4 * work().student.parameters
    assert sharded.node_memory == pytest.approx(4 * PROCESS_BYTES + whole)
    here = launch_of(work("num_processes=2", machine=CPU), PLANNED)
    assert here.num_nodes == 1 and here.node_memory == 2 * here.memory


def test_hybrid_divides_over_the_processes_of_a_node():
    hybrid = training_bytes(work("num_processes=8", "train.shard=hybrid"))
    assert hybrid == training_bytes(work("num_processes=4", "train.shard=full"))


@pytest.mark.parametrize(("wanted", "num_running"), [("2", 1), ("null", 2), ("2", 3)])
def test_plan_prints_it_of_the_number_that_the_recipe_names_else_of_the_one_that_runs(
    tmp_path, wanted, num_running
):
    recipe = load_recipe(QUICKSTART, [f"num_processes={wanted}"])
    running = Processes(num=num_running)
    text = plan.run(recipe, RunFolder(tmp_path), running, planned=PLANNED).result.text
    assert "2 processes (num_processes), on one node: up to" in text
    assert "a process waits: the first alone does" in text


def test_a_plan_is_made_anew_by_another_launch_where_the_recipe_leaves_the_number_to_it(
    monkeypatch,
):
    open_number, named = (load_recipe(QUICKSTART, [f"num_processes={n}"]) for n in ("null", "2"))
    alone = [plan.stage([]).fingerprint(recipe) for recipe in (open_number, named)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (
        plan.stage([]).fingerprint(open_number) != alone[0]
        and plan.stage([]).fingerprint(named) == alone[1]
    )
