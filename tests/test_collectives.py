"""Time of collectives: laws, bounds and published points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.facts import catalog
from ridgeline.facts.chip import Cluster
from ridgeline.facts.link_calibration import ENGINES, LinkCalibration
from ridgeline.timing.collectives import KINDS, bound_seconds, collective_seconds
from ridgeline.timing.dispatch import dispatch_seconds, distinct
from ridgeline.timing.topology import place


def with_tier(base: Cluster, index: int, **changes: Any) -> Cluster:
    tiers = list(base.tiers)
    tiers[index] = tiers[index].model_copy(update=changes)
    return base.model_copy(update={"tiers": tuple(tiers)})


H100: Cluster = catalog.cluster_for("h100-sxm")
LINKS: LinkCalibration = catalog.link_calibration("h100-sxm")
groups = st.tuples(st.integers(1, 2048), st.sampled_from([1, 2, 4, 8, 16, 64, 3]))
kinds = st.sampled_from(KINDS)
sizes = st.floats(1.0, 1e11)


def seconds(kind: Any, size: Any, n: Any, stride: Any = 1, cluster: Cluster = H100, **more: Any) -> Any:
    return collective_seconds(kind, size, place(n, stride, cluster), cluster, LINKS, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_one_is_free(kind: Any) -> None:
    assert float(seconds(kind, 1e9, 1)) == 0.0
    assert float(bound_seconds(kind, 1e9, place(1, 8, H100), H100)) == 0.0


@given(kinds, groups, sizes, st.floats(1.0, 4.0))
def test_more_bytes_never_take_less_time(
    kind: Any, group: tuple[int, int], size: float, factor: float
) -> None:
    assert float(seconds(kind, size, *group)) <= float(seconds(kind, size * factor, *group)) * (1 + 1e-12)


@given(kinds, groups, sizes, st.floats(1.0, 8.0))
def test_sharing_links_is_never_faster(kind: Any, group: tuple[int, int], size: float, flows: float) -> None:
    assert float(seconds(kind, size, *group)) <= float(seconds(kind, size, *group, concurrent=flows)) * (
        1 + 1e-12
    )


@given(kinds, groups, sizes)
def test_never_below_the_bound(kind: Any, group: tuple[int, int], size: float) -> None:
    bound = float(bound_seconds(kind, size, place(*group, H100), H100))
    assert float(seconds(kind, size, *group)) >= bound * (1 - 1e-12)


@given(groups, sizes)
def test_never_slower_than_a_flat_ring_on_the_slowest_link(group: tuple[int, int], size: float) -> None:
    flat = H100.model_copy(update={"tiers": H100.tiers[1:], "chips_per_node": 1})
    for kind in ("all_reduce", "all_gather", "reduce_scatter"):
        # One NIC a chip, all ranks in a ring over the network: rails and NVLink can only help at large sizes.
        both = float(bound_seconds(kind, size, place(*group, H100), H100))  # type: ignore[arg-type]
        ring = float(bound_seconds(kind, size, place(group[0], 1, flat), flat, in_network=False))  # type: ignore[arg-type]
        assert both <= ring * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_grid_equals_scalars(kind: Any) -> None:
    n, stride = np.array([1, 2, 8, 16, 64, 24]), np.array([1, 4, 1, 1, 8, 2])
    size = np.array([1e3, 1e6, 1e9, 1e4, 1e8, 1e7])
    grid = seconds(kind, size, n, stride)
    each = [float(seconds(kind, float(size[i]), int(n[i]), int(stride[i]))) for i in range(n.size)]
    assert np.allclose(grid, each, rtol=1e-12)


def test_reduction_in_switches_helps_all_reduce_only() -> None:
    assert float(seconds("all_reduce", 1e9, 8)) < float(seconds("all_reduce", 1e9, 8, in_network=False))
    assert float(seconds("all_gather", 1e9, 8)) == float(seconds("all_gather", 1e9, 8, in_network=False))


def test_engine_kernels_win_on_small_messages() -> None:
    for engine in ENGINES:
        small = float(seconds("all_reduce", 16384, 8, engine=engine))
        assert small < 0.5 * float(seconds("all_reduce", 16384, 8))
        assert float(seconds("all_reduce", 1e6, 16, engine=engine)) == float(seconds("all_reduce", 1e6, 16))
    with pytest.raises(ValueError, match="sglang, vllm, trtllm"):
        seconds("all_reduce", 1e6, 8, engine="mine")


def test_scale_out_rate_is_that_of_the_rails() -> None:
    """64 ranks in 8 nodes gather over eight rails, one rank a node over one."""
    full, strided = float(seconds("all_gather", 8e9, 64)), float(seconds("all_gather", 8e9, 64, 8))
    assert 6.0 < strided / full < 8.0


def test_send_uses_the_tier_between_neighbours() -> None:
    assert float(seconds("send", 1e9, 4, 2)) < 0.2 * float(seconds("send", 1e9, 4, 8))


def test_network_troubles_cost_time() -> None:
    plain = float(seconds("all_to_all", 1e8, 64))
    assert (
        float(seconds("all_to_all", 1e8, 64, cluster=with_tier(H100, 1, oversubscription=2.0))) > 1.5 * plain
    )
    assert float(seconds("all_to_all", 1e8, 64, cluster=with_tier(H100, 1, lossy=True))) > plain
    assert float(seconds("all_gather", 1e8, 64, cluster=with_tier(H100, 1, lossy=True))) > float(
        seconds("all_gather", 1e8, 64)
    )
    assert float(seconds("send", 1e3, 4, 8, with_tier(H100, 1, latency=9e-6))) == pytest.approx(
        float(seconds("send", 1e3, 4, 8)) + 4e-6
    )
    assert float(seconds("all_gather", 1e9, 64, 12)) > float(seconds("all_gather", 1e9, 64, 8))


def test_mesh_pair_has_one_link() -> None:
    mesh = with_tier(H100, 0, topology="mesh", in_network_reduction=False)
    pair = float(bound_seconds("send", 1e9, place(2, 1, mesh), mesh))
    assert pair == pytest.approx(1e9 / (450e9 / 7))
    everyone = float(bound_seconds("all_to_all", 1e9, place(8, 1, mesh), mesh))
    assert everyone == pytest.approx(1e9 * 7 / 8 / 450e9)


def test_torus_uses_its_axes() -> None:
    torus = with_tier(H100, 0, topology="torus", torus_axes=3, size=4096, bandwidth=600e9)
    one = float(bound_seconds("all_gather", 1e9, place(16, 1, torus), torus))
    assert one == pytest.approx(1e9 * 15 / 16 / 200e9)
    # Half the traffic of a ring crosses its middle: an exchange costs a quarter of the length.
    exchange = float(bound_seconds("all_to_all", 1e9, place(16, 1, torus), torus))
    assert exchange == pytest.approx(1e9 * 15 / 16 * 4 / 200e9)


def test_errors_teach() -> None:
    with pytest.raises(ValueError, match="choose one of all_reduce"):
        seconds("gossip", 1.0, 8)
    with pytest.raises(ValueError, match="at least 1"):
        seconds("send", 1.0, 8, concurrent=0.5)
    with pytest.raises(ValueError, match="has no scale_up fit for 'all_to_all'"):
        collective_seconds(
            "all_to_all", 1.0, place(8, 1, H100), H100, LINKS.model_copy(update={"scale_up": {}})
        )


# Published: a peak bus bandwidth of about 480 GB/s with NVLS on 8 GPUs (NVIDIA/nccl-tests issue 212).
def test_all_reduce_of_one_node_reaches_published_bus_bandwidth() -> None:
    bus = 1.75 * 8e9 / float(seconds("all_reduce", 8e9, 8))
    assert 400e9 < bus < 500e9


#: DeepEP on H800, 128 tokens of 7168, top 8: EP degree -> dispatch (fp8), combine (bf16) in us (its README).
LOW_LATENCY = {16: (118, 195), 32: (155, 273), 64: (173, 314), 128: (192, 369), 256: (194, 360)}


@pytest.mark.parametrize("ep", LOW_LATENCY)
def test_low_latency_dispatch_between_nodes(ep: int) -> None:
    placed = place(ep, 1, H100)
    for combine, micros in zip((False, True), LOW_LATENCY[ep], strict=True):
        hidden = 7168 * (2.0 if combine else 1.03125)
        time = dispatch_seconds(128, hidden, 8, placed, H100, LINKS, combine=combine, low_latency=True)
        assert float(time) * 1e6 == pytest.approx(micros, rel=0.08)


@pytest.mark.parametrize(("ep", "rate", "limit"), [(32, 58e9, 4), (64, 51e9, 4)])
def test_dispatch_between_nodes(ep: int, rate: float, limit: int) -> None:
    """The README counts the token's own node as sent, so its rate is over the expected distinct nodes."""
    tokens, hidden = 4096, 7168 * 1.03125
    published = tokens * hidden * float(distinct(limit, 8)) / rate
    time = float(dispatch_seconds(tokens, hidden, 8, place(ep, 1, H100), H100, LINKS, node_limit=limit))
    assert time == pytest.approx(published, rel=0.1)


