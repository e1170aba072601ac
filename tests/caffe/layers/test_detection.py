"""PriorBox and DetectionOutput against the algorithm of the SSD fork, box by box."""

import numpy as np
import pytest

from caffeinit.caffe.layers import detection, priorbox
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal, lower, run


def boxes(mins, maxes=(), ratios=(1.0,), variance=(0.1,), offset=0.5, step=None, size=None, clip=False):
    """Return Caffe's loop; `ratios` as they come out of flipping and leaving out repeated ones."""

    def define(data, picture):
        (h, w), (height, width) = data.shape[2:], size or picture.shape[2:]
        step_h, step_w = step or (height / h, width / w)
        found = []
        for i, j in np.ndindex(h, w):
            x, y = (j + offset) * step_w, (i + offset) * step_h
            for k, least in enumerate(mins):
                extents = [(least, least)]
                if maxes:
                    extents.append((np.sqrt(least * maxes[k]),) * 2)
                extents += [(least * np.sqrt(r), least / np.sqrt(r)) for r in ratios if r != 1]
                for a, b in extents:
                    found += [(x - a / 2) / width, (y - b / 2) / height, (x + a / 2) / width, (y + b / 2) / height]
        found = np.clip(found, 0, 1) if clip else np.asarray(found)
        spread = np.tile(variance, len(found) // len(variance))
        return [np.stack([found, spread])[None].astype(np.float32)]

    return define


PRIORS = [
    Case(
        "PriorBox",
        "prior_box_param { min_size: 30 max_size: 60 aspect_ratio: 2 aspect_ratio: 2 variance: [0.1, 0.1, 0.2, 0.2] }",
        [(2, 4, 3, 5), (2, 3, 40, 60)],
        [(1, 2, 3 * 5 * 4 * 4)],
        boxes((30,), (60,), (1.0, 2.0, 0.5), (0.1, 0.1, 0.2, 0.2)),
    ),
    Case(
        "PriorBox",
        "prior_box_param { min_size: 16.7 min_size: 32 clip: true step: 16 offset: 0.25 }",
        [(2, 4, 3, 5), (2, 3, 40, 60)],
        [(1, 2, 3 * 5 * 2 * 4)],
        boxes((16, 32), offset=0.25, step=(16, 16), clip=True),
    ),
    Case(
        "PriorBox",
        "prior_box_param { min_size: 30.2 max_size: 30.6 img_size: 50 }",
        [(1, 4, 3, 5), (1, 3, 40, 60)],
        [(1, 2, 3 * 5 * 2 * 4)],
        boxes((30,), (30,), size=(50, 50)),
    ),
    Case(
        "PriorBox",
        "prior_box_param { min_size: 10 min_size: 20 max_size: 15 max_size: 25 aspect_ratio: 3 flip: false"
        " variance: 0.3 img_h: 80 img_w: 50 step_h: 7 step_w: 9 }",
        [(1, 4, 3, 5), (1, 3, 40, 60)],
        [(1, 2, 3 * 5 * 6 * 4)],
        boxes((10, 20), (15, 25), (1.0, 3.0), (0.3,), step=(7, 9), size=(80, 50)),
    ),
]


@pytest.mark.parametrize("case", PRIORS, ids=str)
def test_prior_boxes_are_those_of_the_loop(case, tmp_path):
    check_case(case, tmp_path)


def test_every_type_has_a_row():
    check_every_type_has_a_row(priorbox, PRIORS)
    check_every_type_has_a_row(detection, [CASE])


BOXES, CLASSES = 40, 4
CASE = Case(
    "DetectionOutput", "", [(3, BOXES * 4), (3, BOXES * CLASSES), (1, 2, BOXES * 4)], [(1, 1, 1, 7)], is_bound=True
)


def overlap(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    if np.any(high <= low):
        return 0.0
    shared = np.prod(high - low)
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def decoded(location, prior, code, encoded):
    given, variance = prior[0].reshape(2, -1, 4)
    found = []
    for change, box, spread in zip(location.reshape(-1, 4), given, variance, strict=True):
        change = change if encoded else change * spread
        size, centre = box[2:] - box[:2], (box[:2] + box[2:]) / 2
        if code == "CORNER":
            found.append(box + change)
        elif code == "CORNER_SIZE":
            found.append(box + change * np.tile(size, 2))
        else:
            middle, half = centre + change[:2] * size, np.exp(change[2:]) * size / 2
            found.append(np.concatenate([middle - half, middle + half]))
    return np.asarray(found)


def detections(location, confidence, prior, code, encoded, threshold, nms, top_k, keep, background):
    """Return the rows of the SSD fork."""
    rows = []
    for n in range(len(location)):
        corners = decoded(location[n], prior, code, encoded)
        kept = []
        for c in range(CLASSES):
            if c == background:
                continue
            scores = confidence[n].reshape(BOXES, CLASSES)[:, c]
            order = [b for b in np.argsort(-scores, kind="stable") if scores[b] > threshold][:top_k]
            left = []
            for b in order:
                if all(overlap(corners[b], corners[o]) <= nms for o in left):
                    left.append(b)
            kept += [(scores[b], c, b) for b in left]
        if keep is not None:
            best = sorted(kept, reverse=True)[:keep]
            kept = [k for k in kept if k in best]
        rows += [[n, c, s, *corners[b]] for s, c, b in kept]
    if not rows:
        rows = [[n, *[-1] * 6] for n in range(len(location))]
    return np.asarray(rows, np.float32)[None, None]


def predictions(seed=0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.7, (BOXES, 2))
    prior = np.concatenate([low, low + rng.uniform(0.1, 0.3, (BOXES, 2))], axis=1).reshape(-1)
    prior = np.stack([prior, np.tile([0.1, 0.1, 0.2, 0.2], BOXES)])[None].astype(np.float32)
    location = rng.standard_normal((3, BOXES * 4)).astype(np.float32)
    confidence = rng.uniform(0, 1, (3, BOXES * CLASSES)).astype(np.float32)
    return location, confidence, prior


@pytest.mark.parametrize("code", ["CORNER", "CENTER_SIZE", "CORNER_SIZE"])
@pytest.mark.parametrize(
    ("encoded", "threshold", "nms", "top_k", "keep", "background"),
    [
        (False, 0.3, 0.45, None, None, 0),
        (False, 0.3, 0.2, 6, None, 0),
        (True, 0.5, 0.3, 10, 7, 2),
        (False, None, 0.9, 20, 5, -1),
        (False, 2.0, 0.45, None, None, 0),
        (False, 0.985, 0.45, None, 9, 0),
    ],
)
def test_detections_are_those_of_the_fork(code, encoded, threshold, nms, top_k, keep, background, tmp_path):
    nms_param = f"nms_threshold: {nms}" + (f" top_k: {top_k}" if top_k else "")
    settings = f"num_classes: {CLASSES} code_type: {code} background_label_id: {background} nms_param {{ {nms_param} }}"
    settings += f" variance_encoded_in_target: {str(encoded).lower()}"
    settings += f" confidence_threshold: {threshold}" if threshold is not None else ""
    settings += f" keep_top_k: {keep}" if keep else ""
    case = Case("DetectionOutput", f"detection_output_param {{ {settings} }}", CASE.bottoms, CASE.tops)
    found = case.infer(tmp_path)
    assert found.shapes["out0"] == (1, 1, 1, 7)
    graph = lower(found, [])
    graph.outputs = ["out0"]
    location, confidence, prior = predictions()
    least = -np.inf if threshold is None else threshold
    expected = detections(location, confidence, prior, code, encoded, least, nms, top_k, keep, background)
    got = run(graph, {"in0": location, "in1": confidence, "in2": prior})["out0"]
    assert got.shape == expected.shape
    # Corners lie between -1 and 2 and are a few single-precision operations from the priors.
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("PriorBox", "", PRIORS[0].bottoms, [()]), "min_size is not given"),
        (
            Case("PriorBox", "prior_box_param { min_size: 9 max_size: 8 }", PRIORS[0].bottoms, [()]),
            "not above min_size 9",
        ),
        (
            Case("PriorBox", "prior_box_param { min_size: 9 variance: [0.1, 0.2] }", PRIORS[0].bottoms, [()]),
            "one or four",
        ),
        *(
            (Case("PriorBox", f"prior_box_param {{ min_size: {settings} }}", PRIORS[0].bottoms, [()]), words)
            for settings, words in (
                ("0", "min_size is 0, must be above 0"),
                ("9 variance: [0.1, 0.1, 0, 0.2]", "variance is 0, must be above 0"),
                ("9 img_h: 9", "gives img_h; there must be img_size alone, or img_h and img_w"),
                ("9 step: 1 step_h: 2 step_w: 2", "gives step and step_h and step_w"),
                ("9 step: 0", "step must be above 0"),
            )
        ),
        *(
            (Case("DetectionOutput", f"detection_output_param {{ num_classes: 4 {more} }}", CASE.bottoms, [()]), words)
            for more, words in (
                ("nms_param { nms_threshold: -1 }", "nms_threshold is -1"),
                ("nms_param { top_k: 0 }", "keep_top_k or top_k is 0"),
                ("keep_top_k: 0", "keep_top_k or top_k is 0"),
            )
        ),
        (
            Case("DetectionOutput", "detection_output_param { num_classes: 2 }", [(1, 8), (2, 4), (1, 2, 8)], [()]),
            "not of equally many pictures",
        ),
        (
            Case("DetectionOutput", "detection_output_param { num_classes: 2 }", [(1, 2, 4), (1, 4), (1, 2, 8)], [()]),
            "2 prior boxes ask for 8 locations and 4 scores on axis 1, got (1, 2, 4)",
        ),
        (Case("DetectionOutput", "", CASE.bottoms, [()]), "num_classes is not given"),
        (
            Case("DetectionOutput", "detection_output_param { num_classes: 5 }", CASE.bottoms, [()]),
            "ask for 160 locations",
        ),
        (
            Case(
                "DetectionOutput", "detection_output_param { num_classes: 4 share_location: false }", CASE.bottoms, [()]
            ),
            "share_location: false",
        ),
        (
            Case(
                "DetectionOutput",
                "detection_output_param { num_classes: 4 nms_param { eta: 0.9 } }",
                CASE.bottoms,
                [()],
            ),
            "eta 0.9",
        ),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(case, words, tmp_path):
    check_refusal(case, words, tmp_path)
