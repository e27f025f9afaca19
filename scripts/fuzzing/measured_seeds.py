"""Seeds of measurements: runs, points, logs, shares, timings and replays, with numbers made up here."""

from __future__ import annotations

import io
import json
import math
from typing import Any

from fuzzing.case import Case, one

_RUNS = """\
id,source,date_or_version,framework,model,layers,hidden,heads,kv_heads,head_dim,ffn,gated,vocab,tied_embeddings,experts,\
topk,attention,chip,n_chips,chips_per_node,network,precision,tp,pp,vpp,cp,ep,dp,zero_stage,sequence_parallel,micro_batch,\
global_batch,seq,recompute,overlap,training_kind,step_time_s,tokens_per_s_per_chip,peak_memory_gib,quality,notes,group,\
family,split
a,paper,2024-05,megatron-lm,llama-3.1-8b,32,4096,32,8,128,14336,true,128256,false,0,0,gqa,h100-sxm,64,8,ib,bf16,2,1,1,1,\
1,32,1,true,1,128,8192,selective,,pretrain,3.1,,61.5,A,,g1,llama,fit
b,paper,2024-06,megatron-lm,mixtral-8x7b,,,,,,,,,,,,,a100-80gb-sxm,128,,,bf16,4,4,,1,8,8,1,,1,256,4096,,,pretrain,,2100,,B,\
"a note, with a comma",g2,mixtral,test-config
c,own,,fsdp,llama-3.2-1b,,,,,,,,,,,,,h100-sxm,8,,,bf16,1,1,,1,1,8,3,,2,64,4096,full,,pretrain,1.4,,,A,,,,
"""
_POINTS = """\
id,source,date_or_version,model,chip,n_chips,engine,engine_version,mode,precision,kv_precision,tp,pp,ep,dp,isl,osl,\
concurrency,ttft_ms,tpot_ms,output_tokens_per_s,speculative,percentile,client,quality,notes,group,family,split
a,page,2025-10,llama-3.1-8b,h100-sxm,1,vllm,0.11.0,aggregated,fp8,fp8,1,1,,,1024,1024,32,210,9.4,3300,none,mean,\
inferencex,A,,g1,llama,fit
b,page,2025-11,gpt-oss-120b,b200-sxm,8,trtllm,1.2,aggregated,mxfp4,fp8,8,1,,,1024,8192,64,350,7.1,8800,none,median,\
inferencex,B,,g2,gpt-oss,test-config
c,page,2025,llama-3.1-70b,h100-sxm,16,sglang,,disaggregated,fp8,fp8,,,,,8192,1024,256,900,22,9000,none,mean,unknown,A,,,,
"""
_LOG = """\
# nThread 1 nGpus 8 minBytes 8 maxBytes 134217728 step: 2(factor) warmup iters: 5 iters: 20
# Using devices
#  Rank  0 Group  0 Pid 1001 on node1 device  0 [0x1b] NVIDIA H100-SXM5-80GB
#  Rank  1 Group  0 Pid 1001 on node1 device  1 [0x43] NVIDIA H100-SXM5-80GB
#
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
     1048576        262144     float     sum      -1    36.12   29.03   29.03      0    35.90   29.21   29.21      0
    16777216       4194304     float     sum      -1   118.30  141.82  141.82      0   117.20  143.15  143.15      0
   134217728      33554432     float     sum      -1   702.10  191.17  191.17      0   700.90  191.49  191.49      0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 121.2
"""
_SHARES = """\
Size,2Node-16GPU(CX7),4Node-32GPU(CX7),1 Node
1048576,0.21,0.18,0.30
16777216,0.55,0.52,0.61
1073741824,0.93,0.91,0.88
"""
_MIXED = "chip,num_heads,num_key_value_heads,head_dim,requests,kv_tokens,latency_us\n" + "".join(
    f"{chip},32,8,128,{requests},{tokens},{20 + requests * tokens / 3000:.1f}\n"
    for chip in ("h100-sxm", "a100-80gb-sxm") for requests in (4, 16, 64) for tokens in (512, 4096)
)  # fmt: skip


def runs() -> list[Case]:
    """Training runs: all columns, and the few that are needed."""
    short = "model,chip,n_chips,global_batch,seq,step_time_s\nllama-3.1-8b,h100-sxm,8,64,4096,4.2\n"
    return [one("runs.csv", _RUNS), one("runs.csv", short)]


def points() -> list[Case]:
    """Measured points of serving."""
    return [one("points.csv", _POINTS)]


def logs() -> list[Case]:
    """What nccl-tests print."""
    return [one("all_reduce_perf.log", _LOG), one("alltoall_perf.log", _LOG.replace("     sum      -1", ""))]


def shares() -> list[Case]:
    """Shares of link bandwidth by node count."""
    return [one("ata_cx7.csv", _SHARES), one("nvlink_ring.csv", _SHARES), one("ring.csv", _SHARES)]


def mixed() -> list[Case]:
    """Timings of decodes beside a prefill."""
    return [one("timings.csv", _MIXED)]


