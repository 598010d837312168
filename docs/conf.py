"""Sphinx's configuration; `python docs/build.py site` writes the pages that it reads and runs it."""

import re
import sys
import warnings
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

project = "convlab"
copyright = "the convlab authors"
version = release = re.search(r'__version__ = "(.*)"', (ROOT / "convlab/__init__.py").read_text())[1]

extensions = ["myst_parser"]
myst_enable_extensions = ["attrs_block", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "myst.xref_ambiguous"]
smartquotes = False
add_module_names = False
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
nitpicky = False
highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "github-dark"

html_theme = "furo"
html_title = f"convlab {release}"
html_static_path = [str(DOCS / "static")]
html_favicon = str(DOCS / "static/favicon.svg")
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = html_show_sourcelink = False
html_show_search_summary = False  # a summary needs a request, which a page opened as a file cannot make
html_search_scorer = str(DOCS / "static/scorer.js")
html_math_renderer = "mathml"
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#0b57a4", "color-brand-content": "#0b57a4"},
    "dark_css_variables": {"color-brand-primary": "#7fb8f0", "color-brand-content": "#7fb8f0"},
}


def setup(app):
    """Render formulas as MathML, which browsers show without a script or a network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from latex2mathml.converter import convert

    from docutils import nodes

    def inline(self, node):
        self.body.append(convert(node.astext()))
        raise nodes.SkipNode

    def block(self, node):
        self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
        raise nodes.SkipNode

    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
