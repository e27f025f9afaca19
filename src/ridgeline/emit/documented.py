"""Every option we write, as documented by the framework at the version named here.

A framework renames options; this table says what we checked against, and the writers refuse (an assertion) to
write an option that is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Documented:
    """Options of one framework that exist in ``files`` at ``version``."""

    framework: str
    version: str
    files: str
    options: frozenset[str]

    def check(self, option: str) -> str:
        """The option itself; it is our own mistake if it is not documented."""
        assert option in self.options, f"{option} is not in the table of {self.framework} {self.version}"
        return option


def _names(text: str, owner: str = "") -> frozenset[str]:
    return frozenset(owner + name for name in text.split())


MEGATRON = Documented(
    "Megatron-LM",
    "commit 000c4ac24f61159c138b0975def722c65245983c",
    "megatron/training/arguments.py",
    _names("""
        --tensor-model-parallel-size --pipeline-model-parallel-size --num-virtual-stages-per-pipeline-rank
        --pipeline-model-parallel-layout --account-for-embedding-in-pipeline-split
        --account-for-loss-in-pipeline-split --context-parallel-size --expert-model-parallel-size
        --expert-tensor-parallel-size --sequence-parallel --no-overlap-p2p-communication
        --use-distributed-optimizer --num-distributed-optimizer-instances --use-megatron-fsdp
        --data-parallel-sharding-strategy --ckpt-format --no-gradient-accumulation-fusion
        --overlap-grad-reduce --overlap-param-gather --tp-comm-overlap --overlap-moe-expert-parallel-comm
        --micro-batch-size --global-batch-size --seq-length --max-position-embeddings
        --num-layers --hidden-size --ffn-hidden-size --num-attention-heads --kv-channels
        --group-query-attention --num-query-groups --swiglu --disable-bias-linear --add-qkv-bias
        --normalization --position-embedding-type --untie-embeddings-and-output-weights --vocab-size
        --qk-layernorm --window-size --window-attn-skip-freq --softmax-type
        --multi-latent-attention --q-lora-rank --kv-lora-rank --qk-head-dim --qk-pos-emb-head-dim --v-head-dim
        --mtp-num-layers --attention-dropout --hidden-dropout --cross-entropy-loss-fusion
        --num-experts --moe-layer-freq --moe-ffn-hidden-size --moe-router-topk
        --moe-shared-expert-intermediate-size --moe-grouped-gemm --moe-permute-fusion
        --moe-token-dispatcher-type --moe-enable-deepep
        --moe-router-enable-expert-bias --moe-router-score-function
        --moe-router-num-groups --moe-router-group-topk
        --recompute-granularity --recompute-method --recompute-num-layers --cpu-offloading-num-layers
        --optimizer-cpu-offload --optimizer-offload-fraction --overlap-cpu-optimizer-d2h-h2d
        --use-precision-aware-optimizer --main-params-dtype --exp-avg-dtype --exp-avg-sq-dtype
        --bf16 --fp16 --accumulate-allreduce-grads-in-fp32 --grad-reduce-in-bf16
        --fp8-format --fp8-recipe --fp8-param-gather --fp8-amax-history-len --fp8-amax-compute-algo
        --first-last-layers-bf16 --num-layers-at-start-in-bf16 --num-layers-at-end-in-bf16
        --reuse-grad-buf-for-mxfp8-param-ag --fp4-format --fp4-recipe
        --tokenizer-type --mock-data --train-iters --lr --eval-iters --log-interval --log-throughput
        --transformer-impl
        """),
)

TORCHTITAN = Documented(
    "torchtitan",
    "0.2.2",
    "torchtitan/config/job_config.py",
    _names("""
        job.description model.name model.flavor model.converters
        training.local_batch_size training.global_batch_size training.seq_len training.mixed_precision_param
        training.mixed_precision_reduce training.dtype
        parallelism.data_parallel_replicate_degree parallelism.data_parallel_shard_degree
        parallelism.fsdp_reshard_after_forward parallelism.tensor_parallel_degree
        parallelism.enable_async_tensor_parallel parallelism.context_parallel_degree
        parallelism.pipeline_parallel_degree parallelism.pipeline_parallel_schedule
        parallelism.pipeline_parallel_layers_per_stage parallelism.pipeline_parallel_microbatch_size
        parallelism.pipeline_parallel_first_stage_less_layers
        parallelism.pipeline_parallel_last_stage_less_layers
        parallelism.expert_parallel_degree parallelism.expert_tensor_parallel_degree
        activation_checkpoint.mode activation_checkpoint.selective_ac_option
        compile.enable
        quantize.linear.float8.recipe_name quantize.linear.float8.enable_fsdp_float8_all_gather
        quantize.linear.float8.precompute_float8_dynamic_scale_for_fsdp quantize.linear.float8.filter_fqns
        quantize.grouped_mm.float8.fqns quantize.linear.mx.recipe_name quantize.linear.mx.filter_fqns
        quantize.grouped_mm.mx.recipe_name quantize.grouped_mm.mx.fqns
        """),
)

#: Keyed ``CLASS.field``; the model classes inherit Megatron-Core 0.16.1's TransformerConfig.
NEMO = Documented(
    "Megatron-Bridge",
    "0.3.1 with megatron-core 0.16.1",
    "megatron/bridge/models/*_provider.py, megatron/bridge/training/*.py, megatron/core/**/*_config.py",
    _names(
        """
        tensor_model_parallel_size pipeline_model_parallel_size virtual_pipeline_model_parallel_size
        pipeline_model_parallel_layout account_for_embedding_in_pipeline_split
        account_for_loss_in_pipeline_split context_parallel_size expert_model_parallel_size
        expert_tensor_parallel_size sequence_parallel pipeline_dtype seq_length num_layers hidden_size
        ffn_hidden_size num_attention_heads kv_channels
        num_query_groups gated_linear_unit activation_func add_bias_linear add_qkv_bias normalization
        position_embedding_type share_embeddings_and_output_weights vocab_size should_pad_vocab qk_layernorm
        window_size window_attn_skip_freq softmax_type
        q_lora_rank kv_lora_rank qk_head_dim qk_pos_emb_head_dim v_head_dim
        mtp_num_layers attention_dropout hidden_dropout cross_entropy_loss_fusion
        num_moe_experts moe_layer_freq moe_ffn_hidden_size moe_router_topk moe_shared_expert_intermediate_size
        moe_shared_expert_gate moe_grouped_gemm moe_permute_fusion moe_token_dispatcher_type
        moe_enable_deepep
        moe_router_enable_expert_bias moe_router_score_function moe_router_num_groups moe_router_group_topk
        recompute_granularity recompute_method recompute_num_layers cpu_offloading cpu_offloading_num_layers
        transformer_layer_spec
        """,
        "model.",
    )
    | _names(
        """
        use_distributed_optimizer num_distributed_optimizer_instances use_megatron_fsdp
        data_parallel_sharding_strategy overlap_grad_reduce overlap_param_gather grad_reduce_in_fp32
        """,
        "ddp.",
    )
    | _names(
        """
        optimizer_cpu_offload optimizer_offload_fraction overlap_cpu_optimizer_d2h_h2d
        use_precision_aware_optimizer main_params_dtype exp_avg_dtype exp_avg_sq_dtype
        """,
        "optimizer.",
    )
    | _names(
        """
        tp_comm_overlap overlap_p2p_comm batch_p2p_comm overlap_grad_reduce overlap_param_gather
        overlap_moe_expert_parallel_comm
        """,
        "comm_overlap.",
    )
    | _names(
        """
        bf16 fp16 params_dtype pipeline_dtype grad_reduce_in_fp32 fp8 fp8_recipe fp8_amax_history_len
        fp8_amax_compute_algo fp8_param_gather reuse_grad_buf_for_mxfp8_param_ag first_last_layers_bf16
        num_layers_at_start_in_bf16 num_layers_at_end_in_bf16 fp4 fp4_recipe
        """,
        "mixed_precision.",
    )
    | frozenset(
        ["train.micro_batch_size", "train.global_batch_size", "train.train_iters", "train.eval_iters"]
    ),
)
