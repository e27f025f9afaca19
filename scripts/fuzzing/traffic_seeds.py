"""Seeds of traffic: recorded requests in every form, and files that describe traffic."""

from __future__ import annotations

import gzip
import json
from typing import Any

import yaml

from fuzzing.case import Case, one

AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 23:59:59.9799600,4808,10
2023-11-17 00:00:00.0319600,3180,8
2023-11-17 00:00:01.0781490,110,27
2023-11-17 00:00:02.5000000+00:00,700,64
"""
BURST = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""
OWN = """\
arrival_s,input_tokens,output_tokens,session,priority,cancel_s
0,10,1,anna,2,
0.5,20,2,,,30
1.5,30,3,anna,1,
"""


def _objects(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


MOONCAKE = _objects(
    {"timestamp": 100, "input_length": 1030, "output_length": 5, "hash_ids": [0, 1, 2]},
    {"timestamp": 3100, "input_length": 512, "output_length": 7, "hash_ids": [0]},
    {"timestamp": 3900, "input_length": 2048, "output_length": 70, "hash_ids": [0, 4, 5, 6]},
)
RUN = _objects(
    {"request_id": "a", "input_toks": 3, "output_toks": 4, "arrival_time": 1777144890.5, "queued_ts": 1.0},
    {"request_id": "b", "input_toks": 5, "output_toks": 6, "arrival_time": 1777144892.0, "queued_ts": 2.0},
)
OWN_LINES = _objects(
    {"arrival_s": 0, "input_tokens": 10, "output_tokens": 1, "session": "anna", "priority": 2},
    {"arrival_s": 0.5, "input_tokens": 20, "output_tokens": 2, "cancel_s": 30.0},
    {"arrival_s": 1.5, "input_tokens": 30, "output_tokens": 3, "session": 7, "priority": 1},
)


def traces(*texts: str, ending: str) -> list[Case]:
    """Recorded requests, plain and packed."""
    cases = []
    for text in texts:
        cases.append(one(f"trace.{ending}", text))
        cases.append(one(f"trace.{ending}.gz", gzip.compress(text.encode(), 1, mtime=0)))
    return cases


_FIXED = {
    "kind": "independent",
    "input": {"kind": "fixed", "tokens": 512},
    "output": {"kind": "fixed", "tokens": 32},
}
_SPREAD = {
    "kind": "independent",
    "input": {"kind": "lognormal", "mean": 900.0, "p99": 4000.0, "most": 8000},
    "output": {"kind": "uniform", "nominal": 100, "low": 0.5, "high": 1.0},
}
_TRAFFIC: tuple[dict[str, Any], ...] = (
    {"arrivals": {"kind": "poisson", "rate_per_s": 4.0}, "lengths": _FIXED, "num_requests": 40},
    {"arrivals": {"kind": "gamma", "rate_per_s": 4.0, "cv": 2.0}, "lengths": _SPREAD, "num_requests": 40, "seed": 3},
    {
        "arrivals": {"kind": "bursts", "on_per_s": 9.0, "on_s": 2.0, "off_per_s": 0.5, "off_s": 5.0},
        "lengths": {"kind": "drawn", "path": "own.csv"}, "num_requests": 30, "timeout_s": 20.0,
    },
    {
        "arrivals": {"kind": "ramp", "from_per_s": 1.0, "to_per_s": 9.0, "over_s": 10.0}, "lengths": _FIXED,
        "num_requests": 30,
    },
    {
        "arrivals": {"kind": "diurnal", "rate_per_s": 3.0, "swing": 0.5, "period_s": 60.0}, "lengths": _SPREAD,
        "num_requests": 30,
    },
    {
        "arrivals": {"kind": "closed", "users": 8, "think_s": 0.5}, "lengths": _FIXED, "num_requests": 40, "warmup": 2,
        "client": "vllm bench serve",
    },
    {
        "arrivals": {"kind": "steady", "rate_per_s": 2.0}, "lengths": _SPREAD, "num_requests": 40, "system_tokens": 640,
        "system_prompts": 3, "block_tokens": 16, "sessions": {"turns": 4, "varied": True, "gap_s": 5.0, "waits": True},
    },
)  # fmt: skip


def traffic() -> list[Case]:
    """Files that describe traffic: every kind of arrivals and of lengths."""
    cases = []
    for tree in _TRAFFIC:
        beside = {"own.csv": OWN.encode()} if tree["lengths"]["kind"] == "drawn" else {}
        files = {"traffic.yaml": yaml.safe_dump(tree, sort_keys=False).encode(), **beside}
        cases.append(Case(files, "traffic.yaml", frozenset(beside)))
    return cases
