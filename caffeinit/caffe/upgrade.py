"""Nets of 2013 (V0) and 2014 (V1) in today's form, by the rules of Caffe's own upgrade.

V0 keeps all parameters of a layer in one flat message and pads by layers of their own; V1 has enum types and parameter
names and rates in separate lists. The input fields of a net become an Input layer.
Source: BVLC/caffe, src/caffe/util/upgrade_proto.cpp.
"""

from __future__ import annotations

from typing import Any

from caffeinit.errors import FormatError
from caffeinit.protos import schema

# V1's enum in today's spelling, where taking the underscores out is not enough.
_V1_TYPES = {
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "BN": "BN",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "IM2COL": "Im2col",
    "LRN": "LRN",
    "LSTM": "LSTM",
    "MVN": "MVN",
    "PRELU": "PReLU",
    "RELU": "ReLU",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPP": "SPP",
    "TANH": "TanH",
}
_V0_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "eltwise_product": "ELTWISE",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "power": "POWER",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}
# V0 field -> where it belongs: for each V1 type, message and field.
_V0_FIELDS: dict[str, dict[str, str]] = {
    "num_output": {"conv": "convolution_param.num_output", "innerproduct": "inner_product_param.num_output"},
    "biasterm": {"conv": "convolution_param.bias_term", "innerproduct": "inner_product_param.bias_term"},
    "weight_filler": {"conv": "convolution_param.weight_filler", "innerproduct": "inner_product_param.weight_filler"},
    "bias_filler": {"conv": "convolution_param.bias_filler", "innerproduct": "inner_product_param.bias_filler"},
    "pad": {"conv": "convolution_param.pad", "pool": "pooling_param.pad"},
    "kernelsize": {"conv": "convolution_param.kernel_size", "pool": "pooling_param.kernel_size"},
    "group": {"conv": "convolution_param.group"},
    "stride": {"conv": "convolution_param.stride", "pool": "pooling_param.stride"},
    "pool": {"pool": "pooling_param.pool"},
    "dropout_ratio": {"dropout": "dropout_param.dropout_ratio"},
    "local_size": {"lrn": "lrn_param.local_size"},
    "alpha": {"lrn": "lrn_param.alpha"},
    "beta": {"lrn": "lrn_param.beta"},
    "k": {"lrn": "lrn_param.k"},
    "source": {
        "data": "data_param.source",
        "hdf5_data": "hdf5_data_param.source",
        "images": "image_data_param.source",
        "window_data": "window_data_param.source",
        "infogain_loss": "infogain_loss_param.source",
    },
    "scale": dict.fromkeys(("data", "images", "window_data"), "transform_param.scale"),
    "meanfile": dict.fromkeys(("data", "images", "window_data"), "transform_param.mean_file"),
    "cropsize": dict.fromkeys(("data", "images", "window_data"), "transform_param.crop_size"),
    "mirror": dict.fromkeys(("data", "images", "window_data"), "transform_param.mirror"),
    "batchsize": {
        "data": "data_param.batch_size",
        "hdf5_data": "hdf5_data_param.batch_size",
        "images": "image_data_param.batch_size",
        "window_data": "window_data_param.batch_size",
    },
    "rand_skip": {"data": "data_param.rand_skip", "images": "image_data_param.rand_skip"},
    "shuffle_images": {"images": "image_data_param.shuffle"},
    "new_height": {"images": "image_data_param.new_height"},
    "new_width": {"images": "image_data_param.new_width"},
    "concat_dim": {"concat": "concat_param.concat_dim"},
    "hdf5_output_param": {"hdf5_output": "hdf5_output_param"},
    "det_fg_threshold": {"window_data": "window_data_param.fg_threshold"},
    "det_bg_threshold": {"window_data": "window_data_param.bg_threshold"},
    "det_fg_fraction": {"window_data": "window_data_param.fg_fraction"},
    "det_context_pad": {"window_data": "window_data_param.context_pad"},
    "det_crop_mode": {"window_data": "window_data_param.crop_mode"},
}
_TRANSFORM_FIELDS = ("scale", "mean_file", "crop_size", "mirror")
_V1_FIELDS = frozenset(
    "name type bottom top include exclude loss_weight blobs param blob_share_mode blobs_lr weight_decay layer".split()
)
_DATA_PARAMS = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}


