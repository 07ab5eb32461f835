"""mlwb: the whole ML lifecycle as literate notebooks, by hand in JupyterLab or unattended as a pipeline.

Names are loaded on first use, so that `import mlwb` costs nothing: `mlwb.explore`, `mlwb.stage`, `mlwb.drift`, …
"""

__version__ = "0.1.0"

_LAZY = {
    # any notebook, no project needed
    "explore": "mlwb.show.explore",
    "explain": "mlwb.show.explain",
    "drift": "mlwb.show.drift",
    "validate": "mlwb.show.validation",
    # any notebook of a project
    "runlog": "mlwb.show.runview",
    # a stage notebook
    "stage": "mlwb.run.stage",
    "secret": "mlwb.core.secrets",
    "goal": "mlwb.core.goal",
    "acceptance": "mlwb.core.goal",
    "search": "mlwb.model.search",
    "evaluate": "mlwb.model.evaluate",
}


def __getattr__(name):
    if name in _LAZY:
        import importlib

        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'mlwb' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY])


__all__ = [*_LAZY, "__version__"]