def test_limiting_nodes_saves_time() -> None:
    placed = place(64, 1, H100)
    free = float(dispatch_seconds(4096, 7392, 8, placed, H100, LINKS))
    assert float(dispatch_seconds(4096, 7392, 8, placed, H100, LINKS, node_limit=4)) < free
    assert float(dispatch_seconds(4096, 7392, 8, place(1, 1, H100), H100, LINKS)) == 0.0
    assert float(distinct(8, 1)) == 1.0


@pytest.mark.parametrize("name", catalog.names("links"))
def test_every_calibration_prices_every_collective(name: str) -> None:
    links, cluster = catalog.link_calibration(name), catalog.cluster_for(name)
    for kind in KINDS:
        for n, stride in ((2, 1), (8, 1), (64, 1), (64, 8)):
            placed = place(n, stride, cluster)
            bound = float(bound_seconds(kind, 1e8, placed, cluster))  # type: ignore[arg-type]
            time = float(collective_seconds(kind, 1e8, placed, cluster, links))  # type: ignore[arg-type]
            assert bound <= time < 8.0 * bound


engines = st.sampled_from(("", *ENGINES))
CHIPS = ("a100-80gb-sxm", "b200-sxm", "b300-sxm", "gb200", "h100-sxm", "h200-sxm", "rtx-pro-6000")
measured = st.sampled_from(
    [(name, catalog.cluster_for(name), catalog.link_calibration(name)) for name in CHIPS]
)


