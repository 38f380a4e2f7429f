"""The error tree: whose fault it is, and what callers of libraries expect."""

import inspect
import re

import pytest

from crsearch import errors

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
LEAVES = [c for c in CLASSES if c not in (errors.CrsearchError, errors.UserError)]


def test_the_drawn_tree_is_the_tree():
    drawn = dict(re.findall(r"[├└]── (\w+) .*\((\w+)\)$", errors.__doc__ or "", re.MULTILINE))
    assert drawn == {c.__name__: c.__bases__[1].__name__ for c in LEAVES}


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_error_can_be_mended_by_the_user_and_is_explained(leaf):
    assert issubclass(leaf, errors.UserError)
    assert leaf.__doc__.endswith(".")
    assert str(leaf("what, where, how")) == "what, where, how"
