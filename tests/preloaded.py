"""What each run imports and works out anew: done here once, in a process that runs are copied from (`run_helpers.forks`).

No thread may be left over, for it would not be copied: so one thread computes, and nothing is trained.
"""

import gc
from pathlib import Path

import accelerate  # noqa: F401
import gguf  # noqa: F401
import torch
import transformers.models.qwen3.modeling_qwen3  # noqa: F401

import distill.capture
import distill.evaluate
import distill.generate
import distill.initialize
import distill.pipeline
import distill.plan
import distill.quantize
import distill.report
import distill.teachers.gguf
import distill.teachers.server.pool
import distill.training.loop  # noqa: F401
from distill.models import load
from distill.text import identification

TEACHER = Path(__file__).parent.parent / "recipes" / "quickstart" / "teacher"


def warm_up() -> None:
    torch.set_num_threads(1)
    load.load_tokenizer(str(TEACHER))
    model = load.load_model(str(TEACHER), load.Placement("cpu", "float32"))
    model(torch.tensor([[1, 2, 3]]))
    identification.can_identify("sw")  # unpacks the model that tells languages apart
    gc.freeze()  # else each copy's first collection would touch, and so copy, all of this


warm_up()
