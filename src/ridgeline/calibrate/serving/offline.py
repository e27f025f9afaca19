"""Throughput of a run whose requests all come at once: simulated from its first request to its last.

A published table of best throughput is no steady state: the batch is what the benchmark's heuristic allows, requests
of equal length end together, and the last of them run in a batch that empties.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ridgeline.calibrate.serving.cases import ServingCase
from ridgeline.calibrate.serving.run_settings import RunSettings, run_settings
from ridgeline.calibrate.serving.trtllm_bench import tuned_limits
from ridgeline.calibrate.shapes import NotPredictable
from ridgeline.facts.requests import Requests
from ridgeline.facts.serving import Layout, Limits, Service
from ridgeline.sim.serving.build import step_table
from ridgeline.sim.serving.outcome import DONE
from ridgeline.sim.serving.simulate import simulate
from ridgeline.sim.serving.steady import closed_loop


def offline_tokens_per_s(case: ServingCase, service: Service) -> float:
    """Output tokens/s of an offline point, all chips together.

    Without a documented number of requests it is the steady state of as many as the engine may run at a time.

    Raises:
        NotPredictable: a request does not fit in the cache.
    """
    assert case.isl is not None
    assert case.osl is not None
    isl, osl = round(case.isl), round(case.osl)
    settings = run_settings(case, service.chip)
    engine = _configured(case, service, settings)
    table = step_table(engine, 1 << math.ceil(math.log2(isl + osl)))
    if table.num_blocks // table.stages * table.block_size < isl + osl:
        raise NotPredictable(f"a request of {isl + osl} tokens does not fit in the memory left")
    copies = max(case.num_chips // table.chips, 1)
    if not settings.requests:
        users = float(table.max_seqs * table.ranks * table.stages)
        return closed_loop(table, isl, osl, users).output_tokens_per_s * copies
    count = max(settings.requests // copies, 1)
    sent = Requests(
        arrival_s=np.zeros(count), input_tokens=np.full(count, isl), output_tokens=np.full(count, osl)
    )
    # the token ids are there already: nothing is tokenised, answers are not streamed
    outcome = simulate(sent, dataclasses.replace(table, frontend_s=0.0))
    if not (outcome.status == DONE).all():
        raise NotPredictable("the engine cannot take requests of this length")
    return float(outcome.made_tokens.sum()) / float(outcome.finish_s.max()) * copies


def _configured(case: ServingCase, service: Service, settings: RunSettings) -> Service:
    """The service with what the benchmark sets."""
    assert case.isl is not None
    assert case.osl is not None
    layout = service.layout
    if settings.attention_dp and case.experts and layout.dp == 1 and layout.tp > 1:
        service = service.replace(layout=Layout(tp=1, pp=layout.pp, dp=layout.tp, ep=layout.tp))
    if not settings.tuned:
        return service.replace(limits=Limits(max_seqs=case.batch_size or service.engine.max_seqs))
    fraction = settings.memory_fraction or service.engine.memory_fraction
    seqs, tokens = tuned_limits(service, case.isl, case.osl, fraction)
    graphs = (*(size for size in settings.graph_batches if size < seqs), seqs)
    engine = service.engine.model_copy(update={"graph_batches": graphs, "graph_batch": seqs})
    limits = Limits(max_seqs=seqs * service.layout.pp, max_batched_tokens=tokens, memory_fraction=fraction)
    return service.replace(engine=engine, limits=limits)
