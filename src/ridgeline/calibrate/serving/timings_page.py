"""Part of the page on serving: single kernels and collectives that others timed, and how near they are."""

from __future__ import annotations

import csv

import numpy as np

from ridgeline.calibrate import mixed_fit
from ridgeline.calibrate.markdown import percent, table
from ridgeline.calibrate.serving.cache_sizes import cache_sizes
from ridgeline.facts import catalog
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.timing.collectives import collective_seconds
from ridgeline.timing.topology import place

FOLDER = catalog.BUILT_IN / "timings"
#: The chip that the numbers of decodes beside prefills are fitted on; others test them.
FITTED = "rtx-pro-6000"
#: Parts of `ridgeline.facts.kernel_calibration.KernelSet` by file, chip and library.
LIBRARIES = (
    ("moe.csv", "rtx-pro-6000", "vllm/vllm_unquantizedfusedmoe_triton_tritonexperts", "grouped", "expert layers"),
    ("gemm.csv", "rtx-4090", "vllm/torch.nn.functional.linear", "gemm", "products"),
    ("attention_decode.csv", "rtx-4090", "vllm/vllm_flash_attn_fa2", "decode", "decode attention"),
)  # fmt: skip
#: Collectives go by the links of a chip and the machine they were timed on.
MACHINE = "pcie-rtx-pro-6000-acs"


def timings_section() -> str:
    """The section as Markdown."""
    rows: list[list[str]] = []
    for file, chip, library, part, what in LIBRARIES:
        known: Provenance = getattr(catalog.libraries(chip)[library], part)["bf16"].provenance
        held_out = len(_rows(file)) - known.rows
        rows.append(
            [what, chip, f"{held_out} of {len(_rows(file))}", percent(known.median_abs_err), percent(known.p90_abs_err),
             "the others"]
        )  # fmt: skip
    timed = mixed_fit.read()
    for one in mixed_fit.fit(timed, FITTED)[1]:
        same = (timed["chip"] == one.chip) & (timed["num_key_value_heads"] == one.kv_heads)
        of = int(np.sum(same))
        used = "the others" if one.chip == FITTED else f"{FITTED} alone"
        rows.append(
            [f"decodes beside a prefill, {one.heads} heads, {one.kv_heads} of keys", one.chip, f"{one.rows} of {of}",
             percent(one.shipped_median_abs_err), percent(one.shipped_p90_abs_err), used]
        )  # fmt: skip
    off = np.abs(_collectives())
    rows.append(
        ["NCCL between two cards, 10 kB to 21 MB", MACHINE, f"{off.size} of {off.size}",
         percent(float(np.median(off))), percent(float(np.quantile(off, 0.9))),
         "bandwidth and latency of the machine by hand"]
    )  # fmt: skip
    caches = cache_sizes()
    unseen = np.abs([one.rel_err for one in caches if not one.informs])
    rows.append(
        ["size of vLLM's cache, from its logs", ", ".join(one.chip for one in caches if not one.informs),
         f"{unseen.size} of {len(caches)}", percent(float(np.median(unseen))), percent(float(np.quantile(unseen, 0.9))),
         ", ".join(one.chip for one in caches if one.informs)]
    )  # fmt: skip
    headers = ["timings", "chip or machine", "unseen rows", "median", "P90", "numbers fitted on"]
    return f"""## Timings by others

Kernels and collectives of vLLM 0.19 that casys-kaist/LLMServingSim publishes, single calls on the machines of its
replayed runs. They stand in `facts/data/timings` of the catalog with their source; `ridgeline calibrate mixed` and
`ridgeline calibrate kernels` fit them. They were looked for to explain misses of the replays; no run was fitted to.
Sizes of the cache are those that vLLM logged on four machines.

{table(headers, rows)}"""


def _collectives() -> np.ndarray:
    """Relative errors of the timed collectives ``[n]``."""
    cluster, found = catalog.cluster(MACHINE), []
    links = catalog.calibration(cluster.chip).links
    for row in _rows("collective.csv"):
        # a gathered output, or what is scattered, is a rank's part times the ranks
        size = float(row["bytes"]) * (1 if row["op_name"] == "all_reduce" else int(row["num_gpus"]))
        group = place(int(row["num_gpus"]), 1, cluster)
        took = collective_seconds(row["op_name"], size, group, cluster, links)  # type: ignore[arg-type]
        found.append(float(np.ravel(took)[0]) / (float(row["latency_us"]) * 1e-6) - 1.0)
    return np.array(found)


def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))
