"""The catalog: built-in files are sound, bad ones are explained at once, user folders and relatives work."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ridgeline.api.written import written
from ridgeline.facts import catalog, document, notes
from ridgeline.facts.catalog import CatalogError
from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.observation import Label
from ridgeline.facts.spec import Spec

OWN = [(kind, name) for kind in ("chips", "clusters", "formats", "recipes") for name in catalog.names(kind)]
CHIPS = catalog.names("chips")


@pytest.fixture(autouse=True)
def _no_user_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RIDGELINE_CATALOG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user catalog, already in force."""
    path = tmp_path / "mine"
    path.mkdir()
    monkeypatch.setenv("RIDGELINE_CATALOG", str(path))
    return path


def write(root: Path, place: str, text: str | bytes) -> Path:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
    return path


GOOD_CHIP = """\
name: my-chip
title: My chip
vendor: Us
launch: 2026-01
matrix: {bf16: 500 TFLOP/s, fp8: 1000 TFLOP/s}
vector: 50 TFLOP/s
memory: {kind: HBM3, capacity: 96 GB, bandwidth: 3.3 TB/s}
l2: 50 MB
cores: 100
clock: 1.5 GHz
scale_up: {link: Ours, bandwidth: 400 GB/s, domain: 8}
host_bandwidth: 63 GB/s
tdp: 600 W
relative: h100-sxm
cluster: dgx-h100
source: {default: our own data sheet}
"""


# Built-in files


@pytest.mark.parametrize(("kind", "name"), OWN)
def test_built_in_files_pass_the_check(kind: str, name: str) -> None:
    path = catalog.entry_path(kind, name)
    assert path is not None
    assert catalog.check(path) == []


@pytest.mark.parametrize("name", CHIPS)
def test_narrow_formats_are_not_slower(name: str) -> None:
    matrix = catalog.chip(name).matrix
    for slow, fast in (
        ("tf32", "bf16"),
        ("bf16", "fp8"),
        ("fp8", "mxfp8"),
        ("mxfp8", "mxfp4"),
        ("fp8", "nvfp4"),
    ):
        if slow in matrix and fast in matrix:
            assert matrix[fast] >= matrix[slow], f"{fast} below {slow}"


@pytest.mark.parametrize("name", CHIPS)
def test_numbers_of_a_chip_are_plausible(name: str) -> None:
    """Wide physical windows that a slip of a unit or a prefix falls out of."""
    chip = catalog.chip(name)
    wide = chip.matrix.get("bf16", chip.matrix.get("fp16", 0.0))
    assert 20 < wide / chip.memory.bandwidth < 700  # ridge point, FLOP per byte
    assert 0.1e-12 < chip.tdp / wide < 5e-12  # J per FLOP at the limit
    assert chip.scale_up.bandwidth < chip.memory.bandwidth
    assert 0.5e9 < chip.clock <= chip.best_clock < 3e9
    per_core_and_cycle = wide / chip.cores / chip.clock
    assert per_core_and_cycle / 2 ** round(math.log2(per_core_and_cycle)) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("name", CHIPS)
def test_default_cluster_is_of_the_chip(name: str) -> None:
    chip, cluster = catalog.chip(name), catalog.cluster_for(name)
    assert cluster.chip == name
    assert cluster.tiers[-1].size is None
    if name != "mi250x":  # sold for boxes of 8, but the public machine has nodes of 4
        assert cluster.tiers[0].bandwidth == chip.scale_up.bandwidth
    inside_out = [tier.bandwidth for tier in cluster.tiers]
    assert inside_out == sorted(inside_out, reverse=True)


@pytest.mark.parametrize("name", catalog.names("recipes"))
def test_recipes_use_formats_that_some_chip_runs(name: str) -> None:
    recipe = catalog.recipe(name)
    needed = {
        catalog.number_format(part).matrix_as for part in (recipe.linear, recipe.linear_backward, recipe.head)
    }
    assert any(needed <= catalog.chip(chip).matrix.keys() for chip in CHIPS)
    assert recipe.gather_bytes <= recipe.weight_bytes


