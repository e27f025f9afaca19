"""Effects: which settings of a question change nothing of its answer, so that none is taken without a word."""

from __future__ import annotations

from collections.abc import Callable

from ridgeline import files

#: Beginning of a path -> what counts in its place.
_INSTEAD = {
    "chip.scale_up.domain": "cluster.tiers.0.size is what counts",
    "chip.scale_up": "cluster.tiers.0 is what counts",
    "cluster.chips_per_node": "the sizes of cluster.tiers are what counts",
    "engine.max_batched_tokens": "other sizes of a step are searched; --chunk fixes it",
    "engine.max_seqs": "--max-seqs limits it",
}


def without_effect(
    settings: tuple[str, ...], same: Callable[[tuple[str, ...]], bool], hint: str = ""
) -> list[str]:
    """One note for each ``path=value`` without which the answer is the same.

    Fields of a plan are left out: they say which plan is asked for, whatever a search would find.

    Args:
        settings: all of the question.
        same: whether the answer with these settings alone is the same to the last bit; a ValueError says no.
        hint: what is said where no field is known to count in its place.
    """
    notes = []
    for index, setting in enumerate(settings):
        path = setting.partition("=")[0].strip()
        if path.split(".")[0] == "plan" or not _holds(same, settings[:index] + settings[index + 1 :]):
            continue
        instead = next((said for start, said in _INSTEAD.items() if f"{path}.".startswith(f"{start}.")), hint)
        said = f"--set {files.one_line(path, files.SHOWN)}: changes nothing of this prediction"
        notes.append(f"{said}; {instead}" if instead else said)
    return notes


def _holds(same: Callable[[tuple[str, ...]], bool], settings: tuple[str, ...]) -> bool:
    try:
        return same(settings)
    except ValueError:  # without it nothing is legal, or nothing fits
        return False
