"""Matplotlib figures as inline SVG, with selectable text and the colours of the page's theme."""

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
# Limits of a figure's scale; below the lower one labels would be unreadable and its box scrolls.
_SMALLEST, _LARGEST = 0.62, 1.3


def inline(figure: Figure, name: str, label: str) -> Markup:
    """Return the figure as an `<svg>` element.

    Args:
        figure: The figure.
        name: Prefix of its ids, unique in the page.
        label: Text alternative.
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
    # Safe as markup: ElementTree escapes its output, and its input is matplotlib's.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _source(figure: Figure, name: str) -> str:
    """Return the SVG that matplotlib writes, equal for equal figures."""
    import matplotlib

    buffer = StringIO()
    # Colour bars default to bitmaps, which do not scale; edges close the gaps between their cells.
    for artist in figure.findobj(lambda artist: bool(artist.get_rasterized())):
        artist.set(rasterized=False, edgecolor="face")
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}),
        warnings.catch_warnings(),
    ):
        # The page's fonts render the text, so a glyph missing from matplotlib's does not matter.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def _value(key: str, value: str, name: str) -> str:
    """Return an attribute with prefixed ids, the theme's colours and the page's fonts."""
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
    """Return a name without its XML namespace, which HTML implies."""
    return name.rpartition("}")[2]
