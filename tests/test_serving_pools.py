"""Pools of prefill and decode engines: how chips are divided between them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.explore.serving_pools import BUSY, divide

SIZES = st.sampled_from([1, 2, 3, 4, 8, 16])
RATES = st.one_of(st.floats(1e-3, 100.0), st.sampled_from([1.0, 2.0]))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3000), SIZES, SIZES, RATES, RATES)
def test_no_other_division_serves_more(
    chips: int, prefill_chips: int, decode_chips: int, prompts: float, requests: float
) -> None:
    prefills, decodes, served = divide(chips, prefill_chips, decode_chips, prompts, requests)
    every = np.arange(1, (chips - prefill_chips) // decode_chips + 1)
    if not every.size:
        assert (prefills, decodes, served) == (0, 0, 0.0)
        return
    left = (chips - every * decode_chips) // prefill_chips
    rates = np.minimum(every * requests, BUSY * left * prompts)
    assert served == rates.max()
    assert decodes == every[rates.argmax()]
    assert prefills * prefill_chips + decodes * decode_chips <= chips


def test_a_million_million_chips_are_divided() -> None:
    prefills, decodes, served = divide(10**12, 1, 1, 10.0, 10.0)
    assert 0.999e12 <= prefills + decodes <= 1e12
    assert served == decodes * 10.0
