from dataclasses import replace

import numpy as np
import pytest

import caffeinit
from caffeinit.caffe.layers import recurrent
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal, lower, run


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def starts(rng, shape, i):
    """Return random numbers, and for the second bottom a flag that is 0 here and there."""
    if i != 1:
        return rng.standard_normal(shape)
    return rng.uniform(size=shape) > 0.4


def fractions(rng, shape, i):
    """Return random numbers, for the second bottom between 0 and 1, and 0 here and there."""
    return rng.standard_normal(shape) if i != 1 else rng.uniform(size=shape) * (rng.uniform(size=shape) > 0.3)


def lstm_step(gates, cell, cont):
    i, f, o, g = np.split(gates, 4)
    cell = cont * sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def lstm(*arrays, static=False, exposed=False):
    """Run each sequence on its own, number by number in time."""
    arrays = [a.astype(np.float64) for a in arrays]
    weights = arrays[-4:] if static else [*arrays[-3:-1], None, arrays[-1]]
    x, cont = arrays[:2]
    extra = arrays[2] if static else None
    first = arrays[2 + static : 4 + static] if exposed else None
    steps, batch = cont.shape
    size = weights[3].shape[1]
    top = np.zeros((steps, batch, size))
    last = np.zeros((2, 1, batch, size))
    for n in range(batch):
        hidden, cell = (first[0][0, n], first[1][0, n]) if exposed else (np.zeros(size), np.zeros(size))
        for t in range(steps):
            gates = weights[0] @ x[t, n].reshape(-1) + weights[1] + weights[3] @ (cont[t, n] * hidden)
            if static:
                gates += weights[2] @ extra[n].reshape(-1)
            hidden, cell = lstm_step(gates, cell, cont[t, n])
            top[t, n] = hidden
        last[:, 0, n] = hidden, cell
    return [a.astype(np.float32) for a in ([top, *last] if exposed else [top])]


def rnn(*arrays, static=False, exposed=False):
    arrays = [a.astype(np.float64) for a in arrays]
    weights = arrays[-6:] if static else [*arrays[-5:-3], None, *arrays[-3:]]
    x, cont = arrays[:2]
    steps, batch = cont.shape
    top = np.zeros((steps, batch, len(weights[5])))
    last = np.zeros((1, batch, len(weights[5])))
    for n in range(batch):
        hidden = arrays[2 + static][0, n] if exposed else np.zeros(len(weights[5]))
        for t in range(steps):
            inner = weights[0] @ x[t, n].reshape(-1) + weights[1] + weights[3] @ (cont[t, n] * hidden)
            hidden = np.tanh(inner + (weights[2] @ arrays[2][n].reshape(-1) if static else 0))
            top[t, n] = np.tanh(weights[4] @ hidden + weights[5])
        last[0, n] = hidden
    return [a.astype(np.float32) for a in ([top, last] if exposed else [top])]


def fork(batch):
    """Return junhyukoh's Lstm: time and sequences share axis 0."""

    def define(x, *rest):
        cont, (w_i, w_h, bias) = rest[:-3], [a.astype(np.float64) for a in rest[-3:]]
        steps, size = len(x) // batch, w_h.shape[1]
        top = np.zeros((len(x), size))
        for n in range(batch):
            hidden, cell = np.zeros(size), np.zeros(size)
            for t in range(steps):
                keep = float(cont[0].reshape(-1)[t * batch + n]) if cont else float(t > 0)
                row = x[t * batch + n].reshape(-1).astype(np.float64)
                hidden, cell = lstm_step(w_i @ row + bias + keep * (w_h @ hidden), cell, keep)
                top[t * batch + n] = hidden
        return [top.astype(np.float32)]

    return define


def unit(cell, gates, cont):
    hidden, new = np.empty_like(cell), np.empty_like(cell)
    for n in range(cell.shape[1]):
        hidden[0, n], new[0, n] = lstm_step(gates[0, n].astype(np.float64), cell[0, n], cont[0, n])
    return [new, hidden]


X, CONT = (5, 2, 3, 2), (5, 2)
SIZE = "recurrent_param { num_output: 4 }"
OPEN = "recurrent_param { num_output: 4 expose_hidden: true }"
STATE, TOP = (1, 2, 4), (5, 2, 4)
CASES = [
    Case("LSTM", SIZE, [X, CONT], [TOP], lstm, starts, [(16, 6), (16,), (16, 4)], is_bound=True),
    Case(
        "LSTM",
        SIZE,
        [X, CONT, (2, 7)],
        [TOP],
        lambda *a: lstm(*a, static=True),
        starts,
        [(16, 6), (16,), (16, 7), (16, 4)],
        is_bound=True,
        name="LSTM-static input",
    ),
    Case(
        "LSTM",
        OPEN,
        [X, CONT, (2, 7), STATE, STATE],
        [TOP, STATE, STATE],
        lambda *a: lstm(*a, static=True, exposed=True),
        starts,
        [(16, 6), (16,), (16, 7), (16, 4)],
        is_bound=True,
        name="LSTM-static input and state",
    ),
    Case("RNN", SIZE, [X, CONT], [TOP], rnn, starts, [(4, 6), (4,), (4, 4), (4, 4), (4,)], is_bound=True),
    Case(
        "RNN",
        OPEN,
        [X, CONT, (2, 7), STATE],
        [TOP, STATE],
        lambda *a: rnn(*a, static=True, exposed=True),
        starts,
        [(4, 6), (4,), (4, 7), (4, 4), (4, 4), (4,)],
        is_bound=True,
        name="RNN-static input and state",
    ),
    Case(
        "Lstm",
        "lstm_param { num_output: 4 clipping_threshold: 0.1 }",
        [(6, 3)],
        [(6, 4)],
        fork(1),
        None,
        [(16, 3), (16, 4), (16,)],
        is_bound=True,
    ),
    Case(
        "Lstm",
        "lstm_param { num_output: 4 batch_size: 2 }",
        [(6, 3), (6,)],
        [(6, 4)],
        fork(2),
        starts,
        [(16, 3), (16, 4), (16,)],
        is_bound=True,
    ),
    Case(
        "LSTMUnit",
        "",
        [(1, 3, 4), (1, 3, 16), (1, 3)],
        [(1, 3, 4)] * 2,
        unit,
        lambda rng, shape, i: [[1, 0, 1]] if i == 2 else rng.standard_normal(shape),
        is_bound=True,
    ),
]
CASES += [
    replace(CASES[index], make=make, name=f"{CASES[index].kind}-that keeps a part of its state")
    for index, make in (
        (0, fractions),
        (3, fractions),
        (6, fractions),
        (7, lambda rng, shape, i: [[0.5, 0, 2]] if i == 2 else rng.standard_normal(shape)),
    )
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_time_is_never_taken_for_the_batch(tmp_path):
    case = CASES[5]
    found = case.infer(tmp_path)
    assert not lower(found, case.arrays(found)).batch_axis_free


def test_a_graph_for_some_steps_refuses_others(tmp_path):
    case = CASES[0]
    found = case.infer(tmp_path)
    graph = lower(found, case.arrays(found))
    graph.outputs = ["out0"]
    x, cont = case.values([(6, 2, 3, 2), (6, 2)])
    with pytest.raises(Exception, match=r'input "in0" has other extents; index: 0 Got: 6 Expected: 5'):
        run(graph, {"in0": x, "in1": cont})


def test_every_type_has_a_row():
    check_every_type_has_a_row(recurrent, CASES)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("LSTM", SIZE, [X, (5, 3)], [TOP]), "second bottom must be (5, 2)"),
        (Case("RNN", SIZE, [(5, 2), (5, 2)], [TOP]), "first bottom must be (steps, sequences, ...), got (5, 2)"),
        (Case("LSTM", OPEN, [X, CONT], [TOP, STATE, STATE]), "2 exposed states"),
        (Case("LSTM", "", [X, CONT], [TOP]), "num_output is not given"),
        (Case("RNN", SIZE, [(5000, 2, 1), (5000, 2)], [TOP]), "too many to unroll"),
        (Case("LSTMUnit", "", [(1, 3, 4), (1, 3, 15), (1, 3)], [(1, 3, 4)] * 2), "got (1, 3, 4), (1, 3, 15)"),
        (Case("Lstm", "lstm_param { num_output: 4 batch_size: 4 }", [(6, 3)], [TOP]), "batch_size 4 does not divide 6"),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(case, words, tmp_path):
    check_refusal(case, words, tmp_path)


def test_units_of_one_layer_are_told_apart_by_their_blobs(tmp_path):
    """In a table "(weight)" would tell nothing: each has one. Blobs have the numbers that Caffe's own net.params gives."""
    dims = {"x": "dim: 3 dim: 2 dim: 4", "cont": "dim: 3 dim: 2"}
    text = "".join(
        f'layer {{ name: "{n}" type: "Input" top: "{n}" input_param {{ shape {{ {d} }} }} }}\n' for n, d in dims.items()
    )
    text += 'layer { name: "rnn" type: "RNN" bottom: "x" bottom: "cont" top: "y" recurrent_param { num_output: 5 } }'
    (tmp_path / "net.prototxt").write_text(text)
    units = caffeinit.load(tmp_path / "net.prototxt").units
    assert [(u.name, u.layer) for u in units] == [("rnn", "rnn"), ("rnn (blob 3)", "rnn")]
