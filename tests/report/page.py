"""report.html as tests look at it: its elements, ids, addresses and text."""

import re
from html.parser import HTMLParser

# Attributes that make a browser load something, or go there.
ADDRESSES = ("src", "href", "xlink:href", "data", "action", "poster", "srcset", "background")


class Page(HTMLParser):
    """Parsed page; `text` is what a reader sees, with every run of space as one."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.source, self.tags, self.attributes, self.words = source, [], [], []
        self.inside = []
        self.feed(source)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "style":
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag == "style":
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.words.append(data)

    def values(self, *names):
        """Values of the attributes with one of these names."""
        return [value for _, name, value in self.attributes if name in names]


def assert_harmless(page):
    """No script, nothing loaded from outside, no bitmap but pictures of items, unique ids."""
    assert not {"script", "iframe", "object", "embed", "link", "base", "image"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert all(re.match(r"#|data:image/(png|jpeg);base64,", v) for v in page.values(*ADDRESSES))
    assert not re.search(r"url\((?!#)|@import|javascript:|https?://", page.source)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    used = re.findall(r"url\(#([^)]+)\)", page.source)
    used += [value[1:] for value in page.values("href")]
    assert set(used) <= set(ids)
