"""A stub of the package of Weights & Biases."""

import importlib.util
import sys
import types


class StubRun:
    """Collects what a W&B run gets."""

    def __init__(self, on_log=lambda values: None):
        self.rows, self.summary, self.axes, self.exit_code, self._on_log = [], {}, [], None, on_log

    def define_metric(self, name, step_metric=None):
        self.axes.append((name, step_metric))

    def log(self, values):
        self._on_log(values)
        self.rows.append(values)

    def finish(self, exit_code):
        self.exit_code = exit_code


def stub_wandb(monkeypatch):
    """Replace the package; `runs` of the stub are those that were started, with the arguments of `init`."""
    module = types.ModuleType("wandb")
    module.runs, module.on_log, module.error = [], lambda values: None, None

    class Settings:
        def __init__(self, **values):
            self.__dict__.update(x_disable_meta=False, x_disable_stats=False, **values)

    def init(**options):
        if module.error is not None:
            raise module.error
        run = StubRun(module.on_log)
        module.runs.append((options, run))
        return run

    module.Settings, module.init = Settings, init
    module.__spec__ = importlib.util.spec_from_loader("wandb", loader=None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return module
