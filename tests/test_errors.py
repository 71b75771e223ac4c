"""The error tree: complete, documented, and readable by default."""

import re

from proxy import errors


def test_error_tree() -> None:
    """Every error is a ProxyError, is named in the module's docstring, and has a message by default."""
    classes = [value for value in vars(errors).values() if isinstance(value, type)]

    assert {cls.__name__ for cls in classes} == set(re.findall(r"- (\w+)", errors.__doc__ or ""))
    assert all(issubclass(cls, errors.ProxyError) for cls in classes)
    assert str(errors.StoreError()) == "The store failed"
    assert str(errors.UpstreamError("no route")) == "no route"
    assert str(errors.ConfigError()) == "The configuration is not usable"