def test_every_line_of_relatives_ends() -> None:
    for name in CHIPS:
        seen, chip = [name], catalog.chip(name)
        while chip.relative is not None:
            chip = catalog.chip(chip.relative)
            assert chip.name not in seen
            seen.append(chip.name)


def test_scales_are_counted_in_the_stored_bits() -> None:
    assert catalog.number_format("mxfp8").bits == 8.25
    assert catalog.number_format("nvfp4").bytes == 4.5 / 8
    for name in catalog.names("formats"):
        number = catalog.number_format(name)
        assert number.bits >= number.element_bits


# Bad files


def problems(tmp_path: Path, text: str | bytes, name: str = "my-chip.yaml") -> list[str]:
    return catalog.check(write(tmp_path, name, text))


def test_three_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD_CHIP.replace("3.3 TB/s", "3.3 TB").replace("fp8:", "fp7:").replace("source:", "# source:")
    path = write(tmp_path, "my-chip.yaml", text)
    with pytest.raises(CatalogError) as caught:
        catalog.load_file(path)
    assert str(caught.value).splitlines() == [
        "my-chip.yaml: 3 problems",
        "  matrix.fp7: unknown format; known: fp64 fp32 tf32 bf16 fp16 fp8 mxfp8 mxfp6 mxfp4 nvfp4 int8 int4",
        "  memory.bandwidth: '3.3 TB' is a size, expected a rate such as '3.35 TB/s'",
        "  source: missing; each number needs one",
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("600 W", "600", "tdp: 600 has no unit, expected a power such as '700 W'"),
        ("600 W", "-600 W", "tdp: '-600 W' is negative"),
        ("600 W", "0 W", "tdp: '0 W' should be greater than 0"),
        ("600 W", ".nan", "tdp: nan has no unit, expected a power such as '700 W'"),
        ("600 W", "[1, 2]", "tdp: [1, 2] is not a power; write it like '700 W'"),
        ("600 W", "", "tdp: None is not a power; write it like '700 W'"),
        ("cores: 100", "cores: 0", "cores: 0 should be greater than or equal to 1"),
        ("cores: 100", "cores: many", "cores: 'many' should be a valid integer"),
        ("cores: 100", "cores: .inf", "cores: inf is not a finite number"),
        ("cores: 100", "corse: 100", "corse: unknown field; did you mean 'cores'?"),
        (
            "domain: 8",
            "domain: 8, topology: ring",
            "scale_up.topology: 'ring' should be 'switch', 'mesh', 'torus' or",
        ),
        ("kind: HBM3, ", "", "memory.kind: missing; technology, such as HBM3e"),
        ("2026-01", "soon", "launch: 'soon' should match pattern"),
        ("{bf16: 500 TFLOP/s, fp8: 1000 TFLOP/s}", "{}", "matrix: "),
        ("default: our own data sheet", "memory: a sheet", "source.vector: missing; each number needs one"),
        ("default: our own data sheet", "default: ' '", "source.default: empty"),
        ("default:", "defualt:", "source.defualt: unknown field; did you mean 'default'?"),
        ("relative: h100-sxm", "relative: h100", "relative: unknown chip 'h100'; close: "),
        ("cluster: dgx-h100", "cluster: dgx-h10", "cluster: unknown cluster 'dgx-h10'; close: dgx-h100"),
    ],
)
def test_a_mistake_names_its_field(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in GOOD_CHIP
    found = problems(tmp_path, GOOD_CHIP.replace(old, new))
    assert any(line.startswith(problem) for line in found), found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty; expected 'field: value' lines"),
        ("# only a remark\n", "empty; expected 'field: value' lines"),
        ("- a\n- b\n", "holds a list, expected 'field: value' lines"),
        ("just words\n", "holds the value 'just words', expected 'field: value' lines"),
        ("1: 2\n", "field name 1 is not text; put it in quotes"),
        ("name: x\nmatrix: {bf16: 1", "line 2: not valid YAML: "),
        ("name: x\n\ttitle: y\n", "line 2: not valid YAML: "),
        ("name: x\nname: y\n", "line 2: 'name' is given twice"),
        ("name: 2026-99-99\n", "not valid YAML: "),
        ("name: *nobody\n", "line 1: not valid YAML: "),
        (b"name: x\n\xff\xfe\x00", "line 2: byte 0xff is not UTF-8 text"),
        (b"\x00\x01\x02", "line 1: not valid YAML: "),
        ("[" * 5000, "not valid YAML"),
        ("name: x\nreading: y\n", "cannot tell what it describes"),
    ],
)
def test_broken_files_get_one_clear_sentence(tmp_path: Path, text: str | bytes, problem: str) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert problem in found[0] or "nested too deeply" in found[0]
    assert "Traceback" not in found[0]
    assert "\n" not in found[0]


