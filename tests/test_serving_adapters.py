"""Low-rank adapters beside a base model: parameters, memory, time, launch options, wrong input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ridgeline.api.serving import serve
from ridgeline.facts.services import service
from ridgeline.facts.serving import Adapters, Layout, Precision, Service
from ridgeline.graph.serving.blocks import adapter_parameters
from ridgeline.graph.serving.memory import memory
from ridgeline.sim.serving.step_time import StepTimes


def llama(adapters: Adapters, layout: Layout | None = None) -> Service:
    one = service("llama-3.1-8b", "h100-sxm", layout or Layout(), Precision(), "vllm-2026")
    return one.replace(adapters=adapters)


def test_parameters_are_those_of_the_factors() -> None:
    """q, k, v, o, gate, up and down of 32 layers: rank times the sum of both sides of each matrix."""
    sides = (4096 + 4096) + 2 * (4096 + 1024) + (4096 + 4096) + 2 * (4096 + 14336) + (14336 + 4096)
    one = llama(Adapters())
    assert adapter_parameters(one.architecture, Layout(), 16) == 32 * 16 * sides
    # first factors of products cut by columns are whole on each rank, as are second factors of those cut by rows
    assert adapter_parameters(one.architecture, Layout(tp=2), 16) > 32 * 16 * sides / 2


def test_memory_holds_every_adapter() -> None:
    none, some = memory(llama(Adapters())), memory(llama(Adapters(count=10, rank=16)))
    each = 2.0 * adapter_parameters(llama(Adapters()).architecture, Layout(), 16)
    assert some.weights - none.weights == pytest.approx(10 * each)
    assert none.kv - some.kv == pytest.approx(10 * each)


def test_more_adapters_never_take_less_time() -> None:
    rows = np.array([1.0, 7.0, 64.0, 256.0, 4096.0])

    def seconds(adapters: Adapters) -> np.ndarray:
        return StepTimes(llama(adapters)).rows_seconds(rows, "token", prefill=False)

    found = [seconds(Adapters()), *(seconds(Adapters(count=n, rank=16)) for n in (1, 2, 16, 128))]
    for fewer, more in itertools.pairwise(found):
        assert (more >= fewer).all()
    assert (found[1] > found[0]).all()
    assert (seconds(Adapters(count=16, rank=64)) > found[3]).all()


def test_adapters_in_use_saturate() -> None:
    used = Adapters(count=8).in_use(np.array([0.0, 1.0, 8.0, 1e4]))
    assert used[:2] == pytest.approx([0.0, 1.0])
    assert used[2] == pytest.approx(8 * (1 - (7 / 8) ** 8))
    assert used[3] == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("vllm", ["--enable-lora", "--max-loras 4", "--max-lora-rank 32"]),
        ("sglang", ["--enable-lora", "--max-loras-per-batch 4", "--max-lora-rank 32"]),
        ("trtllm", ["lora_config:", "max_loras: 4", "max_lora_rank: 32"]),
    ],
)
def test_launch_files_load_them(engine: str, said: list[str]) -> None:
    found = serve(
        "llama-3.1-8b", on="h100-sxm", chips=1, isl=512, osl=128, concurrency=8, engine=engine,
        precision="bf16", kv="bf16", chunk=8192, adapters=4, adapter_rank=32,
    )  # fmt: skip
    launch = found.emit()
    assert all(words in launch for words in said)
    assert found.labels["adapters"] == "bound"
    assert any("adapters: 4 of rank 32" in note for note in found.all_notes)


def test_wrong_ranks_are_refused() -> None:
    ask = {"on": "h100-sxm", "chips": 1, "isl": 512, "osl": 128}
    with pytest.raises(ValueError, match="adapter_rank = 17: engines take 8, 16"):
        serve("llama-3.1-8b", **ask, adapters=4, adapter_rank=17)
    with pytest.raises(ValueError, match="goes with adapters"):
        serve("llama-3.1-8b", **ask, adapter_rank=16)
    with pytest.raises(ValueError, match="adapters"):
        serve("llama-3.1-8b", **ask, adapters=0)
