"""Who races: cuts take no more than the budget asks for, and are told by what is done to the model."""

from pathlib import Path

import pytest
import transformers
from cutting_helpers import calibration
from families import BY_NAME, model_of, save, tokenizer_of

from distill.formats.gguf.write import write_gguf
from distill.models.load import config_of
from distill.race.candidates import Field, Source, criteria, smaller_bases, uncut
from distill.race.sizes import Budget, Outline, deployed_format, expert_counts
from distill.recipe.sections import Quantize, Student
from distill.shaping.experts import keep_busiest
from distill.shaping.feed_forward import keep_strongest

TEACHER = Path(__file__).parents[2] / "recipes" / "quickstart" / "teacher"


@pytest.fixture(scope="module")
def whole():
    return Outline.of(config_of(TEACHER), TEACHER)


def field_of(whole, *, trimmed_ids: int | None = 700, **values):
    student = Student.model_validate({"method": "base", "model": "./teacher", **values})
    trimmed = None if trimmed_ids is None else whole.with_vocabulary(TEACHER, trimmed_ids)
    source = Source(uncut(student), whole, trimmed)
    return Field(student, source, [], {"size": 700}, Budget.of(student), "q4_0")


@pytest.mark.parametrize("file_type", ["f16", "q8_0", "q4_k_m", "q4_0", "q2_k"])
def test_a_planned_file_is_as_large_as_the_written_one(whole, tmp_path, file_type):
    written = write_gguf(TEACHER, tmp_path / "x.gguf", file_type)
    planned = whole.size(file_type)
    assert planned.num_bytes == pytest.approx(written.bytes, abs=5000)
    assert planned.parameters == 2_632_512


@pytest.mark.parametrize("limit", [{"budget_mb": mb} for mb in (0.75, 0.9, 1.05, 1.2, 1.5, 2)])
def test_cuts_fit_and_no_smaller_cut_would(whole, limit):
    field = field_of(whole, **limit)
    own, *others = field.candidates()
    assert own.name == "whole" and len({c.name for c in others}) == len(others)
    for candidate in others:
        assert field.budget.use(candidate.size) <= 1
        student = Student.model_validate(
            {"method": "base", "model": "./teacher", **candidate.values}
        )
        if student.method == "layers" and "+ffn" not in candidate.name:
            trimmed = student.vocabulary is not None
            outline = field.source.trimmed if trimmed else field.source.whole
            kept = round(6 * student.layer_share)
            assert candidate.name.endswith(str(kept))
            assert not field._fits(outline.with_layers(kept + 1) if kept < 5 else outline)


def test_each_criterion_and_each_combination_races_once(whole):
    names = {c.name for c in field_of(whole, budget_mb=1.05).candidates()}
    wanted = {"whole", *(f"{name}3" for name in criteria())}
    wanted |= {f"trimmed+{name}3" for name in criteria()}
    assert criteria() == ("even", "last", "block_influence", "nll")
    wanted |= {"trimmed+block_influence4+ffn256"}
    assert names - {"ffn256"} == wanted


@pytest.mark.parametrize("hidden", [256, 1024])
def test_a_narrower_feed_forward_is_as_large_as_planned(hidden, tmp_path):
    """Gate and up in one matrix, and a hidden width that is the feed-forward's own."""
    sizes = {"hidden_size": hidden, "intermediate_size": 1024, "num_hidden_layers": 2}
    config = transformers.Phi3Config(vocab_size=320, pad_token_id=0, num_attention_heads=4, **sizes)
    planned = Outline.of(config, TEACHER)
    model = transformers.Phi3ForCausalLM(config)
    assert planned.size("w16a16").parameters == model.num_parameters()
    keep_strongest(model, 512, calibration())
    assert planned.with_width(512).size("w16a16").parameters == model.num_parameters()


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """Return a mixture of 8 experts in each of 6 layers."""
    folder = tmp_path_factory.mktemp("mixture")
    save(BY_NAME["qwen3-moe"], folder)
    config = config_of(folder)
    config.num_hidden_layers = 6
    return Outline.of(config, folder)


MIXTURES = ["qwen3-moe", "ernie4.5-moe", "deepseek-r1", "glm4.5", "gpt-oss", "minimax-m2"]


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_with_fewer_experts_is_as_large_as_planned(name, tmp_path):
    save(BY_NAME[name], tmp_path)
    model = model_of(BY_NAME[name], tokenizer_of(BY_NAME[name]))
    planned = Outline.of(config_of(tmp_path), tmp_path)
    fewer = planned.with_experts(4)
    assert (planned.num_experts, fewer.num_experts) == (8, 4)
    numbers = [planned.size("w16a16").parameters]
    made = [model.num_parameters()]
    keep_busiest(model, 4, calibration())
    numbers.append(fewer.size("w16a16").parameters)
    made.append(model.num_parameters())
    assert numbers == pytest.approx(made, abs=16)  # which has the router's corrections, too


