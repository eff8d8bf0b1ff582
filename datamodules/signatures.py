"""Whether options fit the annotations of the function that takes them: a misspelt value must not change data silently.

Options come from configs and from `--option`, so values are what JSON and YAML know. Annotations of other types
(`Sequence[Mapping[str, Any]]`) are left to the function.
"""

import inspect
import types
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    types.NoneType: "null",
}
UNIONS = (Union, types.UnionType)


def check_options(function: Callable[..., Any], options: Mapping[str, Any], *, of: str) -> None:
    """Refuse options that a function does not take: its keyword-only parameters, with values as they are annotated.

    Args:
        function: annotated with Literal, bool, int, float, str, Path, None, dict of these, and unions.
        options: name → value.
        of: whose options they are, for the message, e.g. "layout nih".

    Raises:
        ValueError: for a name that does not exist, a value that is not allowed, or an option that is missing; it says
            which there are.
    """
    taken = {n: p for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
    unknown = sorted(set(options) - set(taken))
    if unknown:
        raise ValueError(f"{of} has no option {unknown[0]!r}; its options are {list(taken)}")
    annotated = get_type_hints(function)
    for name, value in options.items():
        if not fits(value, annotated[name]):
            raise ValueError(f"{of}: option {name} is {value!r}; expected {_expected(annotated[name], value)}")
    missing = [
        name for name, parameter in taken.items() if parameter.default is parameter.empty and name not in options
    ]
    if missing:
        raise ValueError(f"{of} needs the option {missing[0]!r}; its options are {list(taken)}")


def fits(value: object, annotation: Any) -> bool:
    """Whether a value is one of an annotation's; True for annotations that are not known here."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in UNIONS:
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        # Not by == alone: 1 is no True.
        return any(type(value) is type(choice) and value == choice for choice in parts)
    if origin is dict:
        return isinstance(value, Mapping) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if annotation in (int, float):
        kind = Integral if annotation is int else Real
        return isinstance(value, kind) and not isinstance(value, bool)
    return annotation not in NAMES or isinstance(value, annotation)


def _expected(annotation: Any, value: object = None) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in UNIONS:
        # A path is written as a text.
        return " or ".join(_expected(part, value) for part in parts if part is not Path)
    if origin is Literal:
        return f"{'one of ' * (len(parts) > 1)}{', '.join(map(repr, parts))}"
    if origin is dict:
        return f"{{name: value, ...}} with {_expected(parts[1])} as value"
    # JSON and YAML take a text that looks like a number for one.
    quoted = f', as in "{value}"' if annotation is str and fits(value, float) else ""
    return NAMES[annotation] + quoted
