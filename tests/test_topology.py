"""Placement of groups on tiers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.facts.chip import Cluster
from ridgeline.timing.topology import is_scale_up, place, torus_axes, usable_share


def cluster(domain: int = 8, topology: str = "switch", axes: int | None = None) -> Cluster:
    inner = {
        "name": "inner", "size": domain, "bandwidth": "450 GB/s", "latency": "1.5 us", "topology": topology,
        "torus_axes": axes,
    }  # fmt: skip
    outer = {
        "name": "outer", "size": None, "bandwidth": "50 GB/s", "latency": "5 us", "topology": "fat-tree",
        "rail_optimised": True,
    }  # fmt: skip
    return Cluster.model_validate(
        {
            "name": "test", "title": "test", "chip": "test", "chips_per_node": 8, "tiers": [inner, outer],
            "node_overhead": "1 kW", "source": {"default": "test"},
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "stride", "domain", "domains", "members"),
    [
        (8, 1, 8, 1, 8),
        (16, 1, 8, 2, 8),
        (12, 1, 8, 2, 6),
        (4, 2, 8, 1, 4),
        (64, 8, 8, 64, 1),
        (16, 4, 8, 8, 2),
        (5, 16, 8, 5, 1),
        (64, 1, 72, 1, 64),
        (16, 8, 72, 2, 8),
        (8, 1, 72, 1, 8),
        (1, 1, 8, 1, 1),
    ],
)
def test_members_and_domains(size: int, stride: int, domain: int, domains: int, members: int) -> None:
    placed = place(size, stride, cluster(domain))
    assert float(placed.domains[0]) == domains
    assert float(placed.members[0]) == members
    assert float(placed.domains[1]) == 1.0


def test_strided_siblings_share_a_node() -> None:
    placed = place(64, 8, cluster())
    assert float(placed.sharing[0]) == 8.0  # eight data-parallel groups, one chip and NIC each
    assert float(place(8, 1, cluster()).sharing[0]) == 1.0


def test_rails() -> None:
    assert bool(place(64, 8, cluster()).on_rail[1])
    assert bool(place(64, 1, cluster()).on_rail[1])
    assert not bool(place(64, 12, cluster()).on_rail[1])


@given(st.integers(1, 4096), st.integers(1, 4096))
def test_members_times_domains_is_the_group(size: int, stride: int) -> None:
    placed = place(size, stride, cluster(72))
    for domains, members in zip(placed.domains, placed.members, strict=True):
        assert float(domains * members) == pytest.approx(size)
        assert 1.0 <= float(members) <= size


def test_grid_equals_scalars() -> None:
    size, stride = np.array([1, 8, 16, 64, 100]), np.array([1, 1, 4, 8, 3])
    grid = place(size, stride, cluster())
    for index in range(size.size):
        one = place(int(size[index]), int(stride[index]), cluster())
        assert [float(d[index]) for d in grid.domains] == [float(d) for d in one.domains]
        assert [bool(r[index]) for r in grid.on_rail] == [bool(np.all(r)) for r in one.on_rail]


def test_bad_group() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        place(0, 1, cluster())


def test_mesh_links_and_torus_axes() -> None:
    mesh = cluster(8, "mesh").tiers[0]
    assert float(usable_share(mesh, 2)) == pytest.approx(1 / 7)
    assert float(usable_share(mesh, 8)) == 1.0
    torus = cluster(4096, "torus", 3).tiers[0]
    assert float(usable_share(torus, 16)) == pytest.approx(1 / 3)
    assert float(usable_share(torus, 4096)) == 1.0
    axes, length = torus_axes(torus, 256)
    assert (float(axes), float(length)) == (2.0, 16.0)


def test_scale_up_is_the_innermost_switch() -> None:
    assert is_scale_up(cluster().tiers[0], 0)
    assert not is_scale_up(cluster().tiers[1], 1)
    assert not is_scale_up(cluster().tiers[1], 0)
