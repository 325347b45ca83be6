"""Write an executed notebook as one self-contained page: python tests/make_page.py NOTEBOOK PAGE

Everything that nbconvert's own page would fetch from the network is left out (scripts for formulas, diagrams and
widgets, of which the notebook has none) or written as text (the badges); and the pictures get the alternative text
that the notebook has for them, which nbconvert drops.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

TEMPLATE = """
{%- extends 'index.html.j2' -%}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block data_png scoped %}
<div class="jp-RenderedImage jp-OutputArea-output {{ extra_class }}">
<img src="data:image/png;base64,{{ output.data['image/png'] | escape_html }}"
     alt="{{ (output | get_metadata('alt', 'image/png') or '') | escape_html }}">
</div>
{% endblock %}
"""


def main(source, target):
    book = nbformat.read(source, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\[!\[([^]]*)\]\(https?:[^)]*\)\]", r"[\1]", cell.source)
    book.metadata.title = re.search(r"^# (.*)", book.cells[0].source).group(1)
    page, _ = HTMLExporter(raw_template=TEMPLATE).from_notebook_node(book)
    target.parent.mkdir(exist_ok=True)
    target.write_text(page, encoding="utf-8")
    print(f"wrote {target.name}, {len(page) / 1e6:.1f} MB")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
