"""Plans as lines, tables and plots."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deberta_jax.files import replace_file
from deberta_jax.planning.configuration import configuration_line, configuration_options
from deberta_jax.planning.plan import Plan
from deberta_jax.planning.search import Entry
from deberta_jax.training.chips import GIB
from deberta_jax.training.plot import BLUE, ORANGE
from deberta_jax.training.sizes import format_bytes

_WIDTH = 160


def plan_lines(plan: Plan, price: float | None = None) -> list[str]:
    """A plan in words."""
    config, topology, memory = plan.config, plan.target.topology, plan.step.memory
    batch_size, length = config.training.batch_size, config.data.lengths[0]
    chips = f"{topology.num_chips:,} chip{'s' * (topology.num_chips > 1)}"
    if len(topology.devices) != topology.num_chips:
        chips += f", {len(topology.devices):,} devices"
    lines = [
        f"{config.model}, {config.objective}, {topology.name} ({chips}): {configuration_line(config, plan.mesh)}",
        f"  parameters      {plan.flops.parameters:,}",
        f"  per step        {batch_size:,} sequences of {length} tokens, {batch_size * length:,} tokens",
        f"  memory          {format_bytes(memory.peak)} of {format_bytes(plan.target.capacity)} per device: state "
        f"{format_bytes(memory.state)}, temporary {format_bytes(memory.temporary)}",
        f"  FLOPs           {_figure(plan.flops.step / 1e12, 2)} TFLOP per step on all devices with recomputation, "
        f"{_figure(plan.flops.model / 1e12, 2)} without (three forward passes)",
    ]
    if not plan.step.fits:
        excess = memory.peak - plan.target.capacity
        return [*lines, f"  does not fit: {format_bytes(excess)} per device too much"]
    lines += _cost_lines(plan) + _bound_lines(plan, price)
    return [*lines, f"  compiled in {plan.step.seconds:.0f} s"]


def print_plans(plans: Sequence[Plan], price: float | None = None) -> None:
    """Print the plan of a run, and after one that does not fit the nearest that does."""
    plan, *others = plans
    print("\n".join(plan_lines(plan, price)))
    if plan.step.fits:
        return
    if not others:
        print("no mesh, rematerialization or number of micro-batches fits; use more or larger devices")
        return
    print("\n".join(["", "the nearest configuration that fits:", *plan_lines(others[0], price)]))
    print(f"options: {configuration_options(others[0].config, others[0].mesh)}")


def _cost_lines(plan: Plan) -> list[str]:
    costs = plan.step.costs
    if costs is None:
        return []
    traffic = f"{costs.memory_bytes / 1e9:,.1f} GB per device: operands and results of each operation, loops counted"
    if not costs.collectives:
        return [f"  memory traffic  {traffic}", "  collectives     none"]
    total = sum(collective.bytes for collective in costs.collectives)
    kinds = ", ".join(f"{x.number:,} {x.kind} {_gigabytes(x.bytes)}" for x in costs.collectives)
    return [f"  memory traffic  {traffic}", f"  collectives     {_gigabytes(total)} sent per device: {kinds}"]


def _bound_lines(plan: Plan, price: float | None) -> list[str]:
    if plan.bounds is None or plan.hours is None or plan.chip_hours is None:
        return [f"  time            no bounds: the peak rates of {plan.target.topology.name} devices are unknown"]
    limits = plan.bounds
    parts = {"compute": limits.compute, "memory": limits.memory, "interconnect": limits.interconnect}
    if limits.network:
        parts["network"] = limits.network
    times = ", ".join(f"{name} {_figure(seconds, 3)}" for name, seconds in parts.items())
    lines = [
        f"  step time       at least {_figure(limits.step, 3)} s ({limits.limit}): {times}",
        f"  MFU             at most {limits.mfu:.0%}",
    ]
    if steps := plan.config.training.steps:
        hours, chip_hours = _figure(plan.hours, 1), _figure(plan.chip_hours, 0)
        dollars = None if price is None else _figure(price * plan.chip_hours, 0)
        cost = "" if dollars is None else f", {dollars} dollars at {price:g} per chip and hour"
        lines.append(f"  {steps:,} steps: at least {hours} hours, {chip_hours} chip-hours{cost}")
    return lines


def _figure(value: float, decimals: int) -> str:
    """A number with so many decimals, and with more if fewer than two digits would remain."""
    return f"{value:,.{decimals}f}" if value == 0 or value >= 10 ** (1 - decimals) else f"{value:.2g}"


def _gigabytes(number: int | float) -> str:
    return f"{number / 1e9:,.2f} GB" if number >= 1e7 else f"{number / 1e6:,.2f} MB"


def print_ranking(entries: Sequence[Entry], capacity: int, price: float | None = None) -> None:
    """Print a ranking as a table, then the plan of its best configuration and the options that choose it."""
    table = Table(box=None, pad_edge=False)
    columns = "mesh", "remat", "accumulate", "micro-batch", "memory", "step", "MFU", "limit", ""
    for name in columns:
        side = "left" if name in ("mesh", "remat", "limit", "") else "right"
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for entry in entries:
        table.add_row(*_cells(entry, capacity))
    Console(width=_WIDTH).print(table)
    print("memory per device; the step time is at least, and the MFU at most, what is listed")
    best = entries[0] if entries else None
    if best is None or best.plan is None or not best.plan.step.fits:
        print("nothing fits")
        return
    print("\n".join(["", *plan_lines(best.plan, price)]))
    print(f"options: {configuration_options(best.config, best.mesh)}")


def _cells(entry: Entry, capacity: int) -> list[str]:
    config, plan = entry.config, entry.plan
    cells = [str(entry.mesh), config.remat]
    if plan is None:
        return [*cells, "", "", "", "", "", "", entry.note]
    training = config.training
    cells += [f"{training.accumulate:,}", f"{plan.micro_batch:,}"]
    cells.append(f"{format_bytes(plan.step.memory.peak)} of {format_bytes(capacity)}")
    if plan.bounds is None:
        return [*cells, "", "", "", entry.note]
    return [*cells, f"{_figure(plan.bounds.step, 3)} s", f"{plan.bounds.mfu:.0%}", plan.bounds.limit, entry.note]


def plot_memory(plans: Iterable[Plan], path: Path) -> None:
    """Plot the memory per device of each plan into a PNG file."""
    figure = draw_memory(list(plans))
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120, facecolor="white"))


def draw_memory(plans: Sequence[Plan]) -> Any:
    """The figure of `plot_memory`: one bar per plan, and the memory that a device has."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = [f"{plan.mesh}\nremat {plan.config.remat}\naccumulate {plan.config.training.accumulate}" for plan in plans]
    figure = Figure(figsize=(max(4.0, 1.6 * len(plans) + 1.5), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    state = [plan.step.memory.state / GIB for plan in plans]
    temporary = [plan.step.memory.temporary / GIB for plan in plans]
    axes.bar(labels, state, label="state", color=BLUE, width=0.6)
    axes.bar(labels, temporary, bottom=state, label="temporary", color=ORANGE, width=0.6)
    capacity = plans[0].target.capacity / GIB
    axes.axhline(capacity, color="black", linestyle="--", linewidth=1, label=f"capacity: {capacity:.2f} GiB")
    title = f"Memory of a step: {plans[0].config.model} on {plans[0].target.topology.name}"
    axes.set(title=title, ylabel="GiB per device", xlim=(-0.6, len(plans) - 0.4))
    axes.title.set_fontsize(10)
    axes.tick_params(axis="x", labelsize=7)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure
