import numpy as np
import pytest

import caffeinit
from caffeinit.caffe.layers import roi
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal


def regions(rng, shape, i):
    """Return random numbers, and for the second bottom boxes in a picture of 16 times (h, w) = (9, 11)."""
    if i == 0:
        return rng.standard_normal(shape)
    x, y = np.sort(rng.uniform(0, 176, (shape[0], 2))), np.sort(rng.uniform(0, 144, (shape[0], 2)))
    # The first covers one place, the second hangs over the far edge.
    x[0], y[0], x[1], y[1] = (50, 50.5), (60, 60.2), (100, 300), (90, 220)
    pictures = rng.integers(0, 2, shape[0])
    return np.stack([pictures, x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).reshape(shape)


def max_pooled(height, width, scale):
    def define(x, boxes):
        boxes = boxes.reshape(-1, 5)
        top = np.zeros((len(boxes), x.shape[1], height, width), np.float32)
        for r, (n, *corners) in enumerate(boxes):
            left, upper, right, lower = (int(np.floor(c * scale + 0.5)) for c in corners)
            step_h, step_w = max(lower - upper + 1, 1) / height, max(right - left + 1, 1) / width
            for i, j in np.ndindex(height, width):
                rows = [
                    int(np.clip(e + upper, 0, x.shape[2])) for e in (np.floor(i * step_h), np.ceil((i + 1) * step_h))
                ]
                columns = [
                    int(np.clip(e + left, 0, x.shape[3])) for e in (np.floor(j * step_w), np.ceil((j + 1) * step_w))
                ]
                part = x[int(n), :, rows[0] : rows[1], columns[0] : columns[1]]
                top[r, :, i, j] = part.max(axis=(1, 2)) if part.size else 0
        return [top]

    return define


def position_sensitive(channels, bins, scale):
    def define(x, boxes):
        boxes = boxes.reshape(-1, 5)
        top = np.zeros((len(boxes), channels, bins, bins), np.float32)
        one = np.float32
        for r, (n, *corners) in enumerate(boxes):
            left, upper = (one(np.floor(c + 0.5)) * one(scale) for c in corners[:2])
            right, lower = (one(np.floor(c + 0.5) + 1) * one(scale) for c in corners[2:])
            step_h, step_w = max(lower - upper, one(0.1)) / one(bins), max(right - left, one(0.1)) / one(bins)
            for c, i, j in np.ndindex(channels, bins, bins):
                rows = [
                    int(np.clip(f(step_h * one(k) + upper), 0, x.shape[2]))
                    for f, k in ((np.floor, i), (np.ceil, i + 1))
                ]
                columns = [
                    int(np.clip(f(step_w * one(k) + left), 0, x.shape[3])) for f, k in ((np.floor, j), (np.ceil, j + 1))
                ]
                part = x[int(n), (c * bins + i) * bins + j, rows[0] : rows[1], columns[0] : columns[1]]
                top[r, c, i, j] = part.astype(np.float64).mean() if part.size else 0
        return [top]

    return define


CASES = [
    Case(
        "ROIPooling",
        "roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.0625 }",
        [(2, 4, 9, 11), (12, 5)],
        [(12, 4, 3, 2)],
        max_pooled(3, 2, 0.0625),
        regions,
        is_bound=True,
    ),
    Case(
        "ROIPooling",
        "roi_pooling_param { pooled_h: 1 pooled_w: 4 spatial_scale: 0.0625 }",
        [(2, 4, 9, 11), (12, 5, 1, 1)],
        [(12, 4, 1, 4)],
        max_pooled(1, 4, 0.0625),
        regions,
        is_bound=True,
    ),
    Case(
        "PSROIPooling",
        "psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 0.0625 }",
        [(2, 18, 9, 11), (12, 5)],
        [(12, 2, 3, 3)],
        position_sensitive(2, 3, 0.0625),
        regions,
        is_bound=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_the_gradient_of_position_sensitive_pooling_is_its_slope(tmp_path):
    case = CASES[-1]
    path = tmp_path / "net.prototxt"
    path.write_text(case.text())
    net = caffeinit.load(path, input_shapes={f"in{i}": shape for i, shape in enumerate(case.bottoms)})
    (x, boxes), (step, _) = case.values(), case.values(seed=3)
    low, high = (net.forward({"in0": v, "in1": boxes})["out0"] for v in (x, x + step))
    diff = np.random.default_rng(4).standard_normal(low.shape, np.float32)
    found = net.backward({"in0": x, "in1": boxes}, {"out0": diff}, ["in0"])
    # The top is linear in the first bottom: the difference is exact but for rounding.
    slope = float(((high - low) * diff).sum())
    assert slope == pytest.approx(float((found.inputs["in0"] * step).sum()), rel=1e-4)


def test_every_type_has_a_row():
    check_every_type_has_a_row(roi, CASES)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            Case("ROIPooling", "roi_pooling_param { pooled_h: 3 pooled_w: 2 }", [(1, 2, 3, 4), (5, 4)], [()]),
            "5 numbers each",
        ),
        (Case("ROIPooling", "", [(1, 2, 3, 4), (5, 5)], [()]), "pooled_h and pooled_w"),
        (
            Case("PSROIPooling", "psroi_pooling_param { output_dim: 2 group_size: 3 }", [(1, 17, 3, 4), (5, 5)], [()]),
            "output_dim 2 x group_size 3 squared",
        ),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(case, words, tmp_path):
    check_refusal(case, words, tmp_path)
