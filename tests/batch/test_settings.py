"""caffeinit.toml: the nearest word wins, and words that nobody knows are refused."""

from pathlib import Path

import pytest

from caffeinit.batch.settings import Settings
from caffeinit.cli.common import parse_memory
from caffeinit.errors import CaffeinitError, FormatError

README = Path(__file__).resolve().parents[2] / "README.md"


def settings(place, **files):
    names = []
    for folder, text in files.items():
        path = place / ("" if folder == "root" else folder) / "caffeinit.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        names.append(str(path.relative_to(place)))
    return Settings(place, names)


def test_the_nearest_word_wins(tmp_path):
    found = settings(tmp_path, root='mode = "normalize"\nbeta = 0.5\n', a='mode = "equalize"')
    assert found.of("a/b/net.prototxt", "rescale").options == {"mode": ["equalize"], "beta": ["0.5"]}
    assert found.of("net.prototxt", "rescale").options["mode"] == ["normalize"]


def test_tables_hold_for_matching_nets_or_weights(tmp_path):
    found = settings(tmp_path, a='[nets."old*"]\nskip = "too old"\n[nets."v2/*.caffemodel"]\nbeta = 2')
    assert found.of("a/old_1.prototxt", "rescale").skip == "too old"
    assert found.of("a/deep/old_1.prototxt", "rescale").skip == "too old"
    assert not found.of("a/net.prototxt", "rescale").skip
    assert not found.of("old_1.prototxt", "rescale").skip
    assert found.of("a/net.prototxt", "rescale", ["a/v2/x.caffemodel"]).options == {"beta": ["2"]}


def test_values_become_what_one_would_type(tmp_path):
    found = settings(
        tmp_path,
        root="""
input_shape = { data = [3, 224, 224], im_info = [3] }
mean = [104, 117.5, 123]
method = ["gaussian", "fc*=xavier"]
strict = true
""",
    ).of("net.prototxt", "rescale")
    assert found.options == {
        "input_shapes": ["data=3,224,224", "im_info=3"],
        "mean": ["104,117.5,123"],
        "methods": ["gaussian", "fc*=xavier"],
        "strict": ["true"],
    }


def test_paths_start_from_the_files_own_folder(tmp_path):
    found = settings(
        tmp_path,
        a='images = ["digits/*.png", "label=labels.npy"]\nmean_file = "../mean.npy"\nweights = "w/x.caffemodel"',
    ).of("a/net.prototxt", "rescale")
    assert found.options["sources"] == [str(tmp_path / "a/digits/*.png"), f"label={tmp_path / 'a/labels.npy'}"]
    assert found.options["mean_file"] == [str(tmp_path / "mean.npy")]
    assert found.weights == "a/w/x.caffemodel"


def test_what_only_another_job_knows_is_left_out(tmp_path):
    found = settings(tmp_path, root='mode = "equalize"\nphase = "TRAIN"')
    assert found.of("net.prototxt", "convert").options == {"phase": ["TRAIN"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mdoe = 1", 'there is no setting "mdoe"; did you mean "mode"?'),
        ("mode =", "is no TOML"),
        ("strict = 3", "strict is 3; true or false is needed"),
        ("beta = [true]", r"beta is \[True\]"),
        ("skip = 3", "skip is 3; bool or str is needed"),
        ("time_limit = true", "time_limit is True"),
        ("time_limit = 0", "seconds above 0 are needed"),
        (f"time_limit = {10**400}", "more than 64 bits"),
        (f"beta = 0x{'f' * 40}", "more than 64 bits"),
        (f"seed = {'1' * 5000}", "a line of it is longer than 4096"),
        (f"beta = {'[' * 3000}", "nested too deep"),
        ("#" * 4000 + "\n" + "\n#" * 200_000, "larger than any file of settings"),
        ("time_limit = nan", "seconds above 0 are needed"),
        ("model_memory = 'much'", "model_memory: .* is no size of memory"),
        ("output = 'x'", 'there is no setting "output"'),
        ("nets = 3", "tables are needed"),
        ('[nets."a*"]\nwhat = 1', r'nets."a\*": there is no setting "what"'),
    ],
)
def test_nonsense_is_refused_with_its_place(tmp_path, text, words):
    with pytest.raises(FormatError, match=words) as refusal:
        settings(tmp_path, a=text).of("a/net.prototxt", "rescale")
    assert "a/caffeinit.toml" in str(refusal.value)


def test_the_readmes_example(tmp_path):
    text = README.read_text().split("<!-- toml -->\n```toml\n")[1].split("```")[0]
    found = settings(tmp_path, mnist=text)
    plain = found.of("mnist/lenet.prototxt", "rescale")
    assert plain.options == {
        "sources": [str(tmp_path / "mnist/t10k-images-idx3-ubyte.gz")],
        "scale": ["0.00390625"],
        "channels": ["gray"],
    }
    siamese = found.of("mnist/siamese/net.prototxt", "rescale")
    assert siamese.options["sources"] == [f"data={tmp_path}/mnist/left.npy", f"data_p={tmp_path}/mnist/right.npy"]
    assert (siamese.options["mode"], siamese.time_limit) == (["equalize"], 60)
    assert found.of("mnist/old_1.prototxt", "rescale").skip == "replaced by lenet.prototxt"
    assert found.of("mnist/tuned.prototxt", "rescale").weights == "mnist/weights/iter_5000.caffemodel"


def test_memory():
    assert parse_memory("512M") == 512 << 20
    assert parse_memory("1.5g") == 3 << 29
    for text in ("", "G", "-1G", "much"):
        with pytest.raises(CaffeinitError, match="no size of memory"):
            parse_memory(text)
