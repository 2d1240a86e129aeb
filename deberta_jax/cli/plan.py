"""`deberta-jax plan RECIPE`: what a pretraining run needs on devices that you do not have."""

import sys

from deberta_jax.files import make_folder, write_json
from deberta_jax.planning.options import PlanConfig


def run(options: PlanConfig) -> None:
    """Compile, then print and write the plan, or with `--search` a ranking of configurations."""
    # Imported here, since `--help` does not need what compiling needs.
    from deberta_jax.planning.micro_batch import fixed_micro_batch
    from deberta_jax.planning.plan import Target, plan_values
    from deberta_jax.planning.report import plot_memory, print_plans, print_ranking
    from deberta_jax.planning.search import plans_of, search
    from deberta_jax.planning.topologies import find_topology
    from deberta_jax.pretraining.program import longest_stage, model_to_train

    for path in (options.output, options.plot):
        if path is not None:
            make_folder(path.parent)
    topology = find_topology(options.topology, options.slices)
    config, _ = fixed_micro_batch(longest_stage(options.pretrain))
    if len(options.pretrain.data.length) > 1:
        _report(f"planned as if all steps had the longest sequences, {config.data.length[0]} tokens")
    target = Target.of(model_to_train(config), topology)
    if options.search:
        entries = search(config, target, _report)
        plans = [entry.plan for entry in entries if entry.plan is not None]
        print_ranking(entries, target.capacity, options.price)
    else:
        plans = plans_of(config, target, _report)
        print_plans(plans, options.price)
    if options.output is not None:
        write_json(options.output, {"plans": [plan_values(plan, options.price) for plan in plans]})
    if options.plot is not None and plans:
        plot_memory(plans, options.plot)


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
