"""Sphinx's settings: make docs builds the site into build/docs and fails at a warning.

Nothing is fetched from the network, neither while building nor by the pages.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import generated  # noqa: E402

import crlviz  # noqa: E402

project = "crlviz"
author = "The crlviz developers"
copyright = author
release = version = crlviz.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns: list[str] = []
nitpicky = False

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
highlight_language = "none"
smartquotes = False  # --depth is two hyphens

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 100
add_module_names = False

html_theme = "furo"
html_title = "crlviz"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def setup(app):
    app.connect("source-read", generated.fill)
    app.connect("build-finished", generated.play)
