"""What every framework needs: one plan, the right number of chips, a batch that divides."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.emit.errors import EmitError
from ridgeline.facts.plan import Plan
from ridgeline.facts.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Overlaps:
    """The overlap switches of a plan, with the stack's habit where the plan says nothing."""

    tp: bool
    grad: bool
    param: bool
    p2p: bool
    ep: bool


def one_plan(framework: str, scenario: Scenario) -> Plan:
    """The scenario's plan, checked against its chips and its batch."""
    plan = scenario.plan
    if not isinstance(plan, Plan):
        raise EmitError(framework, "plan", f"a grid of {len(plan)} plans", ["one Plan, such as grid[0]"])
    if plan.chips != scenario.num_chips:
        product = f"tp {plan.tp} x cp {plan.cp} x pp {plan.pp} x dp {plan.dp} = {plan.chips}"
        raise EmitError(framework, "chips", scenario.num_chips, [plan.chips], product)
    per_pass = plan.dp * plan.micro_batch
    if scenario.job.batch % per_pass:
        choices = [f"a multiple of dp x micro_batch = {per_pass}"]
        raise EmitError(framework, "batch", scenario.job.batch, choices)
    if plan.cp > 1 and scenario.job.seq % (2 * plan.cp):
        raise EmitError(framework, "seq", scenario.job.seq, [f"a multiple of 2 x cp = {2 * plan.cp}"])
    if scenario.job.kind != "pretrain":
        raise EmitError(framework, "kind", scenario.job.kind, ["pretrain"])
    return plan


def micro_batches(scenario: Scenario, plan: Plan) -> int:
    """Passes per step of one data-parallel rank."""
    return scenario.job.batch // (plan.dp * plan.micro_batch)


def overlaps(scenario: Scenario, plan: Plan) -> Overlaps:
    """Each switch of the plan, or the stack's where the plan leaves it open."""
    stack = scenario.stack

    def pick(choice: bool | None, habit: bool) -> bool:
        """The plan's choice, or the stack's habit where it has none."""
        return habit if choice is None else choice

    return Overlaps(
        tp=pick(plan.overlap_tp, stack.overlap_tp),
        grad=pick(plan.overlap_grad, stack.overlap_grad),
        param=pick(plan.overlap_param, stack.overlap_param),
        p2p=pick(plan.overlap_p2p, stack.overlap_p2p),
        ep=pick(plan.overlap_ep, stack.overlap_ep or (stack.overlap_ep_beyond and _beyond(scenario, plan))),
    )


def _beyond(scenario: Scenario, plan: Plan) -> bool:
    """Whether chunks interleave and the experts of a layer leave one scale-up domain."""
    domain = scenario.cluster.tiers[0].size
    return domain is not None and plan.vpp > 1 and plan.ep * plan.etp > domain


def header(scenario: Scenario, plan: Plan, framework: str, version: str) -> list[str]:
    """Lines that say what the emitted file is for; the writer adds its own comment mark."""
    job, recipe = scenario.job, scenario.recipe
    title = scenario.architecture.title or scenario.architecture.name
    degrees = (
        f"tp {plan.tp} cp {plan.cp} pp {plan.pp} vpp {plan.vpp} ep {plan.ep} etp {plan.etp} dp {plan.dp}"
    )
    lines = [
        f"{title} on {scenario.num_chips:,} x {scenario.chip.title}, emitted by Ridgeline",
        degrees,
        f"{micro_batches(scenario, plan)} micro-batches of {plan.micro_batch}, numbers {recipe.name}",
        f"Option names checked against {framework} {version}.",
    ]
    if job.tokens:
        steps = -(-job.tokens // (job.batch * job.seq))
        lines.append(f"The job's {job.tokens:,.0f} tokens are {steps:,.0f} steps.")
    if job.packed:
        lines.append(
            f"Predicted for packed documents of {job.packed:,} tokens that do not attend to each other;"
            " this depends on your data set and is not set here."
        )
    return lines
