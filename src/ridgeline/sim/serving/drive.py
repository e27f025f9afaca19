"""`simulate_fleet`: one loop of events over replicas that meet only at the router.

Between two events each replica is taken forward by the same compiled loop as a single engine. Events are arrivals,
KV transfers, deadlines, failures and decisions to scale; where the end of a request causes one (a hand-over, the next
request of a user), replicas go forward one step at a time, so that causes come before effects.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import Any

import numpy as np

from ridgeline.facts.requests import Requests
from ridgeline.sim.serving.engine import new_engine
from ridgeline.sim.serving.fleet import Failure, Fleet
from ridgeline.sim.serving.outcome import CANCELLED, LOST, TIMED_OUT, FloatArray, Outcome
from ridgeline.sim.serving.simulate import FIRST_SAMPLE_S, SAMPLES, check_requests, outcome_of
from ridgeline.sim.serving.state import ENDED, NEW, NONE, new_requests, sent_after

#: Bytes of one simulated engine beside its requests, about; and of all of them together, which most machines have.
ENGINE_BYTES, MOST_BYTES = 200_000, 16e9
UP, STARTING, DRAINING, OFF, DOWN = range(5)
#: A prefix-aware router follows the longest match if it is at least this share of the prompt, and the replica has at
#: most `LEAD` requests more than the emptiest (SGLang's router: cache_threshold, balance_abs_threshold).
MATCH, LEAD = 0.5, 32


def simulate_fleet(requests: Requests, fleet: Fleet, *, seed: int = 0) -> Outcome:
    """Run ``requests`` through a fleet until the last one is over.

    A request whose replica fails starts from scratch on another one (gaps between tokens it had before stay in the
    histogram), or is LOST. With prefill replicas, `Outcome.replica` is the one that decoded.

    Raises ValueError for requests or a fleet that make no sense.
    """
    check_requests(requests)
    fleet.check()
    _check_room(len(fleet.replicas) + len(fleet.prefill), len(requests))
    drive = Drive(requests, fleet, seed)
    drive.run()
    return outcome_of(requests, drive.records, drive.engines, drive.off_seconds())


def _check_room(engines: int, requests: int) -> None:
    """Estimate what the engines take before it is taken; each keeps the order in which its requests end."""
    needed = engines * (8 * requests + ENGINE_BYTES)
    if needed > MOST_BYTES:
        most = int(MOST_BYTES // (8 * requests + ENGINE_BYTES))
        raise ValueError(
            f"replicas: the simulation of {engines:,} engines with {requests:,} requests needs "
            f"{needed / 1e9:,.0f} GB of memory; at most {most:,} engines are taken: fewer --chips, or --no-simulate"
        )


class Drive:
    """State of one run; replicas are those that decode, then those that prefill."""

    def __init__(self, requests: Requests, fleet: Fleet, seed: int) -> None:
        from ridgeline.sim.serving import loop

        self.loop: Any = loop
        self.requests, self.fleet = requests, fleet
        self.records = new_requests(requests)
        tables = (*fleet.replicas, *fleet.prefill)
        decoders = len(fleet.replicas)
        self.engines = [
            new_engine(
                requests,
                self.records,
                table,
                fleet.settings,
                seed=seed,
                samples=SAMPLES,
                sample_s=FIRST_SAMPLE_S,
                replica=r,
                driven=True,
                handoff=r >= decoders,
            )
            for r, table in enumerate(tables)
        ]
        lanes = [engine.arrays["lanes"] for engine in self.engines]
        self.loads = [(lane["waiting"], lane["running"]) for lane in lanes]
        self.ended = [engine.arrays["engine"]["ended"] for engine in self.engines]
        self.ends = [math.inf] * len(tables)
        starts = decoders if fleet.autoscale is None else fleet.autoscale.minimum
        self.status = [UP] * starts + [OFF] * (decoders - starts) + [UP] * len(fleet.prefill)
        self.since = [0.0] * len(tables)  # when it went off
        self.off_s = [0.0] * len(tables)
        self.first = list(range(decoders, len(tables))) or list(range(decoders))  # where requests enter
        self.decoders = list(range(decoders))
        self.turns = [0, 0]
        self.home: dict[int, int] = {}  # sessions
        self.links: dict[int, float] = {}  # when each is free again
        self.orphans: deque[tuple[int, bool]] = deque()  # requests no replica is up for
        self.events: list[tuple[float, int, str, int]] = []
        self.count = 0
        after = np.full(len(requests), -1) if requests.after is None else requests.after
        self.scheduled = np.flatnonzero(after < 0)  # sent by their arrival; others follow an end
        self.follower = {int(i): int(j) for j, i in enumerate(after) if i >= 0}
        self.sent = 0  # of those scheduled
        self.arrived = 0
        self.closed = 0  # requests that are over
        self.open = 0  # sent and not over
        self.reactive = bool(fleet.prefill) or requests.users > 0 or fleet.autoscale is not None
        self.reactive = self.reactive or requests.after is not None
        for failure in fleet.failures:
            self.push(failure.at_s, "fail", fleet.failures.index(failure))
        if fleet.autoscale:
            self.push(fleet.autoscale.interval_s, "scale", 0)

    def push(self, at_s: float, kind: str, what: int) -> None:
        self.count += 1
        heapq.heappush(self.events, (at_s, self.count, kind, what))

    def run(self) -> None:
        n = self.scheduled.size
        sent_s = self.records["sent_s"]
        while True:
            arrival = float(sent_s[self.scheduled[self.sent]]) if self.sent < n else math.inf
            at_s = min(arrival, self.events[0][0] if self.events else math.inf)
            if self.go_forward(at_s):
                continue  # the end of a step may have caused something earlier
            now = at_s
            if now == math.inf or now > self.over_at():
                return
            if arrival <= now:
                i = int(self.scheduled[self.sent])
                self.sent += 1
                self.arrive(i, now)
            else:
                _, _, kind, what = heapq.heappop(self.events)
                getattr(self, kind)(what, now)

    def go_forward(self, at_s: float) -> bool:
        """End all steps before ``at_s``, or, where ends cause events, only up to one that does -> whether it did."""
        before = float(np.nextafter(at_s, -math.inf)) if at_s < math.inf else math.inf
        while True:
            end_s = min(self.ends)
            if end_s >= at_s:
                return False
            r = self.ends.index(end_s)
            if end_s > self.over_at():
                return False
            until = end_s if self.reactive else before
            self.ends[r] = self.advance(r, until)
            if self.drain(r, until) and self.reactive:
                return True

    def advance(self, r: int, until: float) -> float:
        """End all steps of replica ``r`` up to ``until`` -> the next end of a step."""
        engine = self.engines[r]
        return float(self.loop.advance(engine.state, engine.table, until))

    def over_at(self) -> float:
        """When the run may stop before all requests are over."""
        return math.inf

    def drain(self, r: int, now: float) -> bool:
        """Handle requests that ended on replica ``r`` -> whether there were any."""
        log = self.taken_log(r)
        for i in log:
            request = self.records[i]
            if request["state"] == NEW and request["leaving"] == NONE:
                self.transfer(r, i, now)
            else:
                if request["state"] == NEW:  # its user left while the prefill ended
                    request["state"], request["status"] = ENDED, request["leaving"]
                self.over(i, now)
        return bool(log)

    def taken_log(self, r: int) -> list[int]:
        """Requests that ended on replica ``r`` since the last call."""
        count = int(self.ended[r][0])
        if count == 0:
            return []
        self.ended[r][0] = 0
        engine = self.engines[r]
        first = int(engine.table["log"])
        log: list[int] = engine.arrays["ints"][first : first + count].tolist()
        return log

    def over(self, i: int, now: float) -> None:
        """Request ``i`` is over; in a closed loop its user sends another, in a conversation the next turn."""
        self.open -= 1
        following = self.follower.get(i)
        if following is not None and self.requests.pause_s is not None:
            at_s = now + float(self.requests.pause_s[following])
            self.records["sent_s"][following] = at_s
            self.push(at_s, "arrive", following)
        if self.requests.users:
            warmup, users = self.requests.warmup, self.requests.users
            first, last = sent_after(self.closed, users, warmup, len(self.requests))
            self.closed += 1
            pause = 0.0 if self.closed == warmup else self.requests.think_s
            self.records["sent_s"][first:last] = now + pause

    def arrive(self, i: int, now: float) -> None:
        self.open += 1
        self.arrived += 1
        if self.requests.timeout_s is not None:
            self.push(now + self.requests.timeout_s, "time_out", i)
        if self.requests.cancel_s is not None and self.requests.cancel_s[i] < math.inf:
            self.push(now + float(self.requests.cancel_s[i]), "cancel", i)
        self.route(i, now)

    def route(self, i: int, now: float, decode: bool = False) -> None:
        """Send a request to a replica that may take it."""
        pool = self.decoders if decode else self.first
        ready = [r for r in pool if self.status[r] == UP]
        if not ready:
            self.orphans.append((i, decode))
            return
        r = self.choose(i, ready, decode)
        engine = self.engines[r]
        self.ends[r] = self.loop.send(engine.state, engine.table, i, now)
        if self.records["state"][i] == ENDED:  # refused
            self.taken_log(r)
            self.over(i, now)

    def choose(self, i: int, ready: list[int], decode: bool) -> int:
        router = self.fleet.router
        if len(ready) == 1:
            return ready[0]
        if router == "round_robin":
            self.turns[decode] += 1
            return ready[(self.turns[decode] - 1) % len(ready)]
        emptiest = min(ready, key=self.load)
        if router == "prefix_aware" and not decode:
            found = {r: int(self.loop.found(self.engines[r].state, self.engines[r].table, i)) for r in ready}
            best = max(ready, key=lambda r: (found[r], -self.load(r)))
            tokens = found[best] * self.requests.block_tokens
            if (
                tokens >= MATCH * self.requests.input_tokens[i]
                and self.load(best) - self.load(emptiest) <= LEAD
            ):
                return best
        if router == "sticky" and not decode:
            session = -1 - i if self.requests.session is None else int(self.requests.session[i])
            if self.home.get(session) not in ready:
                self.home[session] = emptiest
            return self.home[session]
        return emptiest

    def load(self, r: int) -> int:
        """Requests on a replica, waiting and running."""
        waiting, running = self.loads[r]
        if waiting.size == 1:
            return int(waiting[0]) + int(running[0])
        return int(waiting.sum() + running.sum())

    def transfer(self, r: int, i: int, now: float) -> None:
        """KV cache of a prefilled request goes over the link that its prefill replica uses."""
        link = self.fleet.transfer
        which = (r - len(self.decoders)) % link.links if link.links else r
        size = float(self.requests.input_tokens[i]) * self.engines[r].source.kv_bytes_per_token
        self.links[which] = max(now, self.links.get(which, 0.0)) + size / link.bytes_per_s
        self.push(self.links[which] + link.latency_s, "hand_over", i)

    def hand_over(self, i: int, now: float) -> None:
        if self.records["state"][i] != ENDED:
            self.route(i, now, decode=True)

    def time_out(self, i: int, now: float) -> None:
        if math.isnan(self.records["first_s"][i]):
            self.leave(i, TIMED_OUT, now)

    def cancel(self, i: int, now: float) -> None:
        self.leave(i, CANCELLED, now)

    def leave(self, i: int, status: int, now: float) -> None:
        request = self.records[i]
        if request["state"] == ENDED:
            return
        if request["state"] == NEW:  # between two replicas, or none is up
            request["state"], request["status"] = ENDED, status
            self.orphans = deque(item for item in self.orphans if item[0] != i)
            self.over(i, now)
            return
        r = int(request["replica"])
        engine = self.engines[r]
        self.ends[r] = self.loop.give_up(engine.state, engine.table, i, status, now)
        self.drain(r, now)

    def fail(self, which: int, now: float) -> None:
        failure: Failure = self.fleet.failures[which]
        r = failure.replica
        engine = self.engines[r]
        if self.status[r] not in (OFF, DOWN):
            self.status[r], self.since[r] = DOWN, now
            self.taken_log(r)
            self.loop.fail(engine.state, engine.table, now)
            self.ends[r] = math.inf
            evicted = sorted(self.taken_log(r))
            for i in evicted:
                if self.fleet.on_failure == "retry":
                    self.route(i, now)
                else:
                    self.records["state"][i], self.records["status"][i] = ENDED, LOST
                    self.over(i, now)
            self.push(now + failure.down_s, "start", r)

    def start(self, r: int, now: float) -> None:
        """A replica that was down or starting serves from now on."""
        if self.status[r] == DOWN:
            self.off_s[r] += now - self.since[r]
        if self.status[r] in (DOWN, STARTING):
            self.status[r] = UP
        waiting, self.orphans = self.orphans, deque()
        for i, decode in waiting:
            self.route(i, now, decode)

    def scale(self, _: int, now: float) -> None:
        """Start or drain replicas towards the target; see `fleet.Autoscale`."""
        plan = self.fleet.autoscale
        assert plan is not None
        for r in self.decoders:
            if self.status[r] == DRAINING and self.load(r) == 0:
                self.status[r], self.since[r] = OFF, now
        wanted = math.ceil(sum(map(self.load, self.decoders)) / plan.target)
        wanted = min(max(wanted, plan.minimum), len(self.decoders))
        active = [r for r in self.decoders if self.status[r] in (UP, STARTING)]
        for r in self.decoders:
            if len(active) < wanted and self.status[r] == DRAINING:
                self.status[r] = UP
                active.append(r)
        for r in self.decoders:
            if len(active) < wanted and self.status[r] == OFF:
                self.off_s[r] += now - self.since[r]
                self.status[r] = STARTING
                self.push(now + plan.cold_start_s, "start", r)
                active.append(r)
        for r in reversed([r for r in active if self.status[r] == UP]):
            if len(active) > wanted:
                self.status[r] = DRAINING
                active.remove(r)
        if self.open or self.arrived < len(self.requests):
            self.push(now + plan.interval_s, "scale", 0)

    def off_seconds(self) -> FloatArray:
        """Seconds that each replica was off or down by the end."""
        end_s = max(float(engine.arrays["engine"]["end_s"][0]) for engine in self.engines)
        off = [OFF, DOWN]
        return np.array(
            [
                seconds + (max(end_s - since, 0.0) if status in off else 0.0)
                for seconds, since, status in zip(self.off_s, self.since, self.status, strict=True)
            ]
        )
