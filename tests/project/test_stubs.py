"""The checked-in _native.pyi tells the same names and parameters as the compiled modules: a change of the native face
shows in review, and type checkers need no compiler."""

import ast
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cairn_dpu._native
import cairnkv._native

MODULES = {"cairnkv/_native.pyi": cairnkv._native, "dpu/cairn_dpu/_native.pyi": cairn_dpu._native}


def stub_of(file: str, root: Path) -> dict[str, Any]:
    """name → parameters of a function, or for a class its members: name → parameters (None: a property)."""
    faces: dict[str, Any] = {}
    for node in ast.parse((root / file).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            faces[node.name] = parameters_of(node)
        elif isinstance(node, ast.ClassDef):
            faces[node.name] = {
                member.name: None if member.decorator_list else parameters_of(member)
                for member in node.body
                if isinstance(member, ast.FunctionDef)
            }
    return faces


def parameters_of(node: ast.FunctionDef) -> list[str]:
    """Names in order; what may only be given by name stands after a star; what has a default ends in =."""
    arguments = node.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    defaults = len(arguments.defaults)
    shown = [name + "=" * (index >= len(names) - defaults) for index, name in enumerate(names)]
    if arguments.kwonlyargs:
        pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        shown += ["*", *(argument.arg + "=" * (default is not None) for argument, default in pairs)]
    return shown


def native_parameters(function: Any) -> list[str]:
    """The same from nanobind's own description of a compiled function."""
    signature = str(function.__nb_signature__[0][0])
    defaults = function.__nb_signature__[0][2] or ()
    signature = re.sub(r"\\\d+", "…", signature)  # defaults stand apart
    del defaults
    node = ast.parse(re.sub(r"=\s*…", "= ...", signature) + ": ...").body[0]
    assert isinstance(node, ast.FunctionDef)
    return parameters_of(node)


def native_face(module: ModuleType) -> dict[str, Any]:
    faces: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        if isinstance(value, type):
            own = {} if issubclass(value, Exception) else members_of(value)
            faces[name] = own
        elif hasattr(value, "__nb_signature__"):
            faces[name] = native_parameters(value)
    return faces


def members_of(cls: type) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in vars(cls).items():
        if hasattr(value, "__nb_signature__"):
            members[name] = native_parameters(value)
        elif isinstance(value, property):
            members[name] = None
    return members


@pytest.mark.parametrize("file", MODULES)
def test_the_stub_tells_the_truth(file: str, root: Path) -> None:
    stub, native = stub_of(file, root), native_face(MODULES[file])
    assert stub.keys() == native.keys()
    for name, face in stub.items():
        if isinstance(face, dict):
            face.pop("__buffer__", None)  # the buffer protocol is no method of the compiled class
            assert face == native[name], name
        else:
            assert face == native[name], name