def generation(net: Any) -> str:
    """Return "V0", "V1" or "V2" for a NetParameter as it was read."""
    if any(entry.HasField("layer") for entry in net.layers):
        return "V0"
    return "V1" if net.layers else "V2"


def upgrade_net(net: Any) -> Any:
    """Return a NetParameter in today's form; the one given is left as it is.

    Raises:
        FormatError: a layer's V0 or V1 type is not known, or the net mixes generations.
    """
    new = schema.message("NetParameter")()
    new.CopyFrom(net)
    if net.layers and net.layer:
        raise FormatError('the net has both "layers" (2014) and "layer" (today) entries; Caffe reads one or the other')
    old = _fold_padding(list(net.layers)) if generation(net) == "V0" else list(net.layers)
    del new.layers[:]
    for entry in old:
        _from_v1(_from_v0(entry) if entry.HasField("layer") else entry, new.layer.add())
    for layer in new.layer:
        _move_transform(layer)
        if layer.type == "BatchNorm" and len(layer.param) >= 3:
            # The running sums are no parameters: Caffe switches their training off whatever the file says.
            for spec in layer.param:
                spec.lr_mult, spec.decay_mult = 0, 0
    _inputs_to_layer(new)
    return new


def entry_places(net: Any, new: Any) -> list[int | None]:
    """Return for each layer of an upgraded net the number of the entry that it was made from; None for a made one."""
    padding = [entry.layer.type == "padding" for entry in net.layers]
    places: list[int | None] = [i for i in range(len(net.layers or net.layer)) if not (padding and padding[i])]
    return [*[None] * (len(new.layer) - len(places)), *places]


def field_in_text(generation: str, kind: str, name: str) -> str:
    """Return the dotted name that a layer's field has in the entries of a text of this generation.

    Raises:
        FormatError: it has none in V0.
    """
    if generation != "V0":
        return name
    old = v0_name(kind)
    found = next((field for field, places in _V0_FIELDS.items() if places.get(old) == name), None)
    if found is None:
        raise FormatError(f"V0 layers of type {old} have no {name}; upgrade the net first: caffeinit upgrade")
    return f"layer.{found}"


def left_behind(net: Any) -> list[str]:
    """Return what of a V0 or V1 net has no place in today's form, as `layer "NAME" (TYPE): FIELD`."""
    lost = []
    for entry in net.layers:
        old, kind = entry.layer, entry.layer.type
        if entry.HasField("layer"):
            kept = {n for n, places in _V0_FIELDS.items() if kind in places or (n, kind) == ("pad", "padding")}
            kept |= {"name", "type", "blobs", "blobs_lr", "weight_decay"}
            names = [f.name for f, _ in old.ListFields() if f.name not in kept]
            names += [f.name for f, _ in entry.ListFields() if f.name not in ("layer", "bottom", "top")]
        else:
            old, kind = entry, v1_type(entry.type)
            fields = [f.name for f, _ in entry.ListFields()]
            names = [n for n in fields if n not in _V1_FIELDS and not n.endswith("_param")]
        lost += [f'layer "{old.name}" ({kind}): {name}' for name in names]
    return lost


def _fold_padding(entries: list[Any]) -> list[Any]:
    """Turn V0's padding layers into the pad of the layers that read them."""
    padding = {e.top[0]: e for e in entries if e.layer.type == "padding" and e.top}
    kept = []
    for entry in entries:
        if entry.layer.type == "padding":
            continue
        copy = type(entry)()
        copy.CopyFrom(entry)
        for index, bottom in enumerate(entry.bottom):
            if bottom in padding:
                if entry.layer.type not in ("conv", "pool"):
                    raise FormatError(
                        f'layer "{entry.layer.name}" ({entry.layer.type}) reads the padding layer '
                        f'"{padding[bottom].layer.name}"; only conv and pool can take up padding'
                    )
                source = padding[bottom]
                if len(entry.bottom) != 1 or len(source.bottom) != 1 or len(source.top) != 1:
                    raise FormatError(
                        f'layer "{entry.layer.name}" ({entry.layer.type}) reads the padding layer "{source.layer.name}": '
                        "both must have one bottom, and the padding one top"
                    )
                copy.bottom[index] = source.bottom[0]
                copy.layer.pad = padding[bottom].layer.pad
        kept.append(copy)
    return kept


