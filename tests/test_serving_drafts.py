"""Drafts by a smaller model: memory, time, search, wrong input."""

from __future__ import annotations

import pytest

from ridgeline.api.serving import serve
from ridgeline.facts import catalog
from ridgeline.facts.services import service
from ridgeline.facts.serving import Layout, Precision, Service, Speculation
from ridgeline.graph.serving.memory import cache_bytes, memory, weight_bytes
from ridgeline.sim.serving.build import step_table
from ridgeline.sim.serving.steady import closed_loop, decode_step_s, mixed_step_s

ASK = {"on": "h100-sxm", "chips": 4, "isl": 1024, "osl": 256, "concurrency": 8, "engine": "vllm", "tp": 4,
       "precision": "fp8", "kv": "bf16", "chunk": 8192}  # fmt: skip


def llama(chances: tuple[float, ...] = (), draft: str = "llama-3.2-1b") -> Service:
    one = service("llama-3.1-70b", "h100-sxm", Layout(tp=4), Precision(linear="fp8"), "vllm-2026")
    if not chances:
        return one
    smaller = catalog.architecture(draft)
    return one.replace(speculation=Speculation(method="draft", acceptance=chances, draft=smaller))


def test_the_smaller_model_has_weights_and_a_cache() -> None:
    alone, both = memory(llama()), memory(llama((0.7, 0.7)))
    smaller = catalog.architecture("llama-3.2-1b")
    own = weight_bytes(smaller, Layout(tp=4), Precision(linear="fp8"))
    assert both.weights - alone.weights == pytest.approx(own)
    token = cache_bytes(smaller, Layout(tp=4), llama().precision)[0]
    assert both.token_bytes - alone.token_bytes == pytest.approx(token)
    assert both.tokens(1280) < alone.tokens(1280)


def test_steps_hold_the_smaller_model() -> None:
    """Each draft costs a step of it, a prompt is read by both; a larger drafter costs more."""
    alone, one, two = (step_table(llama(chances), 4096) for chances in ((), (0.7,), (0.7, 0.7)))
    larger = step_table(llama((0.7,), "llama-3.2-3b"), 4096)
    steps = [decode_step_s(table, 8, 1000) for table in (alone, one, two)]
    assert steps[0] < steps[1] < steps[2] < 2.0 * steps[0]
    assert decode_step_s(larger, 8, 1000) > steps[1]
    prefill = [mixed_step_s(table, 0, 0.0, [(1024, 1024)]) for table in (alone, one, larger)]
    assert prefill[0] < prefill[1] < prefill[2]


def test_more_is_made_where_drafts_hold() -> None:
    tables = [step_table(llama(chances), 4096) for chances in ((), (0.2,), (0.9,))]
    tpot = [closed_loop(table, 8, 1024, 256).tpot_s for table in tables]
    assert tpot[2] < tpot[0]
    assert tpot[2] < tpot[1]


def test_serve_searches_them() -> None:
    found = serve("llama-3.1-70b", **ASK, draft="llama-3.2-1b")
    assert {plan.service.speculation.drafts for plan in found.search.plans} == {0, 1, 2, 3}
    assert found.plan.service.speculation.method == "draft"
    assert "draft 3" in found.table()
    assert '"method":"draft_model"' in found.emit()
    chosen = serve("llama-3.1-70b", **ASK, draft="llama-3.2-1b", speculate="0.8,0.7,0.6,0.5")
    assert max(plan.service.speculation.drafts for plan in chosen.search.plans) == 4
    with pytest.raises(ValueError, match=r"draft = llama-3.2-1b: has no effect without speculation"):
        serve("llama-3.1-70b", **ASK, draft="llama-3.2-1b", speculate=False)


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"draft = qwen3-0.6b: its vocabulary has 151,936 entries"):
        serve("llama-3.1-70b", **ASK, draft="qwen3-0.6b")
