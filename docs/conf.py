"""How Sphinx makes the manual: `make docs`."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

project = "ddm"
author = "The ddm authors"
copyright = author
version = release = version_of("discrete-diffusion")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"ddm {release}"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

# In docstrings `name` is a link where the manual has exactly one object of that name, else code.
default_role = "py:obj"
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
suppress_warnings = ["mystnb.unknown_mime_type"]


def resolve_by_last_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element
) -> Element | None:
    """Link a short name to the one object that is called so."""
    if node.get("refdomain") != "py" or node.get("reftype") != "obj":
        return None
    target = node["reftarget"]
    domain = env.get_domain("py")
    found = [
        entry
        for entry in domain.get_objects()
        if entry[0] == target or entry[0].endswith(f".{target}")
    ]
    if len(found) != 1:
        return None
    name, _, _, page, anchor, _ = found[0]
    return make_refnode(app.builder, node["refdoc"], page, anchor, content, name)


# Pages that GitHub shows elsewhere; each has a page here that includes it.
ELSEWHERE = {
    "../../checkpoints/README.md": "../models.md",
    "../checkpoints/README.md": "models.md",
    "../../scripts/benchmarks/README.md": "../benchmarks.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../CHANGELOG.md": "changelog.md",
}


def link_inside(app: Sphinx, page: str, source: list[str]) -> None:
    """Let links to pages outside of this folder lead to those that include them."""
    for outside, inside in ELSEWHERE.items():
        source[0] = source[0].replace(f"]({outside}", f"]({inside}")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what links need."""
    app.connect("source-read", link_inside)
    app.connect("missing-reference", resolve_by_last_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
