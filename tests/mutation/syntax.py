"""What a piece of a syntax tree is: a name, a statement's head, or something that only tells a person."""

import ast
import re

# Calls that tell a person something, and arguments that hold prose.
_TELLING = re.compile(r"print\w*|say|log|debug|info|warn|warning|advance|filterwarnings|Progress|Console|\w*Error")
_UNSEEN = {"strict", "device"}  # of zip, an assertion; without an accelerator there is one device
_PROSE = re.compile(r"description|help|title|doc|prog|epilog|label|note|message|unit|style|markup|soft_wrap|stacklevel")


def header(node: ast.stmt) -> tuple[int, int]:
    """Return the lines of a statement, without those of the statements in it."""
    inner = getattr(node, "body", None)
    last = node.end_lineno or node.lineno
    return node.lineno, max(node.lineno, inner[0].lineno - 1) if inner else last


def name_of(node: ast.expr) -> str:
    """Return the last word of a dotted name, or nothing."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def is_telling(node: ast.expr) -> bool:
    """Whether it is a call that prints, logs, or makes an error."""
    if not isinstance(node, ast.Call):
        return False
    owner = name_of(node.func.value) if isinstance(node.func, ast.Attribute) else ""
    return bool(_TELLING.fullmatch(name_of(node.func))) or owner in ("console", "logger", "logging", "warnings")


def is_unseen(keyword: ast.keyword) -> bool:
    """Whether an argument holds prose, or no test could see it."""
    return bool(keyword.arg in _UNSEEN or _PROSE.fullmatch(keyword.arg or ""))


def is_text(node: ast.expr) -> bool:
    """Whether it is a string."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