@given(measured, kinds, engines, st.integers(2, 8), sizes, st.floats(1.0, 8.0))
def test_every_fitted_chip_is_monotone(
    chip: Any, kind: Any, engine: str, n: int, size: float, factor: float
) -> None:
    """More bytes never take less time, and a faster link never more."""
    _, cluster, links = chip
    fast = with_tier(cluster, 0, bandwidth=cluster.tiers[0].bandwidth * factor)
    here = place(n, 1, cluster)
    time = float(collective_seconds(kind, size, here, cluster, links, engine=engine))
    more = float(collective_seconds(kind, size * factor, here, cluster, links, engine=engine))
    quicker = float(collective_seconds(kind, size, place(n, 1, fast), fast, links, engine=engine))
    assert quicker <= time * (1 + 1e-12)
    assert time <= more * (1 + 1e-12)
    # An envelope of straight lines with a base each: twice the bytes never take more than twice the time, unless an
    # engine changes its kernel in between.
    fit = links.scale_up.get(f"all_reduce_{engine}")
    if kind != "all_reduce" or fit is None or not fit.kernels:
        assert more <= time * factor * (1 + 1e-12)


@given(measured, st.sampled_from(ENGINES), st.sampled_from([2, 4, 8]), sizes, st.floats(1.0, 8.0))
def test_an_engine_jumps_only_where_it_changes_its_kernel(
    chip: Any, engine: str, n: int, size: float, factor: float
) -> None:
    """A byte more may call another kernel, at the sizes that the engine names and nowhere else."""
    _, cluster, links = chip
    ends = [kernel.below.get(n, 0.0) for kernel in links.scale_up[f"all_reduce_{engine}"].kernels]
    if any(size < end <= size * factor for end in ends):
        return
    here = place(n, 1, cluster)
    time, more = (
        float(collective_seconds("all_reduce", one, here, cluster, links, engine=engine))
        for one in (size, size * factor)
    )
    assert time <= more * (1 + 1e-12)
    assert more <= time * factor * (1 + 1e-12)


