"""Low-rank adapters of several tenants in one batch: bytes and FLOPs, no kernel of them was timed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: The narrow rows are cleared, filled by the first factor, and spread by the second (Punica, arXiv:2310.18547;
#: vllm/lora/ops/triton_ops).
ADAPTER_KERNELS = 3.0
#: Bytes of a value: inputs, outputs and factors in two; the narrow rows between the factors in fp32.
WIDE, NARROW = 2.0, 4.0


def adapter_seconds(
    rows: NDArray[np.float64],
    in_use: NDArray[np.float64],
    n: float,
    k: float,
    rank: float,
    slices: float,
    bytes_per_s: float,
    flops_per_s: float,
    launch: float,
) -> NDArray[Any]:
    """What adapters add to one product [s], the larger of bytes and FLOPs behind the launches.

    Args:
        rows: tokens.
        in_use: adapters that these tokens ask for; each is read once.
        n, k: columns and depth of the product on this rank.
        rank, slices: of the adapters, and matrices that the product joins.
        bytes_per_s, flops_per_s, launch: rate of memory, of products in bf16, and seconds of one launch.
    """
    factors = WIDE * in_use * rank * (slices * k + n)
    # inputs read; narrow rows cleared, written and read; outputs read and written with the sum
    passed = rows * (WIDE * k + 3.0 * NARROW * slices * rank + 2.0 * WIDE * n)
    flops = 2.0 * rows * rank * (slices * k + n)
    return np.asarray(
        ADAPTER_KERNELS * launch + np.maximum((factors + passed) / bytes_per_s, flops / flops_per_s)
    )
