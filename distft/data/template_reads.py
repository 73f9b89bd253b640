"""What a chat template reads of the texts of a conversation, from its syntax tree.

A template that only writes a text, asks whether it holds certain words, and strips its ends renders two texts alike if
neither holds such a word, is empty or has spaces at its ends. Of any other use nothing is known, and None is returned:
the length of a text, its letters one by one, a comparison with another text.
"""

from collections.abc import Iterator
from typing import Any

from jinja2 import nodes

OF_ROLE = ("role", "type")  # keys whose values are not texts of the conversation
LISTS = ("messages", "tools", "calls")  # in names of variables that hold lists
WRITES = ("tojson", "string", "safe", "default", "d", "join", "indent")  # filters that write a text, or nothing
CHANGES = ("trim", "lower", "upper", "title", "capitalize")  # filters and methods that write it otherwise
OF_LISTS = ("first", "last", "list", "map", "select", "reject", "selectattr", "rejectattr", "items", "dictsort")
OF_WORDS = ("startswith", "endswith", "split", "rsplit", "partition", "rpartition", "replace", "find", "count")
STRIPS = ("strip", "lstrip", "rstrip", "removeprefix", "removesuffix")
OF_PARTS = ("text", "type")  # keys of the parts of a content that is a list
OF_OBJECTS = ("items", "keys", "values", "get")
FUNCTIONS = ("raise_exception", "strftime_now", "namespace", "range", "dict")
TESTS = (
    *("defined", "undefined", "none", "string", "mapping", "sequence", "iterable", "boolean", "number", "integer"),
    *("true", "false", "odd", "even", "divisibleby"),
)
ORDERS = ("lt", "lteq", "gt", "gteq")


class Unknown(Exception):
    """The template reads a text in a way that is not known."""


def words_read(tree: nodes.Template) -> frozenset[str] | None:
    """Returns the words, in lower case, without which texts are rendered alike; None where that is not known."""
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    try:
        found = {word for node in _all(tree) for word in _words(node, macros)}
    except Unknown:
        return None
    return frozenset(word.lower() for word in found)


def _all(node: nodes.Node) -> Iterator[nodes.Node]:
    """Yields the nodes of a tree, without the first part of a content in `content[0]['text']`, undefined for a text."""
    yield node
    for child in node.iter_child_nodes():
        if isinstance(node, nodes.Getitem) and isinstance(child, nodes.Getitem) and _key(node) in OF_PARTS:
            yield from _all(child.node)
        else:
            yield from _all(child)


def _key(node: nodes.Getitem) -> object:
    return node.arg.value if isinstance(node.arg, nodes.Const) else None


def _words(node: nodes.Node, macros: set[str]) -> list[str]:
    """Returns the words that one node asks for; raises Unknown where it may ask for something else."""
    if isinstance(node, nodes.Compare):
        return _compared(node)
    if isinstance(node, nodes.Call):
        return _called(node, macros)
    if isinstance(node, nodes.Filter):
        return _filtered(node)
    if isinstance(node, nodes.Test) and node.name not in TESTS:
        raise Unknown(node.name)
    if isinstance(node, nodes.Getitem):
        _indexed(node)
    if isinstance(node, nodes.Include | nodes.Import | nodes.FromImport | nodes.Extends | nodes.FilterBlock):
        raise Unknown(type(node).__name__)
    return []


def _compared(node: nodes.Compare) -> list[str]:
    sides = [node.expr, *(operand.expr for operand in node.ops)]
    orders = [operand.op for operand in node.ops]
    if any(order in ORDERS for order in orders):
        if not all(map(_is_number, sides)):
            raise Unknown("order")
        return []
    if any(map(_is_of_role, sides)) or all(map(_is_number, sides)):
        return []
    constants = [side for side in sides if isinstance(side, nodes.Const | nodes.List | nodes.Tuple)]
    if not constants:
        raise Unknown("two texts")
    return _not_blank([word for side in constants for word in _texts(side) if word])


def _called(node: nodes.Call, macros: set[str]) -> list[str]:
    target = node.node
    if isinstance(target, nodes.Name):
        if target.name not in FUNCTIONS and target.name not in macros and target.name != "caller":
            raise Unknown(target.name)
        return []
    if isinstance(target, nodes.ExtensionAttribute):  # {% generation %}
        return []
    if not isinstance(target, nodes.Getattr):
        raise Unknown("call")
    name = target.attr
    if (name in STRIPS and not node.args) or name in CHANGES or name in OF_OBJECTS:
        return []
    if name not in (*OF_WORDS, *STRIPS) or not node.args or not isinstance(node.args[0], nodes.Const):
        raise Unknown(name)
    words = _texts(node.args[0])
    if name in ("strip", "lstrip", "rstrip"):
        return [letter for word in words for letter in word if letter.strip()]
    return _not_blank(words)


def _filtered(node: nodes.Filter) -> list[str]:
    if node.name in ("length", "count"):
        if not _is_list(node.node) and getattr(node.node, "attr", "") != "id":  # of a call
            raise Unknown("length")
    elif node.name == "replace":
        return _not_blank(_texts(node.args[0]))
    elif node.name not in (*WRITES, *CHANGES, *OF_LISTS):
        raise Unknown(node.name)
    return []


def _indexed(node: nodes.Getitem) -> None:
    """Raises Unknown where a part of a text may be taken by its place."""
    index = node.arg
    if isinstance(index, nodes.Const) and isinstance(index.value, str):
        return
    if not _is_list(node.node) and not isinstance(node.node, nodes.Call):
        raise Unknown("index")


def _not_blank(words: list[str]) -> list[str]:
    """Returns words that a text is searched for; raises Unknown for spaces, which most texts hold."""
    if any(not word.strip() for word in words):
        raise Unknown("spaces")
    return words


def _texts(node: nodes.Node | None) -> list[str]:
    if isinstance(node, nodes.List | nodes.Tuple):
        return [word for each in node.items for word in _texts(each)]
    if not isinstance(node, nodes.Const):
        raise Unknown("word")
    return [node.value] if isinstance(node.value, str) else []


def _is_of_role(node: Any) -> bool:
    """Returns whether an expression is the role of a message, or the type of a part."""
    if isinstance(node, nodes.Getattr):
        return node.attr in OF_ROLE
    return isinstance(node, nodes.Getitem) and _key(node) in OF_ROLE


def _is_list(node: Any) -> bool:
    """Returns whether an expression is a list of messages or calls, rather than a text."""
    if isinstance(node, nodes.Filter):
        return node.name in OF_LISTS
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _is_list(node.node)
    name = node.name if isinstance(node, nodes.Name) else node.attr if isinstance(node, nodes.Getattr) else ""
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        name = str(node.arg.value)
    return any(word in name for word in LISTS)


def _is_number(node: Any) -> bool:
    """Returns whether an expression is a number or a truth value: a constant, a place in a loop, a length, a comparison
    (whose own sides are looked at by themselves), or what is made of them."""
    if isinstance(node, nodes.Compare | nodes.Test | nodes.Not):
        return True
    if isinstance(node, nodes.Const):
        return not isinstance(node.value, str)
    if isinstance(node, nodes.BinExpr | nodes.UnaryExpr):
        parts = [node.left, node.right] if isinstance(node, nodes.BinExpr) else [node.node]
        return all(map(_is_number, parts))
    if isinstance(node, nodes.Filter):
        return node.name in ("length", "count")
    return isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name) and node.node.name in ("loop", "ns")
