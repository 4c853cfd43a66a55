"""Several seeds of several algorithms: declare a study in a file, train it here or on a Ray cluster, report it.

``python -m sb3_sac_variants.study run FILE`` trains with the RL Zoo's own command, one process for each run;
``status`` shows how far the runs are, and ``report`` writes CSV files, tables and figures.
"""

import importlib
from types import ModuleType


def optional(module: str, extra: str = "study") -> ModuleType:
    """Import a module of an extra, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(
            f'a study needs {name}, which is not installed: pip install "sb3-sac-variants[{extra}]"'
        ) from error
