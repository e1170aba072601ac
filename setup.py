"""Build steps: compile proto/caffe.proto into what the package loads; pack sources with all that builds and tests them."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop
from setuptools.command.sdist import sdist

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
        compile_descriptors(root / "caffeinit" / "protos" / "caffe.desc")


class EditableWithDescriptors(develop):
    """The editable install of a pip before 23.1, which builds nothing."""

    def run(self) -> None:
        super().run()
        compile_descriptors(HERE / "caffeinit" / "protos" / "caffe.desc")


class SourcesWithTests(sdist):
    """The usual archive of sources, with what compiles the descriptors, the tests and their data, and the tools."""

    def make_distribution(self) -> None:
        for folder in ("proto", "tests", "tools", ".ci"):
            found = (p.relative_to(HERE) for p in sorted((HERE / folder).rglob("*")) if p.is_file())
            self.filelist.extend(str(p) for p in found if "__pycache__" not in p.parts)
        self.filelist.append(".ruff.toml")
        super().make_distribution()


setup(cmdclass={"build_py": BuildWithDescriptors, "develop": EditableWithDescriptors, "sdist": SourcesWithTests})
