"""Time until the command line answers at all.

python benchmarks/startup.py
"""

from __future__ import annotations

import sys

from machine import RIDGELINE, Figure, process_seconds, show

TARGET_S = 0.5


def figures(repeats: int = 7) -> list[Figure]:
    """Processes from start to end."""
    helped, _ = process_seconds([RIDGELINE, "--help"], repeats)
    imported, _ = process_seconds([sys.executable, "-c", "import ridgeline"], repeats)
    bare, _ = process_seconds([sys.executable, "-c", "pass"], repeats)
    return [
        Figure("`ridgeline --help`", f"{helped:.2f} s", "under 0.5 s", helped < TARGET_S),
        Figure("  `import ridgeline`", f"{imported:.3f} s"),
        Figure("  a bare Python process", f"{bare:.3f} s"),
    ]


if __name__ == "__main__":
    show(figures())
