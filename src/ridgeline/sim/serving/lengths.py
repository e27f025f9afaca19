"""Input and output lengths ``[n]`` in tokens of every kind of `ridgeline.facts.traffic`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.requests import Requests
from ridgeline.facts.traffic import Drawn, FixedLength, Independent, LognormalLength, UniformLength

IntArray = NDArray[np.int64]

#: The 99th percentile of the standard normal distribution.
_Z99 = 2.3263478740408408
_MOST = 2**31 - 1


def pairs(
    lengths: Independent | Drawn, count: int, rng: np.random.Generator, file: Requests | None = None
) -> tuple[IntArray, IntArray]:
    """Input and output tokens; ``file`` holds the requests that `Drawn` draws from."""
    if isinstance(lengths, Drawn):
        if file is None:
            raise ValueError(f"{lengths}: its requests are not read")
        index = rng.integers(0, len(file), count)
        return file.input_tokens[index], file.output_tokens[index]
    # each its own stream, so that another output length leaves the inputs as they are
    of_input, of_output = rng.spawn(2)
    return tokens(lengths.input, count, of_input), tokens(lengths.output, count, of_output)


def tokens(
    length: FixedLength | UniformLength | LognormalLength, count: int, rng: np.random.Generator
) -> IntArray:
    """``count`` lengths, at least 1."""
    match length:
        case FixedLength():
            return np.full(count, length.tokens, dtype=np.int64)
        case UniformLength():
            low, high = length.bounds
            return rng.integers(low, high + 1, count)
        case LognormalLength():
            sigma = sigma_of(length)
            drawn = np.exp(math.log(length.mean) - sigma**2 / 2.0 + sigma * rng.standard_normal(count))
            cut: NDArray[np.float64] = np.clip(drawn, 1, length.most or _MOST)
            return np.rint(cut).astype(np.int64)


def sigma_of(length: LognormalLength) -> float:
    """Sigma of the logarithm: the smaller root of ``sigma^2 / 2 - z99 sigma + ln(p99 / mean) = 0``."""
    if length.sigma is not None:
        return length.sigma
    assert length.p99 is not None
    return _Z99 - math.sqrt(max(_Z99**2 - 2.0 * math.log(length.p99 / length.mean), 0.0))
