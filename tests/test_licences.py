"""The check of licences refuses what it should: it runs on folders of made-up distributions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "licences.py"


def _check(folder: Path | None = None) -> tuple[int, str]:
    command = [sys.executable, str(SCRIPT), *([str(folder)] if folder else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def _distribution(folder: Path, name: str, *lines: str) -> None:
    home = folder / f"{name}-1.0.dist-info"
    home.mkdir(parents=True)
    (home / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines, "", ""])
    )


def _site(folder: Path, *of_dependency: str) -> Path:
    """Ridgeline, and `thing` that it needs through `between`."""
    _distribution(folder, "ridgeline", "License-Expression: Apache-2.0", "Requires-Dist: between>=1")
    _distribution(folder, "between", "License: MIT", "Requires-Dist: thing")
    _distribution(folder, "thing", *of_dependency)
    return folder


@pytest.mark.parametrize(
    "line",
    [
        "License-Expression: (MIT AND 0BSD) OR Apache-2.0 WITH LLVM-exception",
        "Classifier: License :: OSI Approved :: BSD License",
        "License: Apache 2.0",
    ],
)
def test_permissive_licences_pass(tmp_path: Path, line: str) -> None:
    code, said = _check(_site(tmp_path, line))
    assert code == 0, said
    assert said.startswith("3 distributions, 3 of them needed to run")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("License-Expression: GPL-3.0-or-later", "GPL-3.0-or-later"),
        ("License-Expression: MIT AND LGPL-2.1-only", "LGPL-2.1-only"),
        (
            "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
            "GNU General Public License v3 (GPLv3)",
        ),
        ("Classifier: License :: Other/Proprietary License", "Other/Proprietary License"),
        ("License: ask me", "ask me"),
        ("License-Expression: MPL-2.0", "MPL-2.0"),  # allowed in tools only
        ("Summary: says nothing", "no licence in its metadata"),
    ],
)
def test_another_licence_fails_by_name(tmp_path: Path, line: str, reason: str) -> None:
    code, said = _check(_site(tmp_path, line))
    assert code == 1, said
    assert f"not allowed: thing 1.0 (needed to run): {reason}\n" in said


def test_a_tool_may_be_under_the_mpl_and_not_under_the_gpl(tmp_path: Path) -> None:
    _distribution(_site(tmp_path, "License: MIT"), "tool", "License-Expression: MPL-2.0")
    assert _check(tmp_path)[0] == 0
    _distribution(tmp_path, "other", "License-Expression: GPL-2.0-only")
    code, said = _check(tmp_path)
    assert code == 1
    assert "not allowed: other 1.0 (a tool): GPL-2.0-only\n" in said
