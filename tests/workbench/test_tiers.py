"""The tiers of the tests: what ``make test`` leaves out, and that the longest come first."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from kdcore.registry import list_objectives, objective_class

ROOT = Path(__file__).resolve().parents[2]
FILES = ("tests/functional/test_boxes.py", "tests/contract/test_every_method.py", "tests/browser", "tests/notebooks")


def make_test() -> str:
    """The marker expression of ``make test``."""
    found = re.search(r'^test:.*\n\t.* -m "(.*)"$', (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    assert found is not None
    return found[1]


def collected(*arguments: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_make_test_compiles_one_objective_of_every_family_and_make_test_all_every_one() -> None:
    path = "tests/contract/test_every_method.py"
    compiled = [t[:-1].split("[")[1] for t in collected(path, "-m", make_test(), "-k", "machine_code")]
    families = [objective_class(name).card.family for name in compiled]
    names = set(list_objectives()) - {"ce"}
    assert len(families) == len(set(families)) and set(families) == {objective_class(n).card.family for n in names}
    assert {t[:-1].split("[")[1] for t in collected(path, "-k", "machine_code")} == names


def test_lessons_come_first_then_the_browser_then_what_is_slow() -> None:
    tests = collected(*FILES, "-m", make_test())

    def places(part: str) -> list[int]:
        return [i for i, test in enumerate(tests) if part in test]

    lessons, browser, slow = places("::test_notebook["), places("tests/browser/"), places("machine_code")
    assert lessons == list(range(len(lessons))) and len(lessons) > 5
    assert lessons[-1] < min(browser) and max(browser) < min(slow) and max(slow) < min(places("test_boxes"))
