"""The model card: metadata that a hub can read whatever the names, and all that a user must know."""

import subprocess
import sys

import pytest
import yaml
from huggingface_hub import ModelCard
from report_helpers import read_results
from run_helpers import ROOT, environment

from distill.errors import RecipeError
from distill.reporting.model_card import card_metadata, model_card
from distill.reporting.summary import statements
from distill.reporting.table import model_rows

QWEN = "student={method: base, model: Qwen/Qwen3-0.6B}"
GLM = "teacher={model: zai-org/GLM-4.5-Air}"  # MIT
TEXT_ALONE = ["capture.signal=none", "train.soft_weight=0", "train.hard_weight=1"]


def card(recipe, manifests) -> str:
    results = read_results(manifests)
    return model_card(recipe, results, model_rows(results), "KD beat the control.")


def front_matter(text: str) -> dict:
    """As a YAML reader and as the hub's own library read it; both must agree."""
    assert text.startswith("---\n")
    metadata = yaml.safe_load(text[4 : text.index("\n---\n")])
    assert ModelCard(text).data.to_dict() == metadata
    return metadata


def test_the_front_matter_is_what_a_hub_asks_for(recipe, manifests):
    prompts = (
        "generate.prompts=[{dataset: CohereLabs/aya_dataset, licence: apache-2.0}, "
        "{file: ./quickstart/prompts.jsonl}, "
        "{dataset: CohereLabs/aya_dataset, config: sw, licence: apache-2.0}]"
    )
    assert front_matter(card(recipe(QWEN, prompts), manifests)) == {
        "base_model": "Qwen/Qwen3-0.6B",
        "base_model_relation": "finetune",
        "datasets": ["CohereLabs/aya_dataset"],
        "language": ["en", "zh", "sw", "id", "hi"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["distillation"],
    }


def test_folders_of_this_machine_are_not_named_to_the_hub(recipe):
    metadata = card_metadata(
        recipe(
            "student={method: layers, model: ./quickstart/teacher, licence: apache-2.0}",
            "generate.prompts=[{dataset: ~/prompts}]",
        )
    )
    assert metadata.base_model is None and metadata.datasets is None
    assert "base_model_relation" not in metadata.to_dict()


def test_the_licence_is_the_hubs_where_it_has_one(recipe):
    assert card_metadata(recipe()).license == "apache-2.0"
    assert card_metadata(recipe(GLM)).license == "mit"
    assert card_metadata(recipe("teacher.licence=gemma-2025")).license == "gemma"
    assert card_metadata(recipe("teacher={model: openai/gpt-oss-20b}")).license == "apache-2.0"
    assert card_metadata(recipe("teacher={model: meta-llama/Llama-3.2-1B}")).license == "llama3.2"
    assert card_metadata(recipe("teacher.licence=cohere-cc-by-nc")).license == "cc-by-nc-4.0"
    assert card_metadata(recipe()).license_name is None


def test_another_licence_is_named_and_linked(recipe, manifests):
    custom = recipe("teacher.licence=qwen-research")
    metadata = front_matter(card(custom, manifests))
    assert metadata["license"] == "other" and metadata["license_name"] == "qwen-research"
    assert metadata["license_link"] == "LICENSE"
    assert "put the text of these licences there" in card(custom, manifests)
    assert "put the text of these licences there" not in card(recipe(), manifests)


def test_the_licences_of_teacher_and_base_hold_together(recipe):
    metadata = card_metadata(recipe(QWEN, GLM))
    assert metadata.license == "other" and metadata.license_name == "apache-2.0-and-mit"
    declared = card_metadata(recipe("teacher={model: zai-org/GLM-4.5-Air, licence: qwen-research}"))
    assert declared.license_name == "mit-and-qwen-research", "the recipe's beside the catalogue's"


def test_data_that_may_not_be_sold_is_named_beside_the_models_licences(recipe):
    data = "generate.prompts=[{{dataset: a/b, licence: {}}}]"
    limited = card_metadata(recipe(data.format("cc-by-nc-4.0")))
    assert (limited.license, limited.license_name) == ("other", "apache-2.0-and-cc-by-nc-4.0")
    assert card_metadata(recipe(data.format("cc-by-4.0"))).license == "apache-2.0"


def test_a_licence_that_nobody_knows_is_left_out_and_never_guessed(recipe, manifests):
    for unknown in ("teacher={model: someone/else}", "student={method: base, model: someone/else}"):
        assert "license" not in front_matter(card(recipe(unknown), manifests))
    undeclared = "generate.prompts=[{dataset: a/b}]"
    assert "license" not in front_matter(card(recipe(undeclared), manifests))
    with pytest.raises(RecipeError, match=r"did you mean apache-2\.0"):
        card_metadata(recipe("teacher.licence=apache2.0"))


@pytest.mark.parametrize(
    "name",
    [
        'org/na"me',
        "org/it's: [a, {b",
        "org/name\n---\nlicense: mit\n",
        "org/name\n\n# heading\ntags: [x]",
        "&anchor *alias !tag %x @y `z`",
        "null",
        "- 1",
    ],
)
def test_no_name_can_break_the_front_matter(recipe, manifests, name):
    plain = recipe(QWEN)
    student = plain.student.model_copy(update={"model": name, "licence": "apache-2.0"})
    odd = plain.model_copy(update={"student": student, "languages": ["no", name]})
    metadata = front_matter(card(odd, manifests))
    assert metadata["base_model"] == name and metadata["license"] == "apache-2.0"
    assert metadata["language"] == ["no", name], "Norwegian is no `false`"
    assert metadata["tags"] == ["distillation"]


def test_no_text_becomes_a_tag(recipe, manifests):
    hostile = "<script>alert(1)</script>"
    manifests["plan"].result["licence"] |= {"sentences": [hostile], "duties": [hostile]}
    manifests["generate"].result["dropped_by_reason"] = {hostile: 1}
    manifests["quantize"].result["formats"]["q8_0"]["failed"] = hostile
    text = card(recipe(f"report.title={hostile}"), manifests)
    assert "<script" not in text and text.count("&lt;script>alert(1)&lt;/script>") == 6
    assert text.splitlines().count("# &lt;script>alert(1)&lt;/script>") == 1


def test_the_card_says_what_must_be_known_and_passed_on(recipe, manifests):
    text = card(recipe("report.title=Goats"), manifests)
    for part in (
        "# Goats\n\nA student of 426,752 parameters, distilled from **./quickstart/teacher**. Modified on "
        f"{manifests['quantize'].finished[:10]}: ",
        "- Teacher: ./quickstart/teacher, revision not pinned, run locally, quantization none.\n",
        "- Student began as: random weights of a Qwen3 shape.\n",
        "- Data: 52 answers of the teacher to 1,060 prompts of `./quickstart/prompts.jsonl`, filtered\n"
        "  (dropped: truncated 2, wrong_answer 6).\n",
        "- Training: forward_kl on the sampled signal (weight ",
        ", 1,014 steps.\n",
        "further training, 32-bit weights, any adapter merged in.\n"
        "- `quantize/w16a16`: for transformers and vLLM, 0.86 MB, 16.05 bits a weight\n"
        "- `quantize/q8_0.gguf`: for llama.cpp, 0.49 MB, 8.54 bits a weight\n\n## Licences\n\n"
        "allow: ./quickstart/teacher (apache-2.0): learning from it is allowed\n\n"
        "- ./quickstart/teacher: credit the teacher (a courtesy, no duty)\n\n"
        "Model names are used only to state origin. This is not legal advice.\n",
        "10 held-out prompts; NLL in nats a token of the teacher's sampled answers.\n\n```\nmodel ",
        "```\n\nKD beat the control.\n\n## Limits\n",
        "- Do not use it where a wrong answer can hurt somebody.\n",
    ):
        assert part in text, part


def test_the_card_says_what_can_be_compared_with_the_teacher(recipe, manifests):
    result = manifests["evaluate"].result
    result["tokenizers_differ"] = True
    result["models"]["teacher"]["nll_per_byte"] = 0.1
    text = card(recipe(), manifests)
    assert (
        "teacher's sampled answers. The teacher's tokens are not the student's:\nonly NLL/byte, the same "
        "nats over the UTF-8 bytes of the answers' text, can be compared with the teacher's.\n\n```\n"
    ) in text
    assert "0.10000" in text and "0.1500" not in text


def test_the_card_begins_with_the_answers_to_what_one_asks_first(recipe, manifests):
    results = read_results(manifests)
    rows = model_rows(results)
    answers = statements(results, rows, {})
    card = model_card(recipe(), results, rows, "KD beat it.", answers)
    first = card.partition("## At a glance\n\n")[2].partition("\n\n## Lineage\n")[0].splitlines()
    assert len(first) == 5 and first[0].startswith("- **How good?** 40.0 %. q8_0: exact match")
    assert first[3].startswith("- **How safe?** not measured. ")
    assert first[4].startswith("- **May I ship it?** yes. The licences allow it.")


def test_lineage_names_revision_runtime_and_start(recipe, manifests):
    layers = "student={method: layers, layers_by: even, model: Qwen/Qwen3-0.6B, revision: abc}"
    text = card(recipe(layers, "teacher={model: zai-org/GLM-4.5-Air, revision: d1}"), manifests)
    assert "- Teacher: zai-org/GLM-4.5-Air, revision d1, run locally" in text
    assert "2 evenly spaced layers of Qwen/Qwen3-0.6B (revision abc)." in text
    assert "began as: Qwen/Qwen3-0.6B (revision not pinned)." in card(recipe(QWEN), manifests)
    gguf = card(recipe("teacher.gguf=/models/big.gguf"), manifests)
    assert "run by llama.cpp as the file big.gguf" in gguf and "/models" not in gguf
    served = card(recipe("teacher.server=http://localhost:8000", *TEXT_ALONE), manifests)
    assert "asked on a server" in served
    assert "cross-entropy on the text of the answers, 1,014 steps" in served
    manifests["generate"].result["retokenized"] = "another size"
    text = card(recipe(*TEXT_ALONE), manifests)
    assert "answers, in the student's own tokenizer (another size), 1,014 steps" in text


def test_what_was_cut_is_told_with_what_it_cost(recipe, manifests):
    layers = {"what": "layers", "before": 30, "after": 22, "chosen_by": "nll", "nll": 2.33}
    experts = {"what": "experts", "before": 8, "after": 4, "chosen_by": "what they add", "nll": 3.0}
    result = manifests["initialize"].result
    result["cuts"] = [layers | {"kept": [0, 1, 4]}, experts]
    result["nll_before_cuts"] = 0.92
    nll = "student={method: layers, model: Qwen/Qwen3-0.6B, layers_by: nll}"
    text = card(recipe(nll), manifests)
    assert "layers of Qwen/Qwen3-0.6B (revision not pinned), chosen greedily by NLL.\n" in text
    for line in (
        "- Cut before training: 22 of 30 layers kept (0-1, 4), chosen by nll; NLL of the samples' "
        "answers 0.920 -> 2.330 nats a token.\n",
        "- Cut before training: 4 of 8 experts a layer kept, chosen by what they add; NLL of the "
        "samples' answers 2.330 -> 3.000 nats a token.\n",
    ):
        assert line in text
    last = "student={method: layers, model: Qwen/Qwen3-0.6B, layers_by: last}"
    assert "began as: the first 2 layers of Qwen" in card(recipe(last), manifests)


def test_failed_files_and_empty_lists_are_named(recipe, manifests):
    formats = manifests["quantize"].result["formats"]
    formats["q8_0"]["failed"] = "too far"
    assert "8.54 bits a weight; **failed**: too far\n" in card(recipe(), manifests)
    formats.clear()
    manifests["plan"].result["licence"]["duties"] = []
    manifests["generate"].result["dropped_by_reason"] = {}
    text = card(recipe(), manifests)
    assert "merged in.\n- No quantized files.\n\n## Licences" in text
    assert "\n- none recorded in the catalogue\n" in text and "(dropped: none)" in text


def test_the_card_needs_neither_torch_nor_a_network():
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from distill.recipe import load_recipe\n"
        "from distill.reporting.model_card import card_metadata, model_card\n"
        f"metadata = card_metadata(load_recipe({str(ROOT / 'recipes/quickstart.yaml')!r}))\n"
        "assert 'apache-2.0' in metadata.to_yaml()\n"
        "sys.exit(('torch' in sys.modules) * 9 or ('transformers' in sys.modules) * 8)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(HF_HUB_OFFLINE="0"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-1000:]
