"""Pages as tests see them: what stands in which element, and what a page refers to."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br"}
# Attributes that would make a browser fetch something.
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """A page taken apart; a tag that is not closed where it should be fails the test."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.source = text
        self.open, self.tags, self.ids, self.links = [], Counter(), [], []
        self.elements = []  # (tag, attributes)
        self.tables = []  # rows of cell texts
        self.texts = {}  # tag -> texts
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        assert len(given) == len(attrs), attrs
        self.tags[tag] += 1
        self.elements.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        self.links += [v for k, v in attrs if k.rpartition(":")[2] in LOADING]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in dict.fromkeys(self.open):
            self.texts[tag][-1] += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    @property
    def images(self):
        """Attributes of all pictures."""
        return [a for tag, a in self.elements if tag == "img" or a.get("role") == "img"]

    def check(self):
        """Hold the page to what all pages are: whole by itself, ids unique, pictures told in words."""
        assert self.source.startswith('<!doctype html>\n<html lang="en">')
        outside = [link for link in self.links if not link.startswith(("#", "data:"))]
        assert len(set(self.ids)) == len(self.ids)
        referenced = [link[1:] for link in self.links if link.startswith("#")]
        referenced += [i for _, a in self.elements for i in a.get("aria-labelledby", "").split()]
        assert set(referenced) <= set(self.ids)
        assert all(a.get("alt") or a.get("aria-labelledby") or a.get("aria-label") for a in self.images)
        assert self.tags["title"] >= 1
        return outside