def test_json_files_say_the_line_too(tmp_path: Path) -> None:
    assert problems(tmp_path, '{"name": "x",\n "title": }', "x.json")[0].startswith(
        "line 2 column 11: not valid JSON"
    )


def test_a_file_changed_within_its_size_and_time_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clusters" / "mine.yaml"
    path.parent.mkdir()
    text = (catalog.BUILT_IN / "clusters" / "dgx-a100.yaml").read_text()
    text = re.sub(r"(?m)^name: .*$", "name: mine", text)
    monkeypatch.setenv("RIDGELINE_CATALOG", str(tmp_path))
    titles = []
    for title in ("one", "two"):
        path.write_text(re.sub(r"(?m)^title: .*$", f"title: {title}", text))
        os.utime(path, ns=(10**18, 10**18))
        titles.append(catalog.cluster("mine").title)
    assert titles == ["one", "two"]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert catalog.check(tmp_path / "none.yaml") == ["no such file"]
    assert catalog.check(tmp_path)[0].startswith("is a folder")


def test_tiers_must_nest(tmp_path: Path) -> None:
    text = """\
    name: odd
    title: Odd
    chip: h100-sxm
    chips_per_node: 8
    tiers:
      - {name: inner, size: 8, bandwidth: 450 GB/s, latency: 2 us}
      - {name: outer, size: 12, bandwidth: 50 GB/s, latency: 5 us}
    node_overhead: 1 kW
    source: {default: us}
    """
    assert problems(tmp_path, text, "odd.yaml") == [
        "tiers: tier 'outer' joins 12 chips, expected a multiple of 8"
    ]


# Names, user folders, kinds


def test_unknown_names_suggest() -> None:
    with pytest.raises(
        CatalogError, match=r"unknown chip 'h100'; close: h100-.*`ridgeline catalog list chips`"
    ):
        catalog.chip("h100")
    with pytest.raises(CatalogError, match=r"unknown cluster or chip 'dgx-h1000'; close: .*dgx-h100"):
        catalog.cluster_for("dgx-h1000")
    with pytest.raises(CatalogError, match="unknown kind 'fruits'; known: chips"):
        catalog.names("fruits")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../chips/h100-sxm", "/etc/passwd", "h100-sxm.yaml", "h100 sxm"]
)
def test_names_are_never_paths(name: str) -> None:
    assert catalog.entry_path("chips", name) is None
    with pytest.raises(CatalogError):
        catalog.chip(name)


def test_names_ignore_case_and_lookups_are_shared() -> None:
    assert catalog.chip("H100-SXM") is catalog.chip("h100-sxm")


def test_user_folder_adds_and_replaces(folder: Path) -> None:
    write(folder, "chips/my-chip.yaml", GOOD_CHIP)
    write(folder, "chips/l4.yaml", GOOD_CHIP.replace("my-chip", "l4"))
    assert "my-chip" in catalog.names("chips")
    assert catalog.chip("my-chip").tdp == 600
    assert catalog.chip("l4").title == "My chip"
    assert catalog.chip("h100-sxm").tdp == 700
    assert catalog.cluster_for("my-chip").name == "dgx-h100"


