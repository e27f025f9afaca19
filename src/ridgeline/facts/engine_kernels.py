"""Which timed kernels a serving engine runs: the first library of its list that a chip has timed for a format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ridgeline.facts.calibration import Calibration
from ridgeline.facts.kernel_calibration import KernelSet
from ridgeline.facts.observation import Label


def engine_kernels(
    calibration: Calibration, libraries: Mapping[str, KernelSet], wanted: Mapping[str, Sequence[str]]
) -> KernelSet:
    """The engine's own kernels where they were timed on a chip, the chip's reference kernels elsewhere.

    ``wanted`` (`Engine.libraries`) lists patterns such as ``vllm/*trtllm*`` by part; the reference fits take part by
    the library in their provenance. Expert layers stay relative to the reference products, on which they were fitted.
    """
    own = calibration.kernels
    chosen: dict[str, dict[str, Any]] = {}
    for part in KernelSet.model_fields:
        fits = dict(getattr(own, part))
        named = {name for kit in libraries.values() for name in getattr(kit, part)}
        for name in sorted(named.union(fits)):
            timed = {
                library: getattr(kit, part)[name]
                for library, kit in libraries.items()
                if name in getattr(kit, part)
            }
            spoken = fits[name].provenance.library if name in fits else None
            if spoken and (spoken not in timed or fits[name].provenance.label is not Label.TRANSFERRED):
                timed[spoken] = fits[name]  # a relative's fit does not hide what was timed on the chip itself
            found = [
                library
                for pattern in wanted.get(part, ())
                for library in sorted(timed)
                if fnmatchcase(library, pattern)
            ]
            if found:
                fits[name] = timed[found[0]]
            elif name not in fits:
                fits[name] = timed[min(timed)]
        chosen[part] = fits
    return KernelSet.model_construct(None, **chosen)
