import numpy as np
import pytest

from caffeinit.caffe.layers import find_type, loss
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal

SCORES, LABELS = (4, 5), (4,)
MAP, MAP_LABELS = (2, 5, 3, 4), (2, 1, 3, 4)


def labelled(classes, first=1):
    """Bottoms of numbers, then (from the bottom `first` on) labels."""
    return lambda rng, shape, i: rng.integers(0, classes, shape) if i == first else rng.standard_normal(shape)


def chances(rng, shape, i):
    if i:
        return rng.integers(0, shape[0], shape)
    x = rng.uniform(0.1, 1, shape)
    return x / x.sum(1, keepdims=True)


def scalar(value):
    return np.asarray(value, np.float32)


def softmax(x, axis):
    e = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def softmax_loss(divide, axis=1, ignore=None):
    """`divide` tells the divisor from (outer, inner, valid labels)."""

    def define(x, labels):
        outer, inner = int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis + 1 :]))
        p = softmax(x, axis).reshape(outer, x.shape[axis], inner)
        labels = labels.reshape(outer, inner).astype(int)
        found = [-np.log(p[i, labels[i, j], j]) for i, j in np.ndindex(outer, inner) if labels[i, j] != ignore]
        return [scalar(sum(found) / max(1, divide(outer, inner, len(found))))]

    return define


def accuracy(top_k=1, axis=1, ignore=None):
    """BVLC's loop: a label is found if fewer than top_k other scores are as large as its own."""

    def define(x, labels):
        outer, inner = int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis + 1 :]))
        x, labels = x.reshape(outer, x.shape[axis], inner), labels.reshape(outer, inner).astype(int)
        hits, counts = np.zeros(x.shape[1]), np.zeros(x.shape[1])
        for i, j in np.ndindex(outer, inner):
            label = labels[i, j]
            if label != ignore:
                counts[label] += 1
                hits[label] += (x[i, :, j] >= x[i, label, j]).sum() - 1 < top_k
        return [scalar(hits.sum() / counts.sum()), scalar(hits / np.maximum(counts, 1))]

    return define


def hinge(power):
    def define(x, labels):
        signs = np.where(np.arange(x.shape[1])[None] == labels.reshape(-1, 1), -1, 1)
        return [scalar((np.maximum(0, 1 + signs * x.astype(np.float64)) ** power).sum() / len(x))]

    return define


def cross_entropy(ignore=None):
    def define(x, target):
        p = 1 / (1 + np.exp(-x.astype(np.float64)))
        found = -(target * np.log(p) + (1 - target) * np.log(1 - p))
        return [np.where(target.astype(int) == ignore, 0, found)]

    return define


def summed(define, divide):
    return lambda *bottoms: [scalar(define(*bottoms)[0].sum() / divide(bottoms[0]))]


def infogain(ignore=None):
    def define(x, labels, matrix):
        logs, rows = np.log(softmax(x, 1)), matrix.reshape(x.shape[1], x.shape[1])
        found = [-(rows[int(k)] * logs[i]).sum() for i, k in enumerate(labels.reshape(-1)) if k != ignore]
        return [scalar(sum(found) / max(1, len(found)))]

    return define


def infogain_map(x, labels, matrix):
    """Return the loss over scores (N, H, classes, W) and labels (N, H, W)."""
    logs, rows = np.log(softmax(x, 2)), matrix.reshape(x.shape[2], x.shape[2])
    places = np.ndindex(*labels.shape)
    found = [-(rows[int(labels[n, h, w])] * logs[n, h, :, w]).sum() for n, h, w in places]
    return [scalar(np.mean(found))]


def contrastive(legacy):
    def define(a, b, same):
        total = 0.0
        for x, y, alike in zip(a.astype(np.float64), b, same.reshape(-1).astype(int), strict=True):
            square = ((x - y) ** 2).sum()
            apart = max(0, 2 - square) if legacy else max(0, 2 - np.sqrt(square)) ** 2
            total += square if alike else apart
        return [scalar(total / len(a) / 2)]

    return define


def smooth_l1(sigma=1.0):
    def define(x, y, inside=1.0, outside=1.0):
        d = np.abs((x.astype(np.float64) - y) * inside)
        found = np.where(d < 1 / sigma**2, 0.5 * sigma**2 * d**2, d - 0.5 / sigma**2)
        return [scalar((found * outside).sum() / len(x))]

    return define


OF_FIVE = labelled(5)


def case(kind, settings, bottoms, define, make=OF_FIVE, tops=((),), **more):
    return Case(kind, settings, list(bottoms), list(tops), define, make, tolerance=5e-6, **more)


