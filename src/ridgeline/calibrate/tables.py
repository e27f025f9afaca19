"""Kernel timing tables: which library speaks for a chip and format, and how rows are read and split.

A table is a mapping of column name to NumPy array. Latency is in milliseconds as published; everything
here is in seconds. Parquet is read with pyarrow, imported only when a file is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = Mapping[str, NDArray[Any]]

#: Chip name in the tables -> catalog name.
CHIPS = {
    "a100_sxm": "a100-80gb-sxm",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200-sxm",
    "b300_sxm": "b300-sxm",
    "gb200": "gb200",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
HELD_OUT = 0.3
MOST_ROWS = 4000


@dataclass(frozen=True, slots=True)
class Source:
    """The rows of one library: dtype as the table spells it, framework and kernel."""

    dtype: str
    framework: str
    kernel: str
    quantises: bool = False  # the timed call also quantises the activation in kernels of its own

    def text(self, table: str, version: str) -> str:
        """Where the numbers come from, for a provenance line."""
        return (
            f"aiconfigurator {table} table, {self.kernel} of {self.framework} {version}, dtype {self.dtype}"
        )


_CUBLAS = Source("bfloat16", "trtllm", "torch_flow")
_CUBLAS_FP8 = Source("fp8", "trtllm", "torch_flow", quantises=True)
_DEEPGEMM = Source("fp8_block", "sglang", "sglang_deepgemm_gemm_nt_f8f8bf16", quantises=True)
_DEEPGEMM_TRT = Source("fp8_block", "trtllm", "deepgemm", quantises=True)
_NVFP4 = Source("nvfp4", "trtllm", "torch_flow", quantises=True)

_HOPPER = {"bf16": _CUBLAS, "fp8": _CUBLAS_FP8, "fp8-block": _DEEPGEMM}
_BLACKWELL = {"bf16": _CUBLAS, "fp8": _CUBLAS_FP8, "fp8-block": _DEEPGEMM_TRT, "nvfp4": _NVFP4}

#: Dense products. cuBLAS behind PyTorch is what training frameworks call; of the three libraries these rows
#: agree best with the public sustained-matmul search (H100 794, B200 1745 TFLOP/s).
GEMM: dict[str, dict[str, Source]] = {
    "a100_sxm": {"bf16": _CUBLAS},
    "h100_sxm": _HOPPER,
    "h200_sxm": _HOPPER,
    "b200_sxm": _BLACKWELL,
    "b300_sxm": _BLACKWELL,
    "gb200": _BLACKWELL,
    "rtx_pro_6000_server": {
        "bf16": _CUBLAS,
        "fp8": _CUBLAS_FP8,
        "fp8-block": Source("fp8_block", "trtllm", "torch_flow", quantises=True),
        "nvfp4": _NVFP4,
    },
}

_FA3 = Source("bfloat16", "vllm", "vllm_flash_attn_fa3")
_TRTLLM_GEN = Source("bfloat16", "sglang", "trtllm_mha")
_FA2 = Source("bfloat16", "vllm", "vllm_flash_attn_fa2")
#: Fused attention: (prefill, decode). FlashAttention-3 is what Hopper trains with, FlashAttention-2 on A100
#: (rows of a paged cache are 12 % slower there and serve for decode); on Blackwell TensorRT-LLM's kernels.
ATTENTION: dict[str, dict[str, tuple[Source, Source]]] = {
    "a100_sxm": {
        "bf16": (
            Source("bfloat16", "sglang", "flash_attention"),
            Source("bfloat16", "vllm", "vllm_flash_attn"),
        )
    },
    "h100_sxm": {"bf16": (_FA3, _FA3)},
    "h200_sxm": {"bf16": (_FA3, _FA3)},
    "b200_sxm": {"bf16": (_TRTLLM_GEN, _TRTLLM_GEN)},
    "b300_sxm": {"bf16": (_TRTLLM_GEN, _TRTLLM_GEN)},
    "gb200": {"bf16": (_TRTLLM_GEN, _TRTLLM_GEN)},
    "rtx_pro_6000_server": {"bf16": (_FA2, _FA2)},
}

_CUTLASS_MOE = Source("bfloat16", "trtllm", "moe_torch_flow_cutlass")
_CUTLASS_MOE_FP8 = Source("fp8", "trtllm", "moe_torch_flow_cutlass")
_HOPPER_MOE = {"bf16": _CUTLASS_MOE, "fp8": _CUTLASS_MOE_FP8}
_BLACKWELL_MOE = {
    "bf16": Source("bfloat16", "vllm", "vllm_unquantizedfusedmoe_flashinfer_trtllm_trtllmbf16experts"),
    "fp8": Source("fp8", "vllm", "vllm_modeloptfp8moe_flashinfer_trtllm_trtllmfp8expertsmonolithic"),
    "nvfp4": Source("nvfp4", "sglang", "sglang_flashinfer_trtllm_moe"),
}
#: Experts with balanced routing: CUTLASS, on Blackwell TensorRT-LLM. A100 has rows of Triton kernels only
#: (110 of 312 TFLOP/s), which nobody trains with; it borrows Hopper's fit.
GROUPED: dict[str, dict[str, Source]] = {
    "a100_sxm": {},
    "h100_sxm": _HOPPER_MOE,
    "h200_sxm": _HOPPER_MOE,
    "b200_sxm": _BLACKWELL_MOE,
    "b300_sxm": _BLACKWELL_MOE,
    "gb200": _BLACKWELL_MOE,
    "rtx_pro_6000_server": _HOPPER_MOE | {"nvfp4": Source("nvfp4", "trtllm", "moe_torch_flow_cutlass")},
}


def read(path: Path) -> dict[str, NDArray[Any]]:
    """Columns of one parquet file.

    Raises:
        ImportError: pyarrow is absent; the message says what to install.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError("reading kernel tables needs pyarrow: pip install 'ridgeline[kernels]'") from error
    table = parquet.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def select(table: Table, mask: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Rows under ``mask``."""
    return {name: values[mask] for name, values in table.items()}


def rows_of(table: Table, chip: str, source: Source, dtype_column: str) -> dict[str, NDArray[Any]]:
    """Device-timed rows of one chip and library, with ``seconds`` added."""
    mask = (
        (table["chip"] == chip)
        & (table[dtype_column] == source.dtype)
        & (table["framework"] == source.framework)
        & (table["kernel_source"] == source.kernel)
        & (table["timing_mode"] == "device")
        & (table["latency"] > 0)
    )
    rows = select(table, mask)
    rows["seconds"] = rows["latency"].astype(np.float64) * 1e-3
    return rows


def held_out(rows: Table, keys: tuple[str, ...]) -> NDArray[np.bool_]:
    """Mask of the 30 % of *shapes* that no number is fitted on: a hash of the shape, so every run agrees."""
    state = np.zeros(len(rows[keys[0]]), dtype=np.uint64)
    for key in keys:
        state = (state ^ rows[key].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        state ^= state >> np.uint64(29)
    mixed = state * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(40)
    return np.asarray(mixed.astype(np.float64) / 2.0**24 < HELD_OUT)


def thin(mask: NDArray[np.bool_], most: int = MOST_ROWS) -> NDArray[np.bool_]:
    """At most ``most`` of the true entries, spread evenly and always the same."""
    index = np.flatnonzero(mask)
    if len(index) <= most:
        return mask
    kept = np.zeros_like(mask)
    kept[index[np.linspace(0, len(index) - 1, most).astype(np.int64)]] = True
    return kept
