"""The nets that tools/bench measures, as prototxt texts."""

from __future__ import annotations

from collections.abc import Callable

FILLER = 'weight_filler { type: "xavier" }'


class Text:
    """Writes a prototxt layer by layer."""

    def __init__(self, name: str, shape: tuple[int, int, int]) -> None:
        dims = " ".join(f"dim: {d}" for d in (16, *shape))
        self.lines = [f'name: "{name}"']
        self.lines.append(f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}')

    def layer(self, kind: str, name: str, bottoms: str | list[str], param: str = "", top: str = "") -> str:
        bottoms = [bottoms] if isinstance(bottoms, str) else bottoms
        read = " ".join(f'bottom: "{b}"' for b in bottoms)
        self.lines.append(f'layer {{ name: "{name}" type: "{kind}" {read} top: "{top or name}" {param} }}')
        return top or name

    def conv(self, x: str, name: str, outputs: int, kernel: int, more: str = "", relu: bool = True) -> str:
        param = f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} {more} {FILLER} }}"
        x = self.layer("Convolution", name, x, param)
        return self.layer("ReLU", f"{name}_relu", x, top=x) if relu else x

    def pool(self, x: str, name: str, param: str) -> str:
        return self.layer("Pooling", name, x, f"pooling_param {{ {param} }}")

    def product(self, x: str, name: str, outputs: int, relu: bool = True) -> str:
        x = self.layer("InnerProduct", name, x, f"inner_product_param {{ num_output: {outputs} {FILLER} }}")
        return self.layer("ReLU", f"{name}_relu", x, top=x) if relu else x

    def normal(self, x: str, name: str, relu: bool = True) -> str:
        x = self.layer("BatchNorm", f"{name}_bn", x, top=x)
        x = self.layer("Scale", f"{name}_scale", x, "scale_param { bias_term: true }", top=x)
        return self.layer("ReLU", f"{name}_relu", x, top=x) if relu else x

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


def caffenet() -> Text:
    t = Text("CaffeNet", (3, 227, 227))
    lrn = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
    x = t.pool(t.conv("data", "conv1", 96, 11, "stride: 4"), "pool1", "kernel_size: 3 stride: 2")
    x = t.conv(t.layer("LRN", "norm1", x, lrn), "conv2", 256, 5, "pad: 2 group: 2")
    x = t.layer("LRN", "norm2", t.pool(x, "pool2", "kernel_size: 3 stride: 2"), lrn)
    x = t.conv(x, "conv3", 384, 3, "pad: 1")
    x = t.conv(x, "conv4", 384, 3, "pad: 1 group: 2")
    x = t.conv(x, "conv5", 256, 3, "pad: 1 group: 2")
    x = t.product(t.pool(x, "pool5", "kernel_size: 3 stride: 2"), "fc6", 4096)
    t.product(t.product(x, "fc7", 4096), "fc8", 1000, relu=False)
    return t


def vgg16() -> Text:
    t, x = Text("VGG16", (3, 224, 224)), "data"
    for stage, (outputs, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for number in range(1, count + 1):
            x = t.conv(x, f"conv{stage}_{number}", outputs, 3, "pad: 1")
        x = t.pool(x, f"pool{stage}", "kernel_size: 2 stride: 2")
    t.product(t.product(t.product(x, "fc6", 4096), "fc7", 4096), "fc8", 1000, relu=False)
    return t


def resnet50() -> Text:
    t = Text("ResNet50", (3, 224, 224))

    def block(x: str, name: str, outputs: int, kernel: int, more: str = "", relu: bool = True) -> str:
        return t.normal(t.conv(x, name, outputs, kernel, f"bias_term: false {more}", relu=False), name, relu)

    x = t.pool(block("data", "conv1", 64, 7, "pad: 3 stride: 2"), "pool1", "kernel_size: 3 stride: 2")
    for stage, (width, count) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 2):
        for number in range(count):
            name, stride = f"res{stage}{chr(97 + number)}", f"stride: {2 if stage > 2 and number == 0 else 1}"
            short = block(x, f"{name}_1", 4 * width, 1, stride, relu=False) if number == 0 else x
            y = block(block(x, f"{name}_2a", width, 1, stride), f"{name}_2b", width, 3, "pad: 1")
            y = block(y, f"{name}_2c", 4 * width, 1, relu=False)
            x = t.layer("Eltwise", name, [short, y])
            x = t.layer("ReLU", f"{name}_relu", x, top=x)
    t.product(t.pool(x, "pool5", "pool: AVE global_pooling: true"), "fc1000", 1000, relu=False)
    return t


