"""The version of longstride, in Python and in C++: CMakeLists.txt and pyproject.toml read it here."""

__version__ = "0.1.0"