def _from_v0(entry: Any) -> Any:
    old = entry.layer
    new = schema.message("V1LayerParameter")()
    new.bottom.extend(entry.bottom)
    new.top.extend(entry.top)
    new.name = old.name
    if old.type not in _V0_TYPES:
        raise FormatError(f'layer "{old.name}": there is no V0 layer type "{old.type}"')
    new.type = schema.message("V1LayerParameter").LayerType.Value(_V0_TYPES[old.type])
    new.blobs.extend(old.blobs)
    new.blobs_lr.extend(old.blobs_lr)
    new.weight_decay.extend(old.weight_decay)
    if old.type == "eltwise_product":
        new.eltwise_param.operation = schema.message("EltwiseParameter").PROD
    for name, places in _V0_FIELDS.items():
        if old.HasField(name) and old.type in places:
            _put(new, places[old.type], getattr(old, name))
    return new


def _put(message: Any, path: str, value: Any) -> None:
    *above, last = path.split(".")
    for name in above:
        message = getattr(message, name)
    found = message.DESCRIPTOR.fields_by_name[last]
    if found.message_type is not None:
        getattr(message, last).CopyFrom(value)
    elif found.is_repeated:
        getattr(message, last).append(value)
    else:
        setattr(message, last, value)


def _from_v1(old: Any, new: Any) -> None:
    new.name = old.name
    new.type = v1_type(old.type)
    new.bottom.extend(old.bottom)
    new.top.extend(old.top)
    new.include.extend(old.include)
    new.exclude.extend(old.exclude)
    new.loss_weight.extend(old.loss_weight)
    new.blobs.extend(old.blobs)
    lists = (old.param, old.blob_share_mode, old.blobs_lr, old.weight_decay)
    for index in range(max(map(len, lists))):
        spec = new.param.add()
        for name, values in zip(("name", "share_mode", "lr_mult", "decay_mult"), lists, strict=True):
            if index < len(values):
                setattr(spec, name, values[index])
    for found, value in old.ListFields():
        if found.name.endswith("_param"):
            getattr(new, found.name).CopyFrom(value)


def v1_type(number: int) -> str:
    """Return today's name of a V1 layer type; a number that is no type gives "unknown"."""
    kinds = schema.message("V1LayerParameter").LayerType
    return _today(kinds.Name(number)) if number in kinds.values() else "unknown"


def v1_number(kind: str) -> int:
    """Return the V1 number of a layer type in today's spelling.

    Raises:
        FormatError: V1 had no such type.
    """
    for name, number in schema.message("V1LayerParameter").LayerType.items():
        if _today(name) == kind:
            return int(number)
    raise FormatError(f"there was no layer type {kind} in V1 files; upgrade the weights file first")


def v0_type(name: str) -> str:
    """Return today's name of a V0 layer type; one that is not known stays as it is."""
    return _today(_V0_TYPES[name]) if name in _V0_TYPES else name


def v0_name(kind: str) -> str:
    """Return the V0 name of a layer type in today's spelling.

    Raises:
        FormatError: V0 had no such type.
    """
    for name in _V0_TYPES:
        if v0_type(name) == kind:
            return name
    raise FormatError(f"there was no layer type {kind} in V0 files; upgrade the weights file first")


def _today(name: str) -> str:
    return _V1_TYPES.get(name) or name.title().replace("_", "")


def _move_transform(layer: Any) -> None:
    """Move a data layer's own scale, mean, crop and mirror to where all data layers have them today."""
    name = _DATA_PARAMS.get(layer.type)
    if name is None or not layer.HasField(name):
        return
    param = getattr(layer, name)
    for entry in _TRANSFORM_FIELDS:
        if param.HasField(entry):
            setattr(layer.transform_param, entry, getattr(param, entry))
            param.ClearField(entry)


def _inputs_to_layer(net: Any) -> None:
    if not net.input:
        return
    layer = schema.message("LayerParameter")(name="input", type="Input", top=list(net.input))
    dims = [list(s.dim) for s in net.input_shape] or [
        list(net.input_dim[i : i + 4]) for i in range(0, len(net.input_dim), 4)
    ]
    if not net.input_shape and len(net.input_dim) % 4:
        raise FormatError(
            f"input_dim is given {len(net.input_dim)} times: it takes four for an input; others: input_shape"
        )
    if dims and len(dims) != len(net.input):
        raise FormatError(f"the net has {len(net.input)} inputs, but {len(dims)} input shapes")
    for shape in dims:
        layer.input_param.shape.add(dim=shape)
    rest = list(net.layer)
    del net.layer[:]
    net.layer.extend([layer, *rest])
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)
