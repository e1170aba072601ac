"""Build step: compile proto/caffe.proto into the descriptor set that the package loads."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


def compile_descriptors(target: Path) -> None:
    """Write the compiled descriptors of proto/caffe.proto to `target`."""
    import grpc_tools.protoc

    target.parent.mkdir(parents=True, exist_ok=True)
    code = grpc_tools.protoc.main(
        ["protoc", f"--proto_path={HERE / 'proto'}", f"--descriptor_set_out={target}", "caffe.proto"]
    )
    if code:
        raise SystemExit("proto/caffe.proto does not compile")


class BuildWithDescriptors(build_py):
    """The usual build, with the descriptors compiled first; an editable install gets them in the source tree."""

    def run(self) -> None:
        root = HERE if self.editable_mode else Path(self.build_lib)
        super().run()
        compile_descriptors(root / "caffeinit" / "caffe" / "caffe.desc")


setup(cmdclass={"build_py": BuildWithDescriptors})
