"""Traffic: a synthetic workload as a value: when requests come, how long they are, what they share, which client.

``ridgeline.sim.serving.traffic`` makes the requests. Rates are per second, times in seconds, lengths in tokens.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ridgeline.facts.requests import MOST_REQUESTS, MOST_TOKENS, room
from ridgeline.facts.spec import Count, Fraction, Spec

#: A quarter of a century [s], and a billion requests a second: beyond these nothing is served.
LONGEST_S, FASTEST = 1e9, 1e9
#: Requests a second below which a service has nothing to do: one in 32 years.
SLOWEST = 1e-9


def _affordable(count: int) -> int:
    """The memory is estimated before it is taken."""
    if count > MOST_REQUESTS:
        raise ValueError(
            f"{count:,} {room(count)}" if count < 1e15 else f"at most {MOST_REQUESTS:,} are taken"
        )
    return count


Amount = Annotated[float, Field(ge=0.0, le=LONGEST_S)]
Positive = Annotated[float, Field(ge=1e-9, le=LONGEST_S)]
Rate = Annotated[float, Field(ge=1e-18, le=FASTEST)]


def _none_or_some(rate: float) -> float:
    """A rate that may be 0, and else is one whose reciprocal is a time."""
    if 0.0 < rate < 1e-18:
        raise ValueError(f"{rate:g}: expected 0, or at least 1e-18")
    return rate


SlowRate = Annotated[float, Field(ge=0.0, le=FASTEST), AfterValidator(_none_or_some)]
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Number = Annotated[int, Field(ge=1), AfterValidator(_affordable)]


class Poisson(Spec):
    """Independent arrivals at one rate."""

    kind: Literal["poisson"] = "poisson"
    rate_per_s: Rate

    def __str__(self) -> str:
        return f"Poisson {self.rate_per_s:g}/s"


class Gamma(Spec):
    """Gamma-distributed gaps: ``cv`` below 1 is smoother, above 1 burstier than Poisson."""

    kind: Literal["gamma"] = "gamma"
    rate_per_s: Rate
    cv: Positive = Field(ge=1e-3, le=1e3, description="standard deviation of the gaps over their mean")

    def __str__(self) -> str:
        return f"gamma {self.rate_per_s:g}/s, cv {self.cv:g}"


class Steady(Spec):
    """One request every ``1 / rate`` seconds, the first at 0."""

    kind: Literal["steady"] = "steady"
    rate_per_s: Rate

    def __str__(self) -> str:
        return f"steady {self.rate_per_s:g}/s"


class Bursts(Spec):
    """Poisson at two rates in turn, the high one first."""

    kind: Literal["bursts"] = "bursts"
    on_per_s: Rate
    on_s: Positive
    off_per_s: SlowRate = 0.0
    off_s: Amount

    def __str__(self) -> str:
        return f"bursts {self.on_per_s:g}/s for {self.on_s:g} s, {self.off_per_s:g}/s for {self.off_s:g} s"


class Ramp(Spec):
    """Poisson whose rate goes from one to another in a straight line, and stays."""

    kind: Literal["ramp"] = "ramp"
    from_per_s: SlowRate
    to_per_s: Rate
    over_s: Positive

    def __str__(self) -> str:
        return f"ramp {self.from_per_s:g} to {self.to_per_s:g}/s over {self.over_s:g} s"


class Diurnal(Spec):
    """Poisson at ``rate (1 + swing sin(2 pi t / period))``: begins at the mean and rises."""

    kind: Literal["diurnal"] = "diurnal"
    rate_per_s: Rate
    swing: Fraction = Field(0.5, description="share of the mean that the peak is above it")
    period_s: Positive = 86400.0

    def __str__(self) -> str:
        return f"diurnal {self.rate_per_s:g}/s +-{self.swing:.0%} over {self.period_s:g} s"


class AtOnce(Spec):
    """All requests at time 0."""

    kind: Literal["at_once"] = "at_once"

    def __str__(self) -> str:
        return "all at once"


class Closed(Spec):
    """Users who each send the next request when they have an answer; all start at time 0."""

    kind: Literal["closed"] = "closed"
    users: Number
    think_s: Amount = 0.0

    def __str__(self) -> str:
        think = f", thinking {self.think_s:g} s" if self.think_s else ""
        return f"{self.users:,} users{think}"


Arrivals = Annotated[
    Poisson | Gamma | Steady | Bursts | Ramp | Diurnal | AtOnce | Closed, Field(discriminator="kind")
]


class FixedLength(Spec):
    """Always the same."""

    kind: Literal["fixed"] = "fixed"
    tokens: Tokens

    def __str__(self) -> str:
        return f"{self.tokens:,}"


class UniformLength(Spec):
    """Every whole number from ``int(low nominal)`` to ``int(high nominal)`` is as likely."""

    kind: Literal["uniform"] = "uniform"
    nominal: Tokens
    low: Amount = Field(0.8, le=1.0e3)
    high: Positive = Field(1.0, le=1.0e3)

    @property
    def bounds(self) -> tuple[int, int]:
        """The shortest, at least 1, and the longest."""
        return max(1, int(self.nominal * self.low)), max(1, int(self.nominal * self.high))

    @model_validator(mode="after")
    def _ordered(self) -> UniformLength:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self

    def __str__(self) -> str:
        return "{:,}-{:,}".format(*self.bounds)


class LognormalLength(Spec):
    """Lognormal with a mean, and either the 99th percentile or the sigma of the logarithm; rounded, at least 1."""

    kind: Literal["lognormal"] = "lognormal"
    mean: Positive
    p99: Positive | None = None
    sigma: Amount | None = Field(None, le=10.0)
    most: Tokens | None = Field(None, description="longer ones are cut to this")

    @model_validator(mode="after")
    def _one_width(self) -> LognormalLength:
        if (self.p99 is None) == (self.sigma is None):
            raise ValueError("give either p99 or sigma")
        # p99 / mean = exp(z sigma - sigma^2 / 2) is largest at sigma = z = 2.326
        if self.p99 is not None and not 1.0 <= self.p99 / self.mean <= 14.96:
            raise ValueError(f"p99 {self.p99:g}: expected 1 to 14.96 times the mean of {self.mean:g}")
        return self

    def __str__(self) -> str:
        width = f"P99 {self.p99:g}" if self.p99 is not None else f"sigma {self.sigma:g}"
        return f"lognormal mean {self.mean:g}, {width}" + (f", at most {self.most:,}" if self.most else "")


Length = Annotated[FixedLength | UniformLength | LognormalLength, Field(discriminator="kind")]


class Independent(Spec):
    """Input and output lengths drawn without regard to each other."""

    kind: Literal["independent"] = "independent"
    input: Length
    output: Length

    def __str__(self) -> str:
        return f"input {self.input}, output {self.output}"


class Drawn(Spec):
    """Pairs of input and output lengths drawn from the requests of a file, with replacement."""

    kind: Literal["drawn"] = "drawn"
    path: str

    def __str__(self) -> str:
        return f"lengths of {self.path}"


#: A session is made whole: this many turns of it are thrown away at most.
MOST_TURNS = 1_000_000


class Sessions(Spec):
    """Conversations: the prompt of a turn is all earlier text and answers, and new text.

    Arrivals are those of sessions. Where turns wait, ``gap_s`` is the user's pause after an answer; else sends are
    scheduled ahead, and ``gap_s`` holds the time of an answer too. In a closed loop there is no gap: each group of
    ``users`` sessions sends its first turns, then its second ones, and so on.
    """

    turns: Count = Field(le=MOST_TURNS, description="turns of a session, or their mean")
    varied: bool = Field(False, description="turns vary geometrically")
    gap_s: Amount = Field(
        0.0, description="mean time from a turn (where turns wait: its answer) to the next, exponential"
    )
    waits: bool = Field(False, description="a turn is sent after the answer before it, as people do")

    def __str__(self) -> str:
        turns = f"sessions of {'about ' if self.varied else ''}{self.turns} turns"
        if self.waits:
            return f"{turns}, each {self.gap_s:g} s after the answer before"
        return f"{turns}, {self.gap_s:g} s apart" if self.gap_s else turns


class Slo(Spec):
    """Limits that a request has to keep to count as good; None = no such limit."""

    ttft_s: Positive | None = None
    tpot_s: Positive | None = None
    e2e_s: Positive | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Slo:
        if self.ttft_s is None and self.tpot_s is None and self.e2e_s is None:
            raise ValueError("no limit; give ttft_s, tpot_s or e2e_s")
        return self

    def __str__(self) -> str:
        limits = (("TTFT", self.ttft_s), ("TPOT", self.tpot_s), ("end to end", self.e2e_s))
        return ", ".join(f"{name} {value:g} s" for name, value in limits if value is not None)


class Traffic(Spec):
    """One synthetic workload; the same value makes the same requests."""

    arrivals: Arrivals
    lengths: Annotated[Independent | Drawn, Field(discriminator="kind")]
    num_requests: Number
    client: str = Field("", description="the benchmark client whose habits these are")
    warmup: int = Field(
        0,
        ge=0,
        le=MOST_REQUESTS,
        description="copies of the first prompt that run and end before, not measured",
    )
    sessions: Sessions | None = None
    system_tokens: int = Field(
        0, ge=0, le=MOST_TOKENS, description="tokens before the input that requests share"
    )
    system_prompts: Count = Field(1, description="different ones of these, as likely")
    block_tokens: Count = Field(16, description="tokens of a hashed block of shared text")
    timeout_s: Positive | None = Field(None, description="requests without a first token by then are dropped")
    seed: int = Field(0, ge=0, lt=2**64)

    @model_validator(mode="after")
    def _warms_up_in_a_closed_loop(self) -> Traffic:
        if self.warmup and not isinstance(self.arrivals, Closed):
            raise ValueError(f"warmup {self.warmup}: only a closed loop has warm-up requests")
        return self

    @property
    def shares_text(self) -> bool:
        """Requests have common prefixes that a cache can find."""
        return self.system_tokens > 0 or self.sessions is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``Traffic.model_validate`` reads them back."""
        return self.model_dump(mode="json")

    def __str__(self) -> str:
        said = [f"{self.num_requests:,} requests", str(self.arrivals), str(self.lengths)]
        if self.client:
            said.insert(0, f"client {self.client}")
        if self.sessions:
            said.append(str(self.sessions))
        if self.system_tokens:
            prompts = (
                f"{self.system_prompts} system prompts" if self.system_prompts > 1 else "a system prompt"
            )
            said.append(f"{prompts} of {self.system_tokens:,} tokens")
        if self.warmup:
            said.append(f"{self.warmup:,} warm-up requests before")
        return ", ".join(said)


def inferencex(users: int, input_tokens: int, output_tokens: int, seed: int = 0) -> Traffic:
    """The client of InferenceX: ``users`` requests under way, 10 times as many prompts, lengths 0.8-1.0 of nominal.

    Twice as many warm-up requests, all with the first prompt, run and end before. Answers have the drawn length: the
    end-of-sequence token is ignored. Latency counts from the send; ramp and tail count.
    Source: benchmark_serving.py of vLLM (``sample_random_requests``) and its fork bench_serving (warm-up).
    """
    lengths = Independent(
        input=UniformLength(nominal=input_tokens), output=UniformLength(nominal=output_tokens)
    )
    return Traffic(
        client="inferencex",
        arrivals=Closed(users=users),
        lengths=lengths,
        num_requests=10 * users,
        warmup=2 * users,
        seed=seed,
    )


def offline(num_requests: int, input_tokens: int, output_tokens: int, seed: int = 0) -> Traffic:
    """A batch job: all requests at time 0, all of one length."""
    lengths = Independent(input=FixedLength(tokens=input_tokens), output=FixedLength(tokens=output_tokens))
    return Traffic(client="offline", arrivals=AtOnce(), lengths=lengths, num_requests=num_requests, seed=seed)
