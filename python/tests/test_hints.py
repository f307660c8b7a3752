"""Type hints of what users call: there, resolvable, and right about what a call returns."""

import ast
import dataclasses
import inspect
import pathlib
import typing

import pytest
from support import inputs
from torch import Tensor

import longstride as ls

ROOM = pathlib.Path(ls.__file__).parent
# Not: modules of other libraries' names, whose signatures are theirs, and commands.
NAMES = sorted(
    ".".join(("longstride", *path.relative_to(ROOM).with_suffix("").parts))
    for path in ROOM.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py") and path.relative_to(ROOM).parts[0] != "compat"
)



def functions(module):
    """Functions and methods that a module defines."""
    for one in vars(module).values():
        one = inspect.unwrap(one) if callable(one) and hasattr(one, "__wrapped__") else one
        if getattr(one, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(one):
            yield one
        elif inspect.isclass(one):
            yield from (f for f in vars(one).values() if inspect.isfunction(f) and f.__module__ == module.__name__)


@pytest.mark.parametrize("name", NAMES)
def test_every_hint_names_something(name):
    module = __import__(name, fromlist=["x"])
    for function in functions(module):
        if "_make" not in function.__qualname__:  # of named tuples
            typing.get_type_hints(function, localns=vars(ls.nn))  # what a cycle of imports is spared
    for one in vars(module).values():
        if inspect.isclass(one) and dataclasses.is_dataclass(one) and one.__module__ == name:
            typing.get_type_hints(one)


@pytest.mark.parametrize("room", (ls, ls.nn, ls.factory, ls.parallel), ids=lambda room: room.__name__)
def test_what_users_call_is_hinted(room):
    assert (ROOM / "py.typed").is_file()
    for name in room.__all__:
        one = getattr(room, name)
        if not (inspect.isfunction(one) or inspect.isclass(one)) or (inspect.isclass(one) and issubclass(one, Exception)):
            continue
        called = one.__init__ if inspect.isclass(one) and inspect.isfunction(vars(one).get("__init__")) else one
        if inspect.isclass(called):
            continue  # made by its fields
        signature = inspect.signature(called)
        bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name not in ("self", "cls")]
        assert not bare, f"{room.__name__}.{name}: {bare}"
        assert inspect.isclass(one) or signature.return_annotation is not signature.empty, f"{room.__name__}.{name}"


def overloads():
    """{name: [(parameters by name, what they return, names of **options)]} of the functions that return one tensor or two."""
    tree = ast.parse((ROOM / "_attention.py").read_text(encoding="utf-8"))
    found = {}
    for one in tree.body:
        if isinstance(one, ast.FunctionDef) and any(ast.unparse(d) == "overload" for d in one.decorator_list):
            found.setdefault(one.name, []).append(one)
    return found


def options_of(annotation):
    """Names of a typed dictionary that **options unpack."""
    from longstride import _attention

    return list(typing.get_type_hints(getattr(_attention, annotation.removeprefix("Unpack[").removesuffix("]"))))


def test_overloads_take_what_the_functions_take():
    from longstride import _attention

    found = overloads()
    assert set(found) == {"attention", "dilated_attention", "block_sparse_attention", "sliding_window_attention"}
    for name, variants in found.items():
        own = []
        for parameter in inspect.signature(getattr(_attention, name)).parameters.values():
            of_dict = parameter.kind is parameter.VAR_KEYWORD and parameter.annotation is not typing.Any
            own += options_of(parameter.annotation) if of_dict else [parameter.name]
        returned = []
        for variant in variants:
            given = [argument.arg for argument in variant.args.args + variant.args.kwonlyargs]
            options = ast.unparse(variant.args.kwarg.annotation).strip("'")
            if options != "Any":
                given += options_of(options)
                assert sorted(given) == sorted(own)
            else:
                assert set(given) <= set(own) and "fields" in own  # **fields may hold anything
            (lse,) = [a.annotation for a in variant.args.kwonlyargs if a.arg == "return_lse"]
            returned.append((ast.unparse(lse), ast.unparse(variant.returns)))
        assert returned == [
            ("Literal[False]", "Tensor"),
            ("Literal[True]", "tuple[Tensor, Tensor]"),
            ("bool", "Tensor | tuple[Tensor, Tensor]"),
        ]
    q, k, v = inputs()
    assert isinstance(ls.sliding_window_attention(q, k, v, 3), Tensor)
    assert [type(t) for t in ls.sliding_window_attention(q, k, v, 3, return_lse=True)] == [Tensor, Tensor]
