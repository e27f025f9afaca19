"""The public surface: names that users import are held to this one list; a change of it is a decision."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

SURFACE: dict[str, set[str]] = {
    "ridgeline": {
        "__version__",
        "Machine", "Plan", "PlanResult", "Scenario", "ServingResult", "TrainingResult",
        "cluster", "explain", "model", "plan", "serve", "train", "validate",
    },
    "ridgeline.facts.catalog": {
        "CatalogError",
        "architecture", "calibration", "chip", "cluster", "cluster_for", "names", "recipe", "stack",
    },
    "ridgeline.facts.huggingface": {"HuggingFaceError", "read_config", "supported"},
    "ridgeline.facts.plan": {"Plan", "PlanGrid"},
    "ridgeline.facts.scenario": {"Scenario"},
    "ridgeline.facts.workload": {"TrainingJob"},
    "ridgeline.metrics": {"Prediction", "Rung", "OperatorTime"},
    "ridgeline.predict": {"train"},
    "ridgeline.explore.search": {"search"},
    "ridgeline.emit": {"EmitError", "FRAMEWORKS", "SUFFIX", "emit"},
}  # fmt: skip


@pytest.mark.parametrize("module", SURFACE)
def test_public_names_are_there_and_documented(module: str) -> None:
    loaded = importlib.import_module(module)
    for name in SURFACE[module]:
        value = getattr(loaded, name)
        assert not callable(value) or value.__doc__, f"{module}.{name} has no docstring"


@pytest.mark.parametrize(
    "module",
    [name for name in SURFACE if name in ("ridgeline", "ridgeline.emit", "ridgeline.facts.huggingface")],
)
def test_all_is_exactly_the_list(module: str) -> None:
    assert set(importlib.import_module(module).__all__) == SURFACE[module]


def test_help_needs_no_heavy_import() -> None:
    """``ridgeline --help`` answers at once: nothing numerical is loaded before it is needed."""
    code = (
        "import sys\n"
        "from ridgeline.cli.main import main\n"
        "sys.argv = ['ridgeline', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'scipy', 'plotly', 'pydantic', 'jinja2', 'pyarrow'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("heavy: []")
