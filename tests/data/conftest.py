"""A recipe that is about its prompts alone."""

import pytest

from distill.recipe import load_recipe


@pytest.fixture
def recipe(tmp_path):
    """`recipe("[{file: a.txt}]")`: a recipe whose prompts are these."""

    def make(prompts, *overrides):
        text = f"""
name: t
languages: [en, sw]
teacher: {{model: ./none}}
student: {{method: random}}
generate: {{prompts: {prompts}}}
"""
        (tmp_path / "r.yaml").write_text(text)
        return load_recipe(tmp_path / "r.yaml", overrides)

    return make
