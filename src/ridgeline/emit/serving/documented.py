"""Every option we write for serving engines and their routers, as documented at the version named here.

The writers refuse (an assertion) to write an option that is not in its table. vLLM, SGLang and both routers were
checked in the released packages; TensorRT-LLM, whose packages leave its source out, in its repository.
"""

from __future__ import annotations

from ridgeline.emit.documented import Documented


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


VLLM = Documented(
    "vLLM",
    "0.33.0",
    "vllm/engine/arg_utils.py, vllm/entrypoints/common/cli_args.py, vllm/config/*.py",
    _names("""
        --host --port --headless
        --tensor-parallel-size --pipeline-parallel-size --prefill-context-parallel-size
        --data-parallel-size --data-parallel-size-local --data-parallel-start-rank
        --data-parallel-address --data-parallel-rpc-port
        --nnodes --node-rank --master-addr
        --enable-expert-parallel --all2all-backend
        --quantization --kv-cache-dtype --block-size --enable-prefix-caching --no-enable-prefix-caching
        --gpu-memory-utilization --max-model-len --max-num-seqs --max-num-batched-tokens
        --enable-chunked-prefill --no-enable-chunked-prefill --enforce-eager
        --speculative-config --kv-transfer-config
        --enable-lora --max-loras --max-lora-rank
        """),
)

VLLM_ROUTER = Documented(
    "vllm-router",
    "0.1.17",
    "vllm_router/router_args.py",
    _names("--host --port --worker-urls --vllm-pd-disaggregation --kv-connector --prefill --decode"),
)

SGLANG = Documented(
    "SGLang",
    "0.5.23",
    "sglang/srt/arg_groups/fields/*.py, sglang/srt/arg_groups/choices.py",
    _names("""
        --model-path --host --port
        --tp-size --pp-size --attn-dp-size --ep-size
        --attn-cp-size --enable-prefill-cp --cp-strategy --moe-dp-size
        --nnodes --node-rank --dist-init-addr
        --moe-a2a-backend --deepep-mode
        --quantization --kv-cache-dtype --page-size --disable-radix-cache
        --mem-fraction-static --context-length --max-running-requests
        --chunked-prefill-size --max-prefill-tokens --enable-mixed-chunk --disable-decode-cuda-graph
        --speculative-algorithm --speculative-draft-model-path --speculative-num-steps
        --speculative-eagle-topk --speculative-num-draft-tokens
        --enable-lora --max-loras-per-batch --max-lora-rank --lora-target-modules
        --disaggregation-mode --disaggregation-transfer-backend --disaggregation-bootstrap-port
        """),
)

SGLANG_ROUTER = Documented(
    "sglang-router",
    "0.3.2",
    "sglang_router/router_args.py",
    _names("--host --port --worker-urls --pd-disaggregation --prefill --decode"),
)

TRTLLM = Documented(
    "trtllm-serve",
    "commit 00209af149e7774406881a37283dce303571eb11",
    "tensorrt_llm/commands/serve.py",
    _names("""
        --host --port --tp_size --pp_size --ep_size --max_batch_size --max_num_tokens --max_seq_len
        --extra_llm_api_options --config_file
        """),
)

#: Keys of the YAML file of ``--extra_llm_api_options``, with their parents.
TRTLLM_OPTIONS = Documented(
    "TensorRT-LLM",
    "commit 0004396720054fd8e205cbf616f21f0b57c6b412",
    "tensorrt_llm/llmapi/llm_args.py; examples/disaggregated/README.md at c3c3d76e28c57ee23adc3458fc6aca87300c8c21",
    _names("""
        enable_attention_dp moe_tensor_parallel_size enable_chunked_prefill disable_overlap_scheduler
        kv_cache_config kv_cache_config.dtype kv_cache_config.free_gpu_memory_fraction
        kv_cache_config.enable_block_reuse kv_cache_config.tokens_per_block
        cuda_graph_config cuda_graph_config.enable_padding cuda_graph_config.max_batch_size
        speculative_config speculative_config.decoding_type speculative_config.max_draft_len
        speculative_config.speculative_model
        lora_config lora_config.max_loras lora_config.max_cpu_loras lora_config.max_lora_rank
        cache_transceiver_config cache_transceiver_config.backend
        cache_transceiver_config.max_tokens_in_buffer
        """),
)
