"""Start-up hook: lets the RL Zoo's own commands know the algorithms of ``sb3_sac_variants``.

Installed at the root of site-packages and called by every interpreter that starts there
(``sb3_sac_variants_zoo.pth``, from Python 3.15 on ``sb3_sac_variants_zoo.start``, PEP 829). It only puts a finder
in front of ``sys.meta_path``, which waits for the zoo's modules; all else is in :mod:`sb3_sac_variants.zoo.plugin`
and is imported after a program has imported the zoo. Set ``SB3_SAC_VARIANTS_NO_ZOO=1`` to switch it off.
"""

# Every Python start pays for what is imported here: only modules that the interpreter has already loaded.
import os
import sys

SWITCH = "SB3_SAC_VARIANTS_NO_ZOO"

#: The modules that :func:`sb3_sac_variants.zoo.plugin.extend` knows. A copy, since importing it costs torch.
ZOO_MODULES = ("rl_zoo3.utils", "rl_zoo3.hyperparams_opt", "rl_zoo3.exp_manager")


def install():
    """Wait for the zoo. Never raises, whatever state the interpreter is in."""
    try:
        if os.environ.get(SWITCH, "0") in ("", "0") and ZooFinder not in sys.meta_path:
            sys.meta_path.insert(0, ZooFinder)
    except Exception:
        pass


class ZooFinder:
    """Meta-path finder that finds nothing itself: it has the zoo's modules extended once they have run."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        """Return what the next finder finds, with a loader that calls :func:`extend` after the module's own code."""
        if fullname not in ZOO_MODULES:
            return None
        try:
            for finder in sys.meta_path:
                # The import system skips finders without find_spec
                find = None if finder is cls else getattr(finder, "find_spec", None)
                spec = None if find is None else find(fullname, path, target)
                if spec is not None:
                    extend_after_execution(spec.loader)
                    return spec
        except Exception:
            pass  # The import goes on without us, and if a finder is broken it says so itself.
        return None


def extend_after_execution(loader):
    """Have ``loader`` extend the module after executing it. The loader stays the object it was, for all who ask it."""
    execute = loader.exec_module

    def exec_module(module):
        execute(module)
        extend(module)

    loader.exec_module = exec_module


def extend(module):
    """Add our algorithms to a zoo module; when that fails, say why and leave the zoo as it was."""
    try:
        from sb3_sac_variants.zoo import plugin

        plugin.extend(module)
    except (Exception, SystemExit) as error:
        # Not a warning: a filter could turn it into an exception, inside the import of the zoo.
        print(
            f"sb3_sac_variants: {module.__name__} goes without sac_v1, sac_v2 and their like: {error!r}. "
            f"Set {SWITCH}=1 to switch the start-up hook off.",
            file=sys.stderr,
        )
