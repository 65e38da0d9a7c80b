"""The version, as the native core tells it: there is one place where it stands (native/CMakeLists.txt)."""

from cairnkv import _native

__version__ = _native.version()
