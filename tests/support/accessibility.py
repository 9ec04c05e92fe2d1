"""axe-core on a page in Chromium."""

from __future__ import annotations

from typing import Any

WCAG = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
"""The rules behind success criteria of levels A and AA, for parts of a page whose frame is not ours: axe's further
rules ask for landmarks and heads of tables there, which JupyterLab and pandas decide."""


def violations(page: Any, selector: str | None = None, *, rules: tuple[str, ...] = ()) -> list[str]:
    """What axe-core finds wrong on a page, a line per broken rule with its first elements.

    Args:
        page: Playwright's page.
        selector: only what is below these elements; they must exist.
        rules: tags of the rules that are asked; default all.
    """
    from axe_playwright_python.sync_playwright import Axe

    options = {"runOnly": {"type": "tag", "values": list(rules)}} if rules else None
    result = Axe().run(page, context=selector, options=options).response
    assert result["passes"], f"axe-core found nothing to check in {selector or 'the page'}"
    return [
        f"{v['id']} ({v['impact']}, {len(v['nodes'])}x): {v['help']}: "
        + " | ".join(n["html"][:200] for n in v["nodes"][:3])
        for v in result["violations"]
    ]