def googlenet() -> Text:
    t = Text("GoogLeNet", (3, 224, 224))
    lrn = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
    half = "kernel_size: 3 stride: 2"
    x = t.pool(t.conv("data", "conv1", 64, 7, "pad: 3 stride: 2"), "pool1", half)
    x = t.conv(t.layer("LRN", "norm1", x, lrn), "conv2_reduce", 64, 1)
    x = t.layer("LRN", "norm2", t.conv(x, "conv2", 192, 3, "pad: 1"), lrn)
    x = t.pool(x, "pool2", half)
    widths = {
        "3a": (64, 96, 128, 16, 32, 32),
        "3b": (128, 128, 192, 32, 96, 64),
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
        "5a": (256, 160, 320, 32, 128, 128),
        "5b": (384, 192, 384, 48, 128, 128),
    }
    for name, (one, three_reduce, three, five_reduce, five, projection) in widths.items():
        branches = [
            t.conv(x, f"{name}_1x1", one, 1),
            t.conv(t.conv(x, f"{name}_3x3r", three_reduce, 1), f"{name}_3x3", three, 3, "pad: 1"),
            t.conv(t.conv(x, f"{name}_5x5r", five_reduce, 1), f"{name}_5x5", five, 5, "pad: 2"),
            t.conv(t.pool(x, f"{name}_pool", "kernel_size: 3 stride: 1 pad: 1"), f"{name}_proj", projection, 1),
        ]
        x = t.layer("Concat", name, branches)
        if name in ("3b", "4e"):
            x = t.pool(x, f"pool{name[0]}", half)
    t.product(t.pool(x, "pool5", "pool: AVE global_pooling: true"), "classifier", 1000, relu=False)
    return t


def mobilenet() -> Text:
    t = Text("MobileNet", (3, 224, 224))

    def block(x: str, name: str, outputs: int, kernel: int, more: str) -> str:
        return t.normal(t.conv(x, name, outputs, kernel, f"bias_term: false {more}", relu=False), name)

    x, width = block("data", "conv1", 32, 3, "pad: 1 stride: 2"), 32
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for number, (outputs, stride) in enumerate(plan, 2):
        x = block(x, f"conv{number}_dw", width, 3, f"pad: 1 stride: {stride} group: {width}")
        x, width = block(x, f"conv{number}_sep", outputs, 1, ""), outputs
    t.product(t.pool(x, "pool", "pool: AVE global_pooling: true"), "fc", 1000, relu=False)
    return t


def unet() -> Text:
    """A U-Net with padded convolutions, half of the published widths, and a class for each pixel."""
    t, x = Text("UNet", (3, 256, 256)), "data"
    skips = []
    for level, width in enumerate((32, 64, 128, 256), 1):
        x = t.conv(t.conv(x, f"down{level}a", width, 3, "pad: 1"), f"down{level}b", width, 3, "pad: 1")
        skips.append((level, width, x))
        x = t.pool(x, f"pool{level}", "kernel_size: 2 stride: 2")
    x = t.conv(t.conv(x, "middle_a", 512, 3, "pad: 1"), "middle_b", 512, 3, "pad: 1")
    for level, width, skip in reversed(skips):
        param = f"convolution_param {{ num_output: {width} kernel_size: 2 stride: 2 {FILLER} }}"
        x = t.layer("Concat", f"join{level}", [skip, t.layer("Deconvolution", f"raise{level}", x, param)])
        x = t.conv(t.conv(x, f"up{level}a", width, 3, "pad: 1"), f"up{level}b", width, 3, "pad: 1")
    t.conv(x, "classes", 2, 1, relu=False)
    return t


NETS: dict[str, Callable[[], Text]] = {
    "caffenet": caffenet,
    "googlenet": googlenet,
    "vgg16": vgg16,
    "resnet50": resnet50,
    "mobilenet": mobilenet,
    "unet": unet,
}
