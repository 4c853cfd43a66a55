"""Configuration of the documentation: ``python -m sphinx -W -b html docs docs/_build/html``."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

import sb3_sac_variants

project = "sb3_sac_variants"
author = "sb3_sac_variants contributors"
copyright = author
release = version = sb3_sac_variants.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.apidoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "api/modules/modules.rst"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3

# One page for each module: a new module, or one that moves, needs no change here. The four algorithms have their own.
apidoc_modules = [
    {
        "path": "../sb3_sac_variants",
        "destination": "api/modules",
        "exclude_patterns": [
            *(f"../sb3_sac_variants/{name}/{name}.py" for name in ("sac_v1", "sac_v2", "sql", "masac")),
            "../sb3_sac_variants/zoo/startup",
            "../sb3_sac_variants/**/__main__.py",
        ],
        "separate_modules": True,
        "module_first": True,
        "max_depth": 1,
    }
]
autodoc_default_options = {"ignore-module-all": True}  # what a package re-exports stands where it is defined
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

html_theme = "furo"
html_title = "sb3_sac_variants"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_math_renderer = "mathml"


def render_inline(self: Any, node: nodes.math) -> None:
    """A formula in a line of text."""
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def render_block(self: Any, node: nodes.math_block) -> None:
    """Formulas in lines of their own."""
    formulas = re.split(r"\n\s*\n", node.astext().strip())
    self.body += [f'<div class="formula">{tex2mathml(formula, as_block=True)}</div>' for formula in formulas]
    raise nodes.SkipNode


def skip_fields(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which the tuple's own docstring describes."""
    return True if str(getattr(member, "__doc__", "")).startswith("Alias for field number") else None


def escape_bars(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let a bar in a docstring mean itself, |A| a size and pi(a|s) a condition, where reST sees a substitution."""
    in_formula = False
    for number, line in enumerate(lines):
        in_formula = ".. math::" in line or (in_formula and (not line.strip() or line.startswith(" ")))
        if not in_formula:
            lines[number] = re.sub(r"(``.*?``|`[^`]*`)|\|", lambda match: match[1] or r"\|", line)


def name_arrays(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write NumPy's names for arrays in signatures, not what these stand for."""

    def shorten(text: str | None) -> str | None:
        if text is None:
            return None
        array_like = stringify_annotation(ArrayLike, "smart")
        text = text.replace(array_like, "~numpy.typing.ArrayLike")
        return re.sub(
            r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[(~?[\w.]+)\]\]",
            r"~numpy.typing.NDArray[\1]",
            text,
        )

    return shorten(signature), shorten(returns)


def shorten_title(app: Sphinx, docname: str, source: list[str]) -> None:
    """Call a module's page by the last part of the module's name, so that it fits into the navigation."""
    if docname.startswith("api/modules/"):
        title = docname.removeprefix("api/modules/").rpartition(".")[2]
        _, _, text = source[0].split("\n", 2)
        source[0] = f"{title}\n{'=' * len(title)}\n{text}"


def setup(app: Sphinx) -> None:
    """Formulas become MathML, which browsers draw without any script, font or network."""
    app.add_html_math_renderer("mathml", (render_inline, None), (render_block, None))
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-process-signature", name_arrays)
    app.connect("source-read", shorten_title)