def test_first_user_folder_wins(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    write(folder, "chips/my-chip.yaml", GOOD_CHIP)
    write(other, "chips/my-chip.yaml", GOOD_CHIP.replace("600 W", "650 W"))
    monkeypatch.setenv("RIDGELINE_CATALOG", os.pathsep.join([str(other), str(folder)]))
    assert catalog.chip("my-chip").tdp == 650


@pytest.mark.parametrize("kind", ["chips", "stacks", "links"])
def test_no_problem_is_longer_than_a_terminal_shows(kind: str, folder: Path) -> None:
    """Keys may be as long as they like, and their choices many."""
    name = catalog.names(kind)[0]
    path = catalog.entry_path(kind, name)
    assert path is not None
    data = document.read(path)
    for key in ("9" * 5000, "x" * 395, "PREFETCH"):
        file = folder / f"{name}.json"
        file.write_text(json.dumps({**data, key: 1, "scale_up": {key: 1}}))
        problems = catalog.check(file, kind)
        assert problems
        assert all(len(f"  {line}") <= 400 for line in problems)


def test_numbers_in_mappings_keep_to_what_a_machine_has() -> None:
    fit = catalog.calibration("h100-sxm").kernels.energy
    plain = written(fit)
    assert type(fit).model_validate(plain) == fit
    with pytest.raises(ValidationError, match="beyond any machine"):
        type(fit).model_validate({**plain, "joules_per_flop": {"bf16": 1e308}})


def test_an_edited_file_is_read_again(folder: Path) -> None:
    before = catalog.digest()
    write(folder, "chips/my-chip.yaml", GOOD_CHIP)
    added = catalog.digest()
    assert catalog.chip("my-chip").tdp == 600
    write(folder, "chips/my-chip.yaml", GOOD_CHIP.replace("600 W", "1.25 kW"))
    assert catalog.chip("my-chip").tdp == 1250
    assert len({before, added, catalog.digest()}) == 3


def test_file_name_and_name_agree(folder: Path) -> None:
    write(folder, "chips/other.yaml", GOOD_CHIP)
    with pytest.raises(CatalogError, match=r"name: 'my-chip' differs from the file name 'other\.yaml'"):
        catalog.chip("other")
    path = write(folder, "chips/My_Chip.yaml", GOOD_CHIP.replace("name: my-chip", "name: My_Chip"))
    assert catalog.check(path) == ["name: 'My_Chip' may hold only lower-case letters, digits, '-' and '.'"]


def test_a_bad_user_file_breaks_only_its_own_lookup(folder: Path) -> None:
    write(folder, "chips/my-chip.yaml", "name: [")
    assert catalog.chip("h100-sxm").tdp == 700
    with pytest.raises(CatalogError, match=r"my-chip.yaml: 1 problem\n  line 1"):
        catalog.chip("my-chip")


def test_a_bad_user_file_is_left_out_where_no_name_is_asked_for(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes.tell.cache_clear()
    ours = {kind: catalog.names(kind) for kind in catalog.kinds()}
    assert all(catalog.readable(kind) == names for kind, names in ours.items())
    for kind in catalog.kinds():
        write(folder, f"{catalog.KINDS[kind].folder}/bad.yaml", "name: bad\n")
    write(folder, "engines/Odd.yaml", "name: Odd\n")
    write(folder, "engines/child.yaml", "name: child\nparent: bad\n")
    for _ in range(2):
        assert all(catalog.readable(kind) == names for kind, names in ours.items())
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said)) == len(ours) + 2
    assert any(
        line.startswith("note: engines/bad.yaml is left out: ")
        and line.endswith(f"problems; `ridgeline catalog check {folder}/engines/bad.yaml` lists them")
        for line in said
    )
    with pytest.raises(CatalogError, match=r"bad\.yaml: \d+ problems"):
        catalog.engine("bad")


