"""Numbers in a net's text: what is asked for changes, and not one byte more."""

import difflib

import pytest

from caffeinit.caffe.textedit import with_numbers
from caffeinit.caffe.textformat import read_text
from caffeinit.errors import FormatError
from caffeinit.protos import schema

# What stands around the layer has to stay: comments in any encoding, odd spacing, lists, layers of one name.
BEFORE = b"# n\xe9t, Latin-1\r\nname: 'a' 'b'\nlayer [ { name: \"x\" }, { name: \"n\" } ]  # alpha: 1\n"
AFTER = b'\nlayer < name: "n" lrn_param: { alpha: 7 } >\nfurther { alpha: 1 }'
ENTRY = 2

# The entry as it is, and as it is with alpha 0.5.
CASES = [
    ("layer { lrn_param { alpha: 1 } }", "layer { lrn_param { alpha: 0.5 } }"),
    ("layer { lrn_param: < alpha:-1e-3f; beta: 1 > }", "layer { lrn_param: < alpha:0.5; beta: 1 > }"),
    ("layer { lrn_param { alpha: - 1 } }", "layer { lrn_param { alpha: 0.5 } }"),
    ("layer { lrn_param { beta: 1 } }", "layer { lrn_param { beta: 1 alpha: 0.5 } }"),
    ("layer { lrn_param {} }", "layer { lrn_param { alpha: 0.5 } }"),
    ("layer { type: 'LRN'}", "layer { type: 'LRN' lrn_param { alpha: 0.5 } }"),
    (
        "layer {\n    lrn_param {\n\tbeta: 1  # one\n\t# no alpha: here\n    }\n}",
        "layer {\n    lrn_param {\n\tbeta: 1  # one\n\t# no alpha: here\n\talpha: 0.5\n    }\n}",
    ),
    ("layer {\r\n  top: 'a'\r\n}", "layer {\r\n  top: 'a'\r\n  lrn_param { alpha: 0.5 }\r\n}"),
    ("layer {\n}", "layer {\n  lrn_param { alpha: 0.5 }\n}"),
]


@pytest.mark.parametrize(("old", "new"), CASES, ids=range(len(CASES)))
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "marked"])
def test_only_the_number_changes(old, new, mark):
    raw = mark + BEFORE + old.encode() + AFTER
    changed = with_numbers(raw, "net.prototxt", {(ENTRY, "lrn_param.alpha"): "0.5"})
    assert changed == mark + BEFORE + new.encode() + AFTER
    message = schema.message("NetParameter")()
    read_text(changed.removeprefix(mark).decode("latin-1"), message, "net.prototxt")
    assert message.layer[ENTRY].lrn_param.alpha == 0.5
    assert message.layer[ENTRY + 1].lrn_param.alpha == 7
    assert with_numbers(raw, "net.prototxt", {}) == raw


def test_several_numbers_at_once():
    lines = [f"layer {{ lrn_param {{ alpha: {i} }} }}  # {i}" for i in range(5)]
    changed = with_numbers("\n".join(lines).encode(), "net", {(i, "lrn_param.alpha"): "1e-05" for i in (3, 1)})
    differences = [d for d in difflib.ndiff(lines, changed.decode().split("\n")) if d[0] in "+-"]
    assert [d for d in differences if d[0] == "+"] == [
        "+ layer { lrn_param { alpha: 1e-05 } }  # 1",
        "+ layer { lrn_param { alpha: 1e-05 } }  # 3",
    ]


def test_a_text_without_layers_is_refused():
    with pytest.raises(FormatError, match="not the text of the net itself"):
        with_numbers(b'net: "train_val.prototxt"', "solver.prototxt", {})
