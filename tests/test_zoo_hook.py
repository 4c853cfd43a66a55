"""The start-up hook: what it costs every Python start, what it does to the zoo's modules, and that it harms nobody.

The zoo and our package are stood in for by a few lines each, so that a test takes a fraction of a second; the real
ones are in ``test_packaging.py`` and ``test_zoo_commands.py``.
"""

import sys
import textwrap
from pathlib import Path
from pkgutil import resolve_name

import pytest
from installs import STARTUP, run

from sb3_sac_variants.zoo import plugin

FILES = {
    "rl_zoo3/__init__.py": "",
    "rl_zoo3/utils.py": "ALGOS = {'sac': 'the zoo'}",
    "rl_zoo3/train.py": "from rl_zoo3.utils import ALGOS\nprint(list(ALGOS))",
    "sb3_sac_variants/__init__.py": "",
    "sb3_sac_variants/zoo/__init__.py": "",
    "sb3_sac_variants/zoo/plugin.py": "def extend(module):\n    module.ALGOS['sac_v1'] = 'us'",
}


class Machine:
    """A Python that finds the hook in a site directory, a stand-in for the zoo, and one for our package."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name, text in FILES.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def python(self, code: str, hook: bool = True, fails: bool = False, **environment: str) -> str:
        """Start up as ``site`` does, run ``code``, return what it printed."""
        start = f"import os, site, sys; sys.path.insert(0, {str(self.folder)!r}); sys.dont_write_bytecode = True\n"
        if hook:
            start += f"site.addsitedir({str(STARTUP)!r})\n"
        return run(sys.executable, "-S", "-c", start + textwrap.dedent(code), fails=fails, **environment).strip()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_start_up_imports_the_hook_alone(machine: Machine) -> None:
    code = f"""
        import encodings.utf_8_sig  # site reads .pth files with it from Python 3.13 on
        before = set(sys.modules)
        site.addsitedir({str(STARTUP)!r})
        print(sorted(set(sys.modules) - before))
    """
    assert machine.python(code, hook=False) == "['_sb3_sac_variants_zoo']"


def test_programs_without_the_zoo_never_meet_us(machine: Machine) -> None:
    code = "import json, rl_zoo3; print([name for name in sys.modules if 'sb3_sac' in name])"
    assert machine.python(code) == "['_sb3_sac_variants_zoo']"


def test_zoo_module_is_extended_when_it_has_run(machine: Machine) -> None:
    assert machine.python("import rl_zoo3.utils; print(rl_zoo3.utils.ALGOS)") == "{'sac': 'the zoo', 'sac_v1': 'us'}"


def test_command_run_as_main_sees_the_extended_module(machine: Machine) -> None:
    code = "import runpy; runpy.run_module('rl_zoo3.train', run_name='__main__', alter_sys=True)"
    assert machine.python(code) == "['sac', 'sac_v1']"


def test_reloaded_zoo_module_is_extended_again(machine: Machine) -> None:
    code = "import importlib, rl_zoo3.utils; importlib.reload(rl_zoo3.utils); print(list(rl_zoo3.utils.ALGOS))"
    assert machine.python(code) == "['sac', 'sac_v1']"


def test_installed_twice_extends_once(machine: Machine) -> None:
    code = f"""
        site.addsitedir({str(STARTUP)!r})
        import _sb3_sac_variants_zoo
        print(sys.meta_path.count(_sb3_sac_variants_zoo.ZooFinder))
    """
    assert machine.python(code) == "1"


def test_module_keeps_its_own_loader_and_source(machine: Machine) -> None:
    code = """
        import inspect, rl_zoo3.utils
        print(type(rl_zoo3.utils.__loader__).__name__, inspect.getsource(rl_zoo3.utils))
    """
    assert machine.python(code) == f"SourceFileLoader {FILES['rl_zoo3/utils.py']}"


@pytest.mark.parametrize(("value", "algos"), [("1", "['sac']"), ("yes", "['sac']"), ("0", "['sac', 'sac_v1']")])
def test_switch(machine: Machine, value: str, algos: str) -> None:
    code = "import rl_zoo3.utils; print(list(rl_zoo3.utils.ALGOS))"
    assert machine.python(code, SB3_SAC_VARIANTS_NO_ZOO=value) == algos


@pytest.mark.parametrize(
    "plugin_source",
    [
        "raise RuntimeError('broken import')",
        "import no_such_dependency",
        "def extend(module):\n    raise RuntimeError('broken extension')",
        "this is no Python",
    ],
)
def test_broken_plugin_leaves_the_zoo_working_and_says_so(machine: Machine, plugin_source: str) -> None:
    machine.write("sb3_sac_variants/zoo/plugin.py", plugin_source)
    output = machine.python("import warnings; warnings.simplefilter('error'); import rl_zoo3.train")
    assert "['sac']" in output
    assert "sb3_sac_variants: rl_zoo3.utils goes without" in output
    assert "SB3_SAC_VARIANTS_NO_ZOO=1" in output
    assert "Traceback" not in output


def test_package_removed_under_the_hook_leaves_the_zoo_working(machine: Machine) -> None:
    for name in FILES:
        if name.startswith("sb3_sac_variants"):
            (machine.folder / name).unlink()
    assert "['sac']" in machine.python("import rl_zoo3.train")


def test_error_of_the_zoo_itself_is_not_hidden(machine: Machine) -> None:
    machine.write("rl_zoo3/utils.py", "raise RuntimeError('the zoo is broken')")
    assert "RuntimeError: the zoo is broken" in machine.python("import rl_zoo3.utils", fails=True)


def test_zoo_not_installed_is_the_usual_error(machine: Machine) -> None:
    code = "sys.path.pop(0)\ntry:\n    import rl_zoo3.utils\nexcept ModuleNotFoundError as error:\n    print(error)"
    assert machine.python(code) == "No module named 'rl_zoo3'"


def test_another_finder_that_fails_is_left_to_the_interpreter(machine: Machine) -> None:
    code = """
        class BrokenOnce:
            asked = 0
            @classmethod
            def find_spec(cls, fullname, *args):
                cls.asked += fullname == "rl_zoo3.utils"
                if cls.asked == 1:
                    raise RuntimeError
        sys.meta_path.insert(1, BrokenOnce)
        import rl_zoo3.train
        print(BrokenOnce.asked)
    """
    assert machine.python(code).splitlines() == ["['sac']", "2"]


def test_a_finder_of_the_old_kind_is_passed_over(machine: Machine) -> None:
    code = """
        class Old:
            @classmethod
            def find_module(cls, fullname, path=None):
                return None
        sys.meta_path.insert(0, Old)
        import rl_zoo3.train
    """
    assert machine.python(code) == "['sac', 'sac_v1']"


def test_install_survives_an_interpreter_in_any_state(machine: Machine) -> None:
    code = """
        import _sb3_sac_variants_zoo
        finders, sys.meta_path = sys.meta_path, None
        _sb3_sac_variants_zoo.install()
        sys.meta_path = finders
        print("alive")
    """
    assert machine.python(code) == "alive"


def test_start_file_names_the_same_call_as_the_pth_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEP 829: one ``module:callable`` a line, and import lines of a .pth file of the same name are then ignored."""
    monkeypatch.syspath_prepend(str(STARTUP))
    (entry_point,) = (STARTUP / "sb3_sac_variants_zoo.start").read_text(encoding="utf-8").splitlines()
    (pth_line,) = (STARTUP / "sb3_sac_variants_zoo.pth").read_text(encoding="utf-8").splitlines()
    module, _, function = entry_point.partition(":")
    assert callable(resolve_name(entry_point))
    assert pth_line == f"import {module}; {module}.{function}()"


def test_hook_waits_for_the_modules_that_the_plugin_extends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STARTUP))
    assert set(resolve_name("_sb3_sac_variants_zoo:ZOO_MODULES")) == set(plugin._EXTENSIONS)
