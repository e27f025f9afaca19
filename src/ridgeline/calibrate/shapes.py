"""Architecture of a case: from the row's own dimensions, else from the catalog by its model name."""

from __future__ import annotations

import re

from ridgeline.calibrate.cases import Case
from ridgeline.facts import catalog
from ridgeline.facts.architecture import Architecture, Attention, Dense, LatentAttention, Layer, Moe


class NotPredictable(ValueError):
    """A case that no scenario can express; the message is the reason."""


def architecture_of(case: Case, mtp: int = 0) -> Architecture:
    """The model of ``case``; ``mtp`` multi-token-prediction layers are trained with it.

    Raises:
        NotPredictable: neither dimensions nor a catalog model, or an attention that a layer cannot express.
    """
    needed = {"layers": case.layers, "hidden": case.hidden, "heads": case.heads, "ffn": case.ffn}
    missing = [name for name, value in {**needed, "vocab": case.vocab}.items() if value is None]
    if missing:
        if catalog.entry_path("models", case.model) is None:
            raise NotPredictable(
                f"model '{case.model}' is not in the catalog, and without {', '.join(missing)}"
            )
        return catalog.architecture(case.model)
    assert case.layers
    assert case.hidden
    assert case.vocab
    note = case.arch_note.lower()
    known = _known(case)
    alibi = "alibi" in note
    gpt = "gpt-style" in note or bool(known and known.positions)
    return Architecture(
        name=case.model or "unnamed",
        hidden=case.hidden,
        vocab=case.vocab,
        layers=_layers(case, bias=(gpt or alibi) and "no biases" not in note),
        order="interleaved" if _window(case) else "listed",
        tied=case.tied,
        norm="rms" if case.gated else "layer",
        norms_per_layer=known.norms_per_layer if known else 2,
        positions=case.seq if gpt or "learned positions" in note else 0,
        embedding_norm=alibi,
        mtp=mtp,
        source=case.source,
    )


def _known(case: Case) -> Architecture | None:
    """The catalog's model of that name, for what no column of a case says; None if the catalog lacks it."""
    return catalog.architecture(case.model) if catalog.entry_path("models", case.model) else None


def _layers(case: Case, *, bias: bool) -> tuple[Layer, ...]:
    assert case.layers
    parallel = "parallel attention" in case.arch_note
    if not case.moe_layers:
        window = _window(case)
        if window:
            size, local = window
            return (
                Layer(count=local, mixer=_attention(case, bias, size), mlp=_dense(case, bias)),
                Layer(count=case.layers - local, mixer=_attention(case, bias), mlp=_dense(case, bias)),
            )
        mixer = _mixer(case, bias)
        return (Layer(count=case.layers, mixer=mixer, mlp=_dense(case, bias), parallel=parallel),)
    if case.moe_layers > case.layers:
        raise NotPredictable(f"moe_layers = {case.moe_layers} of {case.layers} layers")
    moe = _moe(case)
    window = _window(case)
    if window:
        size, local = window
        return (
            Layer(count=local, mixer=_attention(case, bias, size), mlp=moe),
            Layer(count=case.layers - local, mixer=_attention(case, bias), mlp=moe),
        )
    leading = case.layers - case.moe_layers
    mixer = _mixer(case, bias)
    experts = Layer(count=case.moe_layers, mixer=mixer, mlp=moe)
    if not leading:
        return (experts,)
    return (Layer(count=leading, mixer=mixer, mlp=_dense(case, bias, _leading_ffn(case))), experts)


def _mixer(case: Case, bias: bool) -> Attention | LatentAttention:
    if case.attention == "hybrid":
        what = "compressed attention" if "compress" in case.arch_note else "hybrid attention"
        raise NotPredictable(f"the {what} of '{case.model}' cannot be expressed")
    if case.attention == "mla":
        return _latent(case)
    return _attention(case, bias)


def _attention(case: Case, bias: bool, window: int | None = None) -> Attention:
    assert case.heads
    assert case.hidden
    sinks = "attention sinks" in case.arch_note
    known = _known(case)
    return Attention(
        heads=case.heads,
        kv_heads=case.kv_heads or case.heads,
        head_dim=case.head_dim or case.hidden // case.heads,
        window=window,
        qkv_bias=bias or sinks,
        out_bias=bias or sinks,
        qk_norm=known is not None and any(getattr(layer.mixer, "qk_norm", False) for layer in known.layers),
        sinks=sinks,
    )


def _latent(case: Case) -> LatentAttention:
    """Latent attention from a note such as ``q_lora 1536, kv_lora 512, qk 128 nope + 64 rope, v 128``."""
    assert case.heads
    note = case.arch_note
    found = re.search(r"kv_lora (\d+), qk (\d+) nope \+ (\d+) rope, v (\d+)", note)
    if found is None:
        raise NotPredictable(f"latent attention of '{case.model}' without its ranks in arch_note")
    kv_lora, nope, rope, value = (int(text) for text in found.groups())
    query = re.search(r"\bq_lora (\d+)", note)
    return LatentAttention(
        heads=case.heads,
        q_lora=int(query[1]) if query else None,
        kv_lora=kv_lora,
        nope_dim=nope,
        rope_dim=rope,
        v_dim=value,
    )


def _dense(case: Case, bias: bool, ffn: int | None = None) -> Dense:
    assert case.ffn
    return Dense(ffn=ffn or case.ffn, gated=case.gated, bias=bias)


def _leading_ffn(case: Case) -> int:
    """Inner dimension of the dense layers before the experts; their ``ffn`` column is that of one expert."""
    assert case.ffn
    found = re.search(r"dense with ffn (\d+)", case.arch_note)
    return int(found[1]) if found else case.ffn * max(1, case.topk + case.shared_experts)


def _moe(case: Case) -> Moe:
    assert case.ffn
    if not case.experts or not case.topk:
        raise NotPredictable("moe_layers without experts or topk")
    latent = case.attention == "mla"
    sinks = "attention sinks" in case.arch_note
    return Moe(
        experts=case.experts,
        topk=case.topk,
        ffn=case.ffn,
        gated=case.gated,
        bias=sinks,
        shared_ffn=case.shared_experts * case.ffn,
        router_bias=sinks or latent,
        node_limit=4 if latent else None,
    )


def _window(case: Case) -> tuple[int, int] | None:
    """Window [tokens] and number of windowed layers; None where all attend in full or no window is stated."""
    assert case.layers
    if case.attention != "swa-mix":
        return None
    size = re.search(r"window (\d+)", case.arch_note)
    if size is None:
        return None  # MegaScale states none; full attention is an upper bound, 3 % more work at 2,048 tokens
    ratio = re.search(r"(\d+) local.*?: *(\d+) global", case.arch_note)
    local, full = (int(ratio[1]), int(ratio[2])) if ratio else (1, 1)  # "alternating"
    return int(size[1]), case.layers * local // (local + full)
