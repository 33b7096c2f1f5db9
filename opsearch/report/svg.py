"""A matplotlib figure as SVG inside of a page: text stays text, colours follow the page's theme."""

from __future__ import annotations

import re
import warnings
from io import StringIO
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Characters that XML does not allow; names come from data.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_REFERENCE = re.compile(r"url\(#")
_FONTS = re.compile(r"'DejaVu Sans'[^;]*")
_THEME = {"#000000": "currentColor", "#ffffff": "var(--paper)"}
_PIXELS_PER_POINT = 4 / 3
# Labels stay readable when a figure shrinks to so much of its size, below that its box scrolls.
_SMALLEST, _LARGEST = 0.62, 1.3


def inline(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an `<svg>` element.

    name: prefix of its ids, unique in the page; label: what it is for those who cannot see it.
    """
    root = ElementTree.fromstring(_FORBIDDEN.sub("", _source(figure, name)))
    for element in root.iter():
        for child in list(element):
            if _bare(child.tag) in ("metadata", "style"):
                element.remove(child)
        element.tag = _bare(element.tag)
        element.attrib = {_bare(k): _value(_bare(k), v, name) for k, v in element.attrib.items()}
    width = float(root.attrib["viewBox"].split()[2]) * _PIXELS_PER_POINT
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": label,
        "style": f"min-width: {_SMALLEST * width:.0f}px; max-width: {_LARGEST * width:.0f}px",
    }
    # ElementTree escapes what it writes, and it read nothing but what matplotlib wrote.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _source(figure: Figure, name: str) -> str:
    """What matplotlib writes, the same for the same figure."""
    import matplotlib

    buffer = StringIO()
    # Colour bars ask for a bitmap, which does not scale; edges close the gaps between their cells.
    for artist in figure.findobj(lambda artist: bool(artist.get_rasterized())):
        artist.set(rasterized=False, edgecolor="face")
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}),
        warnings.catch_warnings(),
    ):
        # The page's fonts draw the text, so that those of matplotlib may lack a letter.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def _value(key: str, value: str, name: str) -> str:
    """An attribute with ids of its own, the theme's colours and the page's fonts."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value.removeprefix('#')}"
    value = _REFERENCE.sub(f"url(#{name}-", value)
    if key == "style":
        value = _FONTS.sub("system-ui, sans-serif", value)
        for colour, themed in _THEME.items():
            value = value.replace(colour, themed)
    return value


def _bare(name: str) -> str:
    """A name without its namespace, which HTML knows by itself."""
    return name.rpartition("}")[2]
