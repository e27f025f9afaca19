"""A `Service` from names: what the catalog says about model, machine and engine, put together."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from ridgeline.facts import catalog
from ridgeline.facts.architecture import Architecture
from ridgeline.facts.calibration import Calibration
from ridgeline.facts.chip import Cluster
from ridgeline.facts.engine import Engine
from ridgeline.facts.engine_kernels import engine_kernels
from ridgeline.facts.kernel_calibration import KernelSet
from ridgeline.facts.serving import Layout, Limits, Precision, Service, Speculation


def service(
    architecture: Architecture | str,
    cluster: Cluster | str,
    layout: Layout,
    precision: Precision,
    engine: Engine | str,
    speculation: Speculation | None = None,
    limits: Limits | None = None,
) -> Service:
    """Facts by value or by name of the catalog; ``cluster`` may be a chip's name.

    Raises:
        CatalogError: a name is unknown, or no calibration speaks for the chip.
    """
    found = catalog.architecture(architecture) if isinstance(architecture, str) else architecture
    machine = catalog.cluster_for(cluster) if isinstance(cluster, str) else cluster
    software = catalog.engine(engine) if isinstance(engine, str) else engine
    calibration, kernels = _kernels(machine.chip, tuple(sorted(software.libraries.items())))
    return Service(
        architecture=found,
        chip=catalog.chip(machine.chip),
        cluster=machine,
        layout=layout,
        precision=default_cache(precision, software),
        engine=software,
        calibration=calibration,
        kernels=kernels,
        speculation=speculation or Speculation(),
        limits=limits or Limits(),
    )


def with_libraries(service: Service, **wanted: tuple[str, ...]) -> Service:
    """The service with other kernel libraries for the parts named (`Engine.libraries`)."""
    engine = service.engine.model_copy(update={"libraries": {**service.engine.libraries, **wanted}})
    _, kernels = _kernels(service.chip.name, tuple(sorted(engine.libraries.items())))
    return service.replace(engine=engine, kernels=kernels)


@lru_cache(maxsize=256)
def _kernels(
    chip_name: str, libraries: tuple[tuple[str, tuple[str, ...]], ...]
) -> tuple[Calibration, KernelSet]:
    calibration = catalog.calibration(chip_name)
    return calibration, engine_kernels(calibration, catalog.served_libraries(chip_name), dict(libraries))


def default_cache(precision: Precision, engine: Engine) -> Precision:
    """The precision with the engine's own choice where the format of the cache is left open (``auto``)."""
    if precision.kv != "auto":
        return precision
    named = {precision.linear, precision.of_experts}
    narrow = engine.kv_narrow and "nvfp4" in named
    if engine.kv_narrow == "narrow":
        narrow = not named & {"bf16", "fp16", "fp32"}
    return replace(precision, kv="fp8" if narrow else "bf16")
