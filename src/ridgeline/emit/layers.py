"""Where the layers lie: their kinds in order, and how many each pipeline chunk holds."""

from __future__ import annotations

from ridgeline.facts.architecture import Architecture, Layer


def in_order(arch: Architecture) -> list[Layer]:
    """One entry per layer from input to output; interleaved groups are spread evenly, the first one leading.

    Groups of 5 and 1 become ``a a a a a b``: the later group closes each period, as released models have it.
    """
    total = arch.num_layers
    if arch.order == "listed" or len(arch.layers) == 1:
        return [layer for layer in arch.layers for _ in range(layer.count)]
    placed: list[Layer | None] = [None] * total
    for layer in reversed(arch.layers[1:]):
        free = [index for index, taken in enumerate(placed) if taken is None]
        for step, index in enumerate(free):
            if (step + 1) * layer.count // len(free) > step * layer.count // len(free):
                placed[index] = layer
    return [arch.layers[0] if layer is None else layer for layer in placed]


def shortened(num_layers: int, pp: int, vpp: int) -> tuple[int, int, int]:
    """``(full, first, last)``: layers of a full chunk, and how many fewer the first and the last stage hold.

    The rule of `ridgeline.graph.parallel.pp.assign`: both ends give up layers, the last one first.
    """
    full = -(-num_layers // (pp * vpp))
    missing = pp * vpp * full - num_layers
    last = min(-(-missing // 2), vpp * full)
    return full, min(missing - last, vpp * full), last


def chunks(num_layers: int, pp: int, vpp: int) -> list[int]:
    """Layers of every model chunk in the order a token passes them; chunk ``c`` lies on stage ``c % pp``."""
    if pp == 1:
        return [num_layers]
    full, first, last = shortened(num_layers, pp, vpp)
    held = [full] * (pp * vpp)
    for short, stage in ((first, range(0, pp * vpp, pp)), (last, range(pp * vpp - 1, -1, -pp))):
        for index in stage:
            taken = min(short, held[index])
            held[index] -= taken
            short -= taken
    rest = sum(held) - num_layers
    for index in range(len(held) - 1, -1, -1):
        if rest and 0 < index % pp < pp - 1:
            held[index] -= 1
            rest -= 1
    return held
