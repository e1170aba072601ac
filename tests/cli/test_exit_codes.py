"""Exit codes: 2 where the command has to be typed otherwise, 1 where a file is refused."""

import pytest

from tests.cli.conftest import NET

NORMALIZE = ("--mode", "normalize")
MEAN_VALUE = "transform_param { mean_value: 1 mean_value: 2 } input_param"
# Words behind `rescale NET WEIGHTS --images pictures`, what the net's text is changed by, exit code, and what is said.
CASES = [
    (("--method", "kmean"), None, 2, 'Did you mean "kmeans"?'),
    (("--device", "gpu"), None, 2, "has to be auto, cpu, cuda"),
    (("--memory-limit", "much"), None, 2, "no size of memory"),
    (("--memory-limit", "20M"), None, 2, "is too little"),
    (("--scale", "0"), None, 2, "a finite number other than 0"),
    (("--mean", "1,2"), None, 2, "has 3 channels"),
    ((), ("input_param", MEAN_VALUE), 1, "has 3 channels"),
    (("--mean", "1", "--mean-file", "m.npy"), None, 2, "give one of them"),
    (("--mean-file", "none.npy"), None, 1, "no such file"),
    (("--crop", "5"), None, 2, "the crop is 5x5"),
    (("--resize", "warp:4"), None, 2, "cannot be cut out of 4x4"),
    (("--channels", "rgb"), ("dim: 3", "dim: 1"), 1, "do not fit"),
    (("--input-shape", "dota=3,12,10"), None, 2, 'no input "dota"'),
    (("--rewrite-lrn",), None, 2, "has no use for --rewrite-lrn"),
    *(
        (("--mode", mode, "--beta", "0.1"), None, 2, f"mode {mode} keeps the function, and so sets no means")
        for mode in ("preserve", "equalize", "balance", "fp16")
    ),
    (("--mode", "balance", "--no-balance"), None, 2, "mode balance does nothing but balance"),
    (("--reinit", "conv9"), None, 2, 'no layer with weights matches "conv9"'),
    (("--layers", "cnov1"), None, 2, '--layers: no layer with weights matches "cnov1"; nearest: "conv1"'),
    (("--layers", "conv*,fc*,x"), None, 2, 'matches "fc*"; there are: "conv1", "ip" --layers: no layer'),
    (("--layers", ""), None, 2, "'--layers': \"\" names no layer"),
    (("--layers", " , "), None, 2, "names no layer"),
    (("--reinit", ""), None, 2, "'--reinit': \"\" names no layer"),
    (("--reinit", "ip,o*"), None, 2, '--reinit: no layer with weights matches "o*"'),
    (("--method", "cnov1=pca"), None, 2, '--method: no layer with weights matches "cnov1"; nearest: "conv1"'),
    (("--mode", "equalize", "--layers", "nothing*"), None, 2, 'no layer with weights matches "nothing*"'),
    (("--mode", "preserve", "--reinit", "ip"), None, 2, "cannot draw"),
    (("--mode", "preserve"), ('"ip"', '"new"'), 1, "no numbers for new"),
    (("-o", "out.onnx"), None, 2, "what is written is a file of weights"),
    (("--images", "nowhere"), None, 1, "not found"),
    (("--images", "label=pictures"), None, 2, 'no input "label"'),
]


@pytest.mark.parametrize(("words", "change", "code", "said"), CASES, ids=[" ".join(c[0]) or c[3] for c in CASES])
def test_options_give_2_and_files_1(cli, place, weights, monkeypatch, words, change, code, said):
    monkeypatch.chdir(place)
    if change:
        (place / "net.prototxt").write_text(NET.replace(*change))
    images = () if "--images" in words else ("--images", "pictures")
    mode = () if "--mode" in words else NORMALIZE
    outcome = cli("rescale", "net.prototxt", weights, *images, *mode, *words)
    assert said in outcome.err.replace("\n", " ")
    assert outcome.code == code
    assert not (place / "net.rescaled.caffemodel").exists()


@pytest.mark.parametrize("option", ["--beta", "--scale", "--mean"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_options_that_are_no_finite_number_are_wrong_usage(cli, place, option, value):
    arguments = ("init", place / "net.prototxt", "--images", place / "pictures", "-o", place / "x.caffemodel")
    outcome = cli(*arguments, option, value)
    assert outcome.code == 2
    assert option in outcome.err


def test_a_mean_without_normalising_is_wrong_usage(cli, place):
    arguments = ("init", place / "net.prototxt", "--images", place / "pictures", "-o", place / "x.caffemodel")
    outcome = cli(*arguments, "--no-normalize", "--beta", "0.5")
    assert outcome.code == 2
    assert "no use for --beta" in outcome.err
    assert not (place / "x.caffemodel").exists()


def test_a_misspelt_verb_gets_a_hint(cli):
    outcome = cli("rescal")
    assert outcome.code == 2
    assert '"rescale"' in outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fly",), ("There is no verb", "caffeinit --help")),
        (("init", "net.prototxt"), ("Missing option '-o'", "caffeinit init --help")),
        (("init", "net.prototxt", "-o", "x", "--images", "x", "--beta", "q"), ("'--beta'", "caffeinit init --help")),
        (("inspect", "a", "b", "c"), ("too many: c", "caffeinit inspect --help")),
        (("rescale", "net.onnx", "--images", "x", "--output-net", "y"), ("is for --rewrite-lrn", "rescale --help")),
    ],
)
def test_wrong_usage_is_told_like_any_other_error(cli, words, said):
    outcome = cli(*words)
    assert (outcome.code, outcome.out) == (2, "")
    message, where = outcome.err.splitlines()
    assert message.startswith("error: ")
    assert said[0] in message
    assert where.startswith("What there is to type: caffeinit ")
    assert where.endswith(said[1])