def test_experts_go_in_equal_groups_and_no_fewer_stay_than_a_token_goes_to(mixture, tmp_path):
    assert expert_counts(mixture) == [2, 3, 4, 5, 6, 7]
    save(BY_NAME["deepseek-r1"], tmp_path)
    assert expert_counts(Outline.of(config_of(tmp_path), tmp_path)) == [4, 6]


def test_a_mixture_races_with_fewer_experts_alone_trimmed_and_with_fewer_layers(mixture):
    most = mixture.size("w16a16").parameters
    values = {"method": "base", "model": "./teacher", "parameters": round(0.6 * most)}
    student = Student.model_validate(values)
    source = Source(uncut(student), mixture, mixture.with_vocabulary(TEACHER, 320))
    field = Field(student, source, [], {"size": 320}, Budget.of(student), "w16a16")
    own, *others = field.candidates()
    names = [candidate.name for candidate in others]
    assert own.name == "whole"
    assert [name for name in names if "experts" in name] == [
        "experts3",
        "trimmed+experts3",
        "trimmed+block_influence4+experts6",
    ]
    assert {f"{by}{kept}" for by in criteria() for kept in range(2, 6)} & set(names)
    assert any(n.startswith("trimmed+nll") and "experts" not in n for n in names)
    assert not any("ffn" in name for name in names)
    assert all(field.budget.use(candidate.size) <= 1 for candidate in others)
    for candidate in others:
        Student.model_validate(values | candidate.values)


def test_what_fits_is_not_cut(whole):
    field = field_of(whole, budget_mb=1.58)
    assert [c.name for c in field.candidates()][:1] == ["whole"]
    assert "trimmed" in {c.name for c in field.candidates()}
    assert not any(c.name.startswith("trimmed+") for c in field.candidates())
    assert [c.name for c in field_of(whole, budget_mb=5).candidates()] == ["whole", "trimmed"]


def test_the_recipes_own_student_races_even_where_it_does_not_fit(whole):
    own = {"method": "layers", "layer_share": 0.8, "layers_by": "even", "vocabulary": {"size": 700}}
    first, *others = field_of(whole, parameters=1_000_000, **own).candidates()
    assert first.name == "trimmed+even5" and first.size.parameters > 1_000_000
    assert others and all(c.size.parameters <= 1_000_000 for c in others)


def test_where_nothing_fits_the_smallest_is_known(whole):
    field = field_of(whole, parameters=50_000)
    assert [c.name for c in field.candidates()] == ["whole"]
    sizes = [out.size for out in field.left_out if out.size is not None]
    assert min(size.parameters for size in sizes) < 1_000_000
    assert all("beyond student.parameters 50,000" in out.reason for out in field.left_out)


def test_a_student_without_a_trimmed_vocabulary_is_cut_alone(whole):
    names = [c.name for c in field_of(whole, trimmed_ids=None, budget_mb=1.2).candidates()]
    assert "even4" in names and not any("trimmed" in name for name in names)


def test_smaller_bases_are_of_the_same_tokens_the_largest_first():
    ids = [model.id for model in smaller_bases("Qwen/Qwen3-1.7B")]
    assert "Qwen/Qwen3-0.6B" in ids and "Qwen/Qwen3-4B" not in ids and "Qwen/Qwen3-1.7B" not in ids
    assert not any("3.5" in name for name in ids), "another vocabulary"
    parameters = [model.params for model in smaller_bases("Qwen/Qwen3-8B")]
    assert parameters == sorted(parameters, reverse=True)
    assert smaller_bases("./teacher") == [] == smaller_bases(None)


@pytest.mark.parametrize(
    ("formats", "deployed"),
    [
        (["f16", "q8_0", "q4_k_m", "q4_0"], "q4_k_m"),
        (["f16", "q4_0", "q4_k_m"], "q4_0"),
        (["q8_0", "nf4"], "q8_0"),
        (["nf4", "int8"], "w16a16"),
        ([], "w16a16"),
    ],
)
def test_the_first_4_bit_file_is_the_one_that_is_deployed(formats, deployed):
    assert deployed_format(Quantize(formats=formats)) == deployed
