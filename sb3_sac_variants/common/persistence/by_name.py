"""
Write the classes of a script by their names.

``cloudpickle`` writes them with their code, which only a trusted file may hold.
"""

import io
import sys
from typing import Any

import cloudpickle  # type: ignore[import-untyped]


class ByNamePickler(cloudpickle.Pickler):
    """A pickler that writes the code of no class that has a name in its module."""

    #: whether a class of a script has been written
    of_script = False

    def reducer_override(self, obj: Any) -> Any:
        """Reduce a class that its module has to its name, and leave the rest to ``cloudpickle``."""
        if isinstance(obj, type) and getattr(sys.modules.get(obj.__module__), obj.__qualname__, None) is obj:
            self.of_script = self.of_script or obj.__module__ == "__main__"
            return NotImplemented
        return super().reducer_override(obj)


def of_script_by_name(value: Any) -> bytes | None:
    """Pickle what holds classes of a script, their names in place of their code; None if there are none."""
    buffer = io.BytesIO()
    pickler = ByNamePickler(buffer)
    pickler.dump(value)
    return buffer.getvalue() if pickler.of_script else None