def euclidean(x, y):
    return [scalar(((x.astype(np.float64) - y.reshape(x.shape)) ** 2).sum() / len(x) / 2)]


CASES = [
    case("SoftmaxWithLoss", "", [SCORES, LABELS], softmax_loss(lambda o, i, v: v)),
    case("SoftmaxWithLoss", "", [MAP, MAP_LABELS], softmax_loss(lambda o, i, v: v), name="SoftmaxWithLoss-map"),
    case(
        "SoftmaxWithLoss",
        "loss_param { ignore_label: 2 }",
        [MAP, MAP_LABELS],
        softmax_loss(lambda o, i, v: v, ignore=2),
    ),
    case(
        "SoftmaxWithLoss",
        "loss_param { ignore_label: 2 normalize: false }",
        [MAP, MAP_LABELS],
        softmax_loss(lambda o, i, v: o, ignore=2),
    ),
    case(
        "SoftmaxWithLoss",
        "loss_param { ignore_label: 255 normalization: FULL }",
        [MAP, MAP_LABELS],
        softmax_loss(lambda o, i, v: o * i),
    ),
    case("SoftmaxWithLoss", "loss_param { normalization: NONE }", [MAP, MAP_LABELS], softmax_loss(lambda o, i, v: 1)),
    case(
        "SoftmaxWithLoss",
        "softmax_param { axis: 2 } loss_param { normalization: BATCH_SIZE }",
        [(2, 3, 5, 4), (2, 3, 4)],
        softmax_loss(lambda o, i, v: o, axis=2),
    ),
    case(
        "SoftmaxWithLoss",
        "loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 16 }",
        [SCORES, LABELS],
        softmax_loss(lambda o, i, v: 16),
    ),
    case(
        "SoftmaxWithLoss",
        "loss_weight: 1 loss_weight: 0",
        [MAP, MAP_LABELS],
        lambda x, y: [*softmax_loss(lambda o, i, v: v)(x, y), softmax(x, 1).astype(np.float32)],
        tops=[(), MAP],
        name="SoftmaxWithLoss-and its probabilities",
    ),
    case("EuclideanLoss", "", [SCORES, SCORES], euclidean, make=None),
    case("EuclideanLoss", "", [(4, 1), (4,)], euclidean, make=None, name="EuclideanLoss-labels of one axis"),
    case(
        "L1Loss",
        "",
        [(4, 1), (4,)],
        lambda x, y: [scalar(np.abs(x - y.reshape(x.shape)).sum() / len(x))],
        make=None,
    ),
    case("SmoothL1Loss", "", [SCORES, SCORES], smooth_l1(), make=None),
    case("SmoothL1Loss", "smooth_l1_loss_param { sigma: 3 }", [SCORES] * 4, smooth_l1(3), make=None),
    case("HingeLoss", "", [SCORES, LABELS], hinge(1)),
    case("HingeLoss", "hinge_loss_param { norm: L2 }", [SCORES, (4, 1, 1, 1)], hinge(2)),
    case("SigmoidCrossEntropyLoss", "", [SCORES, SCORES], summed(cross_entropy(), len), make=labelled(2)),
    case(
        "SigmoidCrossEntropyLoss",
        "loss_param { normalize: true }",
        [(4, 1), (4,)],
        summed(lambda x, t: cross_entropy()(x, t.reshape(x.shape)), np.size),
        make=labelled(2),
    ),
    case(
        "SigmoidCrossEntropyLoss",
        "loss_param { ignore_label: 2 }",
        [SCORES, SCORES],
        summed(cross_entropy(2), len),
        make=labelled(3),
    ),
    case(
        "MultinomialLogisticLoss",
        "",
        [SCORES, LABELS],
        lambda p, y: [scalar(-np.log(p[range(len(p)), y.astype(int)].astype(np.float64)).mean())],
        make=chances,
    ),
    case(
        "SigmoidCrossEntropyLoss",
        "loss_param { ignore_label: 0 }",
        [SCORES, SCORES],
        summed(cross_entropy(0), len),
        make=lambda rng, shape, i: rng.integers(0, 5, shape) / 4,
        name="SigmoidCrossEntropyLoss-soft targets are whole numbers where they are ignored",
    ),
    case(
        "MultinomialLogisticLoss",
        "loss_param { ignore_label: 2 }",
        [SCORES, LABELS],
        lambda p, y: [scalar(-np.log(p[range(len(p)), y.astype(int)].astype(np.float64)).mean())],
        make=chances,
    ),
    case("InfogainLoss", "", [SCORES, LABELS, (1, 1, 5, 5)], infogain(), is_bound=True),
    case(
        "InfogainLoss",
        "infogain_loss_param { axis: -2 }",
        [(2, 4, 5, 3), (2, 4, 3), (5, 5)],
        infogain_map,
        is_bound=True,
    ),
    case("InfogainLoss", "loss_param { ignore_label: 3 }", [(9, 5), (9,), (1, 1, 5, 5)], infogain(3), is_bound=True),
    case(
        "ContrastiveLoss",
        "contrastive_loss_param { margin: 2 }",
        [SCORES, SCORES, LABELS],
        contrastive(False),
        make=labelled(2, first=2),
    ),
    case(
        "ContrastiveLoss",
        "contrastive_loss_param { margin: 2 }",
        [(12, 5), (12, 5), (12,)],
        contrastive(False),
        make=lambda rng, shape, i: rng.integers(-1, 4, shape) / 2 if i == 2 else rng.standard_normal(shape),
        name="ContrastiveLoss-other labels than 0 and 1",
    ),
    case(
        "ContrastiveLoss",
        "contrastive_loss_param { margin: 2 legacy_version: true }",
        [(6, 2), (6, 2), (6, 1)],
        contrastive(True),
        make=labelled(2, first=2),
    ),
    case("Accuracy", "", [(20, 5), (20,)], lambda x, y: accuracy()(x, y)[:1]),
    case("Accuracy", "accuracy_param { top_k: 3 }", [(20, 5), (20,)], lambda x, y: accuracy(3)(x, y)[:1]),
    case(
        "Accuracy",
        "accuracy_param { ignore_label: 1 top_k: 2 }",
        [MAP, MAP_LABELS],
        accuracy(2, ignore=1),
        tops=[(), (5,)],
        is_bound=True,
    ),
    case(
        "Accuracy",
        "accuracy_param { top_k: 2 }",
        [(20, 5), (20,)],
        lambda x, y: accuracy(2)(x, y)[:1],
        make=lambda rng, shape, i: rng.integers(0, 5 if i else 3, shape),
        name="Accuracy-of equal scores",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_every_type_has_a_row():
    check_every_type_has_a_row(loss, CASES)


def test_all_say_that_they_compare_with_labels():
    assert all(find_type(case.kind).is_loss for case in CASES)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (case("EuclideanLoss", "", [(4, 2), (4, 3)], None), "equally many numbers per picture"),
        (case("EuclideanLoss", "", [(4, 2), (2, 4)], None), "(4, 2) and (2, 4): they must be of equally many pictures"),
        (case("SoftmaxWithLoss", "", [SCORES, (4, 3)], None), "labels do not fit"),
        (case("SoftmaxWithLoss", "", [SCORES, (1, 4)], None), "must be of equally many pictures"),
        (case("SoftmaxWithLoss", "", [SCORES, LABELS], None, tops=[(), SCORES]), "a loss_weight for each"),
        (case("SoftmaxWithLoss", "loss_param { weight_by_label_freqs: true }", [SCORES, LABELS], None), "for classes"),
        (case("SigmoidCrossEntropyLoss", "loss_param { class_weighting: 2 }", [SCORES] * 2, None), "for classes"),
        (case("SmoothL1Loss", "smooth_l1_loss_param { sigma: 0 }", [SCORES] * 2, None), "sigma is 0"),
        (case("SoftmaxWithLoss", "softmax_param { axis: 2 }", [SCORES, LABELS], None), "axis 2 is outside"),
        (case("SoftmaxWithLoss", "", [SCORES, LABELS, LABELS], None), "weights for pictures"),
        (case("HingeLoss", "", [(), ()], None), "without pictures"),
        (case("HingeLoss", "", [SCORES, (4, 3)], None), "labels for 4 pictures"),
        (case("ContrastiveLoss", "", [SCORES, SCORES, (3,)], None), "(3,) labels for 4 pairs"),
        (case("ContrastiveLoss", "", [(4, 3, 2, 1), (4, 3, 2, 1), LABELS], None), "have places"),
        (case("InfogainLoss", "infogain_loss_param { source: 'H.bin' }", [SCORES, LABELS], None), '"H.bin"'),
        (case("InfogainLoss", "", [SCORES, LABELS, (5, 4)], None), "its matrix is (5, 4) for 5 classes"),
        (case("Accuracy", "", [SCORES, (4, 5)], None), "labels do not fit"),
        (case("Accuracy", "", [SCORES, LABELS], None, tops=[]), "has 0 top(s), needs 1 to 2"),
        (case("Accuracy", "accuracy_param { top_k: 6 }", [SCORES, LABELS], None), "top_k 6 of 5 classes"),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(case, words, tmp_path):
    check_refusal(case, words, tmp_path)
