"""Heads of a mixer over the ranks of tensor parallelism."""

from __future__ import annotations

from ridgeline.facts.architecture import Attention, LatentAttention, LinearAttention, StateSpace


def unshared_heads(mixer: object, tp: int) -> str:
    """The heads that ``tp`` ranks cannot share; key and value heads may be repeated."""
    match mixer:
        case Attention():
            if mixer.heads % tp:
                return f"{mixer.heads} heads"
            if mixer.kv_heads % tp and tp % mixer.kv_heads:
                return f"{mixer.kv_heads} key-value heads"
        case LatentAttention() | StateSpace():
            if mixer.heads % tp:
                return f"{mixer.heads} heads"
        case LinearAttention():
            if mixer.v_heads % tp:
                return f"{mixer.v_heads} value heads"
    return ""
