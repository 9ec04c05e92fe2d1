"""``python -m kdcore.functional``: which formula lives where."""

from __future__ import annotations

import sys
import textwrap

from . import formulas

for module, (summary, names) in formulas().items():
    lines = [*textwrap.wrap(summary, 100), *textwrap.wrap(", ".join(names), 100)]
    sys.stdout.write(f"{module}\n{textwrap.indent(chr(10).join(lines), '    ')}\n")
