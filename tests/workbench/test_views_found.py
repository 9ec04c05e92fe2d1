"""The builders of pictures are found: a module offers what its ``__all__`` names, and is imported when used."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from kdcore._lazy import offered
from workbench import views

FOLDER = Path(views.__file__).parent


def test_every_name_that_a_module_states_is_offered() -> None:
    stated = {}
    for path in FOLDER.rglob("[!_]*.py"):
        module = import_module(".".join(("workbench.views", *path.relative_to(FOLDER).with_suffix("").parts)))
        stated |= dict.fromkeys(getattr(module, "__all__", ()), module)
    assert {"View", "DARK", "heatmap_view", "tracking_view", "findings_view", "norm_direction_view"} <= set(stated)
    assert set(views.__all__) == set(stated)
    for name, module in stated.items():
        assert getattr(views, name) is getattr(module, name)


def test_every_view_of_a_module_with_a_list_is_in_it() -> None:
    for path in FOLDER.rglob("[!_]*.py"):
        module = import_module(".".join(("workbench.views", *path.relative_to(FOLDER).with_suffix("").parts)))
        made = {n for n, v in vars(module).items() if n.endswith("_view") and v.__module__ == module.__name__}
        assert not hasattr(module, "__all__") or {n for n in made if n[0] != "_"} <= set(module.__all__), path.name


def test_no_name_is_also_a_module() -> None:
    assert {path.stem for path in FOLDER.iterdir()} & set(views.__all__) == set()


def test_nothing_is_imported_before_it_is_used() -> None:
    code = "import sys, workbench.views as v; print('heatmap_view' in dir(v), sum('views.' in m for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True 0"


def test_a_new_module_is_found_and_a_name_has_one_home(tmp_path: Path) -> None:
    papers = tmp_path / "papers"
    papers.mkdir()
    (tmp_path / "bars.py").write_text('raise RuntimeError("imported")\n__all__ = ["bars_view"]\n')
    (papers / "dho.py").write_text('__all__ = [\n    "heads_view",\n    "beta_view",\n]\n')
    (papers / "_draft.py").write_text('__all__ = ["draft_view"]\n')
    (papers / "plain.py").write_text("def plain_view(): ...\n")
    assert offered(tmp_path) == {"bars_view": "bars", "heads_view": "papers.dho", "beta_view": "papers.dho"}
    (papers / "mst.py").write_text('__all__ = ["beta_view"]\n')
    with pytest.raises(ImportError, match=r"papers\.mst and .*papers\.dho both offer 'beta_view'"):
        offered(tmp_path)