@given(measured, kinds, engines, st.sampled_from([2, 4, 8]), st.floats(1e-6, 1e-3))
def test_no_jump_at_the_edges_of_fitted_sizes(chip: Any, kind: Any, engine: str, n: int, step: float) -> None:
    """Tables reach from 256 B to 536 MB: a step past either end changes the time by no more than the step."""
    _, cluster, links = chip
    for edge in (256.0, 5.36870912e8):
        here = [
            float(collective_seconds(kind, edge * scale, place(n, 1, cluster), cluster, links, engine=engine))
            for scale in (1.0 - step, 1.0 + step)
        ]
        assert here[0] <= here[1] <= here[0] * (1.0 + step) / (1.0 - step) * (1 + 1e-12)


experts = st.sampled_from([chip for chip in CHIPS if chip not in ("a100-80gb-sxm", "rtx-pro-6000")])
rates = st.floats(1.0, 8.0)


@given(experts, st.booleans(), st.booleans(), st.floats(1.0, 1e5), st.sampled_from([1, 2, 8, 22]), rates)
def test_dispatch_is_monotone(
    name: str, combine: bool, low: bool, tokens: float, topk: int, factor: float
) -> None:
    """More tokens, wider ones or more experts per token never take less time; more cores or links never more."""
    cluster, links = catalog.cluster_for(name), catalog.link_calibration(name)
    fast = with_tier(cluster, 0, bandwidth=cluster.tiers[0].bandwidth * factor)

    def time(on: Cluster = cluster, **changes: Any) -> float:
        given: dict[str, Any] = {
            "tokens": tokens,
            "hidden_bytes": 7168.0,
            "topk": topk,
            "cores": 16.0,
        } | changes
        ranks = place(on.chips_per_node, 1, on)
        return float(
            dispatch_seconds(
                given["tokens"], given["hidden_bytes"], given["topk"], ranks, on, links,
                combine=combine, low_latency=low, cores=given["cores"],
            )
        )  # fmt: skip

    base = time()
    for slower in ({"tokens": tokens * factor}, {"hidden_bytes": 7168.0 * factor}, {"topk": topk + 1}):
        assert time(**slower) >= base * (1 - 1e-12), slower
    if not low:  # a low-latency kernel takes what its experts divide into
        assert time(cores=16.0 * factor) <= base * (1 + 1e-12)
    assert time(on=fast) <= base * (1 + 1e-12)


def test_cores_set_the_rate_until_links_do() -> None:
    """Measured on H100: four cores reach a quarter of what 24 do, 20 and 24 nearly the same (7168 wide, top 8)."""
    here = place(8, 1, H100)
    time = {
        cores: float(dispatch_seconds(16384, 7392, 8, here, H100, LINKS, cores=cores))
        for cores in (4, 8, 20, 24)
    }
    assert time[4] / time[8] == pytest.approx(1.81, rel=0.1)
    assert time[4] / time[24] == pytest.approx(4.23, rel=0.1)
    assert time[20] / time[24] == pytest.approx(1.01, rel=0.1)
    few, many = (
        float(dispatch_seconds(512, 4224, 2, here, H100, LINKS, low_latency=True, experts=count))
        for count in (8, 256)
    )
    assert few > 4.0 * many, "one expert a rank keeps most cores idle"
