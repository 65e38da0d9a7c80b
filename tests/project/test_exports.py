"""`cairnkv` shows what it means to show: __all__ is sorted, complete and true."""

import types

import cairnkv


def test_all_is_sorted() -> None:
    assert cairnkv.__all__ == sorted(cairnkv.__all__)
    assert len(cairnkv.__all__) == len(set(cairnkv.__all__))


def test_all_names_exist_and_nothing_else_leaks() -> None:
    shown = {
        name
        for name, value in vars(cairnkv).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert shown | {"__version__"} == set(cairnkv.__all__)


def test_every_class_says_what_it_is_for() -> None:
    for name in cairnkv.__all__:
        value = getattr(cairnkv, name)
        native = getattr(value, "__module__", "").endswith("_native")  # its words stand in the stub
        assert native or not isinstance(value, type) or value.__doc__, name