def test_a_bad_built_in_file_is_never_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "engines/bad.yaml", "name: bad\n")
    monkeypatch.setattr(catalog, "BUILT_IN", folder)
    assert catalog.readable("engines") == ["bad"]


@pytest.mark.skipif(not hasattr(os, "fork") or os.geteuid() != 0, reason="root may enter anything")
@pytest.mark.parametrize("variable", ["HOME", "XDG_CONFIG_HOME", "RIDGELINE_CATALOG"])
def test_a_folder_that_may_not_be_entered_is_as_one_that_is_not_there(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    digest = catalog.digest()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv(variable, str(closed))
    notes.tell.cache_clear()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(65534)
            assert catalog.entry_path("chips", "h100-sxm") is not None
            assert catalog.entry_path("chips", "no-such-chip") is None
            assert catalog.chip("h100-sxm").name == "h100-sxm"
            assert catalog.digest() == digest
            told = [record.getMessage() for record in caplog.records]
            assert len(told) == (variable != "HOME"), told
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork") or os.geteuid() != 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_stops_only_its_own_lookup(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    folder = Path(tempfile.mkdtemp())  # not pytest's own, which others may not enter
    request.addfinalizer(lambda: shutil.rmtree(folder))
    folder.chmod(0o755)
    monkeypatch.setenv("RIDGELINE_CATALOG", str(folder))
    write(folder, "chips/mine.yaml", "name: mine\n").chmod(0o000)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(65534)
            with pytest.raises(CatalogError, match="Permission denied"):
                catalog.chip("mine")
            assert len(catalog.digest()) == 12
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_kinds_have_schemas() -> None:
    for kind in catalog.kinds():
        properties = catalog.schema(kind)["properties"]
        assert properties
    assert catalog.schema("chips")["properties"]["tdp"]["examples"] == ["700 W"]


def test_cluster_for_counts_chips() -> None:
    assert catalog.cluster_for("dgx-h100", 8).name == "dgx-h100"
    with pytest.raises(CatalogError, match="at least 1"):
        catalog.cluster_for("dgx-h100", 0)
    with pytest.raises(CatalogError, match="'example-oversubscribed' has at most 8192"):
        catalog.cluster_for("example-oversubscribed", 8193)


def test_load_file_returns_the_spec(tmp_path: Path) -> None:
    chip = catalog.load_file(write(tmp_path, "my-chip.yaml", GOOD_CHIP))
    assert isinstance(chip, Chip)
    assert chip.memory.bandwidth == 3.3e12


# Stacks

PARENT = """\
name: parent-1
title: Parent
framework: megatron
since: 2024-01
host: 5 us
step_fixed: 20 ms
reserve: 4 GB
jitter: 0.05
rows: 40
source: fitted
"""


def test_a_stack_takes_from_its_parents_what_it_leaves_out(folder: Path) -> None:
    write(folder, "stacks/parent-1.yaml", PARENT)
    write(folder, "stacks/child-1.yaml", "name: child-1\nparent: parent-1\nhost: 9 us\n")
    write(folder, "stacks/grand-child.yaml", "name: grand-child\nparent: child-1\njitter: 0.01\n")
    stack = catalog.stack("grand-child")
    assert (stack.host, stack.jitter, stack.reserve) == (9e-6, 0.01, 4e9)
    assert (stack.title, stack.rows) == ("grand-child", 0)
    write(folder, "stacks/parent-1.yaml", PARENT.replace("4 GB", "5 GB "))
    assert catalog.stack("grand-child").reserve == 5e9


def test_circles_and_missing_parents_are_told(folder: Path) -> None:
    write(folder, "stacks/a.yaml", "name: a\nparent: b\n")
    write(folder, "stacks/b.yaml", "name: b\nparent: a\n")
    with pytest.raises(CatalogError, match="parent: a -> b -> a is a circle"):
        catalog.stack("a")
    write(folder, "stacks/c.yaml", "name: c\nparent: nobody\n")
    with pytest.raises(CatalogError, match="parent: unknown stack 'nobody'"):
        catalog.stack("c")
    write(folder, "stacks/d.yaml", "name: d\nparent: e\n")
    write(folder, "stacks/e.yaml", "name: [\n")
    with pytest.raises(CatalogError, match=r"d\.yaml: 1 problem\n  parent: e\.yaml: line 1: not valid YAML"):
        catalog.stack("d")


# Calibrations


@pytest.fixture
def donor(folder: Path) -> Path:
    text = GOOD_CHIP.replace("my-chip", "donor").replace("relative: h100-sxm\n", "process: N4\n")
    write(folder, "chips/donor.yaml", text)
    for kind in ("kernels", "links"):
        fitted = catalog.entry_path(kind, "h100-sxm")
        assert fitted is not None
        text = fitted.read_text().replace("chip: h100-sxm", "chip: donor")
        write(folder, f"calibrations/{kind}/donor.yaml", text)
    return folder


def provenances(value: Any) -> list[Provenance]:
    """Every provenance inside a calibration, however deep."""
    if isinstance(value, Provenance):
        return [value]
    parts = (
        value.values()
        if isinstance(value, dict)
        else [part for _, part in value]
        if isinstance(value, Spec)
        else []
    )
    return [found for part in parts for found in provenances(part)]


def test_own_calibration_is_given_as_it_is(donor: Path) -> None:
    found = catalog.calibration("donor")
    assert found.kernels == catalog.kernel_calibration("donor")
    assert found.links == catalog.link_calibration("donor")
    assert Label.FITTED in {one.label for one in provenances(found.kernels)}


def test_a_relative_lends_its_calibration_and_says_so(donor: Path) -> None:
    write(donor, "chips/my-chip.yaml", GOOD_CHIP.replace("h100-sxm", "donor"))
    write(donor, "chips/far.yaml", GOOD_CHIP.replace("my-chip", "far").replace("h100-sxm", "my-chip"))
    own = catalog.calibration("donor")
    for name in ("my-chip", "far"):
        lent = catalog.calibration(name)
        assert lent.kernels.chip == lent.links.chip == name
        assert lent.kernels.gemm["bf16"].rate == own.kernels.gemm["bf16"].rate
        for got, had in ((lent.kernels, own.kernels), (lent.links, own.links)):
            assert len(provenances(got)) == len(provenances(had)) > 0
            for one in provenances(got):
                assert one.label in (Label.TRANSFERRED, Label.BOUND)
                assert one.source.startswith("transferred from donor, scaled by the data sheets; ")
                assert one.median_abs_err is None  # measured on the donor: it says nothing about this chip


def test_joules_follow_the_power_only_across_processes(donor: Path) -> None:
    half = GOOD_CHIP.replace("relative: h100-sxm", "relative: donor").replace("600 W", "300 W")
    write(donor, "chips/my-chip.yaml", half + "process: N4\n")
    write(donor, "chips/far.yaml", half.replace("my-chip", "far") + "process: N2\n")
    own, capped, shrunk = (catalog.calibration(name).kernels.energy for name in ("donor", "my-chip", "far"))
    assert capped.joules_per_flop == own.joules_per_flop
    assert shrunk.joules_per_flop["bf16"] == pytest.approx(own.joules_per_flop["bf16"] / 2)
    assert shrunk.static == pytest.approx(own.static / 2)


def test_no_relative_is_an_error_not_a_guess(folder: Path) -> None:
    write(folder, "chips/my-chip.yaml", GOOD_CHIP.replace("relative: h100-sxm\n", ""))
    with pytest.raises(CatalogError, match=r"no kernel calibration for chip 'my-chip' \(tried my-chip\)"):
        catalog.calibration("my-chip")
    write(folder, "chips/my-chip.yaml", GOOD_CHIP.replace("relative: h100-sxm", "relative: my-chip"))
    with pytest.raises(CatalogError, match="no kernel calibration"):
        catalog.calibration("my-chip")
