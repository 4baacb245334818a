import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from run_helpers import ROOT, SMALL, environment

NOTEBOOK = ROOT / "recipes" / "quickstart.ipynb"


def test_the_notebook_runs_and_shows_the_reports_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name, value in environment().items():
        monkeypatch.setitem(os.environ, name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell = next(c for c in notebook.cells if c.source.startswith("from distill import"))
    assert "overrides = []" in cell.source
    overrides = [*SMALL, "quantize.formats=[]", f"run_folder={tmp_path / 'run'}"]
    cell.source = cell.source.replace("overrides = []", f"overrides = {overrides!r}")
    NotebookClient(
        notebook,
        timeout=240,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    ).execute()
    shown = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    tables = [o.data["text/html"] for o in shown if "text/html" in o.data]
    assert len(tables) == 1 and "<th>NLL</th>" in tables[0] and "student" in tables[0]
    assert "'student'" in shown[-1].data["text/plain"]


def test_the_notebook_is_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(
        not c.outputs and c.execution_count is None for c in notebook.cells if c.cell_type == "code"
    )