def replays() -> list[Case]:
    """The folder of a measured run of a server."""
    meta = {
        "model": "meta-llama/Llama-3.1-8B", "vllm_version": "0.19", "engine_kwargs": {
            "tensor_parallel_size": 1, "data_parallel_size": 1, "max_num_seqs": 128, "max_num_batched_tokens": 2048,
            "enable_expert_parallel": False,
        },
    }  # fmt: skip
    rows = []
    for i in range(8):
        sent, first = 0.3 * i, 0.3 * i + 0.05
        rows.append({
            "request_id": f"r{i}", "input_toks": 100 + 50 * i, "output_toks": 12, "arrival_time": 1777144890.5 + sent,
            "queued_ts": 5.0 + sent, "scheduled_ts": 5.01 + sent, "first_token_ts": 5.0 + first,
            "last_token_ts": 5.1 + first,
        })  # fmt: skip
    series = "t,running,waiting\n" + "".join(f"{t},{1 + t % 3},0\n" for t in range(4))
    files = {
        "h100sxm_run/meta.json": json.dumps(meta, indent=1),
        "h100sxm_run/requests.jsonl": "\n".join(map(json.dumps, rows)) + "\n",
        "h100sxm_run/timeseries.csv": series,
        "h100sxm_run/simulator_cluster_config.json": '{"link_bw": 370.0, "link_latency": 2e-6}',
    }
    return [Case({name: text.encode() for name, text in files.items()}, "h100sxm_run")]


# Tables of kernels and collectives


def kernel_tables() -> list[Case]:
    """One short parquet table of each kind of kernel."""
    shapes = [(m, n) for m in (16, 256, 4096) for n in (1024, 8192)]
    gemm = {
        "m": [m for m, _ in shapes],
        "n": [n for _, n in shapes],
        "k": [4096] * 6,
        "gemm_dtype": ["bfloat16"] * 6,
    }
    lengths = {
        "batch_size": [1, 4, 16] * 2,
        "isl": [512, 2048, 8192] * 2,
        "step": [0] * 6,
        "num_heads": [32] * 6,
    }
    heads = {"num_key_value_heads": [8] * 6, "head_dim": [128] * 6, "window_size": [0] * 6}
    cache = {"kv_cache_dtype": ["bfloat16"] * 6}
    attention = {"attn_dtype": ["bfloat16"] * 6, **cache, **lengths, **heads}
    latent = {"mla_dtype": ["bfloat16"] * 6, **cache, **lengths}
    experts = {
        "moe_dtype": ["bfloat16"] * 6, "distribution": ["balanced"] * 3 + ["power_law_1.01"] * 3,
        "num_tokens": [16, 256, 4096] * 2, "hidden_size": [4096] * 6, "inter_size": [1408] * 6, "topk": [8] * 6,
        "num_experts": [128] * 6, "moe_tp_size": [1] * 6, "moe_ep_size": [8] * 6,
    }  # fmt: skip
    named = (
        ("gemm", gemm), ("context_attention", attention), ("generation_attention", attention),
        ("context_mla", latent), ("moe", experts),
    )  # fmt: skip
    return [_parquet(f"{op}.parquet", _timed(op, columns, 6)) for op, columns in named]


def link_tables() -> list[Case]:
    """One short parquet table of collectives, of engines' all-reduce and of both kinds of expert kernels."""
    sizes = [2**i for i in range(10, 26, 3)]
    groups = {"num_gpus": [2, 8] * 3, "message_size": sizes}
    experts = {
        "num_token": [16, 128, 1024] * 2, "hidden_size": [7168] * 6, "num_topk": [8] * 6, "num_experts": [256] * 6,
        "node_num": [1] * 6,
    }  # fmt: skip
    high = {
        f"{one}_{what}": [value] * 6
        for one in ("dispatch", "combine")
        for what, value in (("transmit_us", 500.0), ("sms", 24))
    }
    low = {"dispatch_avg_t_us": [20.0] * 6, "combine_avg_t_us": [30.0] * 6}
    return [
        _parquet("nccl.parquet", _timed("all_reduce", groups | {"nccl_dtype": ["half"] * 6}, 6, "nccl")),
        _parquet("engine.parquet", _timed("all_reduce", groups | {"allreduce_dtype": ["bfloat16"] * 6}, 6)),
        _parquet("high.parquet", _timed("deepep", experts | high, 6)),
        _parquet("low.parquet", _timed("deepep", experts | low, 6)),
    ]


def _timed(op: str, columns: dict[str, Any], count: int, framework: str = "vllm") -> dict[str, Any]:
    shared = {
        "op_name": op,
        "chip": "h100_sxm",
        "framework": framework,
        "kernel_source": "x",
        "version": "1",
        "timing_mode": "graph",
    }
    words = {name: [word] * count for name, word in shared.items()}
    # Tables of expert kernels have a column for each of their two times.
    latency = {} if op == "deepep" else {"latency": [0.01 * math.exp(0.5 * i) for i in range(count)]}
    return {**columns, **words, **latency}


def _parquet(name: str, columns: dict[str, Any]) -> Case:
    import pyarrow as arrow
    from pyarrow import parquet

    written = io.BytesIO()
    parquet.write_table(arrow.table(columns), written)
    return one(name, written.getvalue())
