"""Small changes to Python source text, one at a time, each of which some test ought to notice.

What is no behaviour is left alone: docstrings and other strings, annotations, decorators, `__all__`, what only type
checkers read, assertions, what errors say, and what is shown while a job runs.
"""

import ast
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from tests.mutation.syntax import header, is_telling, is_text, is_unseen, name_of

COMPARISON = "comparison"
AND_OR = "and/or"
NOT = "not dropped"
ARITHMETIC = "arithmetic"
INTEGER = "integer off by one"
BOOLEAN = "True/False"
CONDITION = "condition"
RETURN = "return None"
DROPPED = "statement dropped"
LOOP = "break/continue"
DEFAULT = "default"
RAISE = "raise dropped"
KEYWORD = "keyword argument dropped"
SLICE = "slice off by one"

_COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: (r"\*\*", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: (r"\|", "&"),
}


@dataclass(frozen=True)
class Change:
    """Bytes from `start` to `stop` are replaced; `first` to `last` are the lines of the statement that they are in."""

    kind: str
    start: int
    stop: int
    replacement: str
    first: int
    last: int


class Finder(ast.NodeVisitor):
    """Gathers the changes that could be made to a module's source, as its tree is visited."""

    def __init__(self, source: bytes) -> None:
        self.changes: list[Change] = []
        self._source = source
        self._starts = [0]
        for line in source.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)
        self._statement = (1, 1)
        self._functions = 0

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            outer, self._statement = self._statement, header(node)
            super().visit(node)
            self._statement = outer
        else:
            super().visit(node)

    def begin(self, line: int) -> int:
        """Return where a line begins."""
        return self._starts[line - 1]

    def line(self, place: int) -> int:
        """Return the line of a place, from 1."""
        return bisect_right(self._starts, place)

    # What is left alone.

    def visit_Assert(self, node: ast.Assert) -> None:
        """Whatever is asserted states the impossible."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Strings are prose, or names that tests spell out."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is None or name_of(node.annotation) == "TypeAlias":
            return
        if self._functions:
            self.visit(node.value)
        else:
            self._default(node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        functions, self._functions = self._functions, 0
        self._visit_all(node.body)
        self._functions = functions

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *(value for value in node.args.kw_defaults if value is not None)):
            self._default(default)
        self._functions += 1
        self._visit_all(node.body)
        self._functions -= 1

    # Statements.

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant) or is_telling(node.value):
            return
        if isinstance(node.value, ast.Call):
            self._replace(DROPPED, node, "pass")
        self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {name_of(target) for target in node.targets}
        if "__all__" in names or (not self._functions and isinstance(node.value, ast.BinOp)):
            return  # what is offered; a name for a union of types
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets) and not (
            isinstance(node.targets[0], ast.Attribute) and name_of(node.targets[0].value) == "self"
        ):
            self._replace(DROPPED, node, "pass")
        self._visit_all(node.targets)
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(DROPPED, node, "pass")
        self._operator(ARITHMETIC, node.target, node.value, _ARITHMETIC.get(type(node.op)))
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            return
        if not isinstance(node.value, ast.Constant):
            self._replace(RETURN, node.value, "None")
        self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(RAISE, node, "pass")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(LOOP, node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(LOOP, node, "break")

    def visit_If(self, node: ast.If) -> None:
        test = ast.unparse(node.test)
        if "TYPE_CHECKING" in test or "__name__" in test:
            self._visit_all(node.orelse)
            return
        self._condition(node.test, "True", "False")
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._condition(node.test, "False")
        self._visit_all(node.body + node.orelse)

    # Expressions.

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._condition(test, "True")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for left, right, operator in zip(sides, sides[1:], node.ops, strict=False):
            self._operator(COMPARISON, left, right, _COMPARISONS.get(type(operator)))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        swap = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._operator(AND_OR, left, right, swap)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._replace(NOT, node, f"({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not any(is_text(side) for side in (node.left, node.right)):
            self._operator(ARITHMETIC, node.left, node.right, _ARITHMETIC.get(type(node.op)))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace(BOOLEAN, node, str(not node.value))
        elif isinstance(node.value, int):
            self._replace(INTEGER, node, str(node.value + 1))
            if node.value > 0:
                self._replace(INTEGER, node, str(node.value - 1))

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound, change in ((node.lower, "+"), (node.upper, "-")):
            if bound is not None:
                self._replace(SLICE, bound, f"({self._text(bound)}) {change} 1")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if is_telling(node):
            return
        for keyword in node.keywords:
            if keyword.arg is None or is_unseen(keyword):
                continue
            start, stop = self._start(keyword), self._stop(keyword)
            comma = re.match(rb"\s*,\s*", self._source[stop:])
            earlier = re.search(rb",\s*$", self._source[:start])
            if comma:
                self._change(KEYWORD, start, stop + comma.end(), "")
            elif earlier:
                self._change(KEYWORD, earlier.start(), stop, "")
            else:
                self._change(KEYWORD, start, stop, "")
        self.visit(node.func)
        self._visit_all(node.args)
        self._visit_all(keyword for keyword in node.keywords if not is_unseen(keyword))

    # Changes.

    def _default(self, node: ast.expr) -> None:
        if isinstance(node, ast.Constant):
            if isinstance(node.value, bool):
                self._replace(DEFAULT, node, str(not node.value))
            elif isinstance(node.value, int | float):
                self._replace(DEFAULT, node, repr(node.value + 1))
        else:
            self.visit(node)

    def _condition(self, test: ast.expr, *constants: str) -> None:
        for replacement in (f"not ({self._text(test)})", *constants):
            self._replace(CONDITION, test, replacement)

    def _operator(self, kind: str, left: ast.expr, right: ast.expr, swap: tuple[str, str] | None) -> None:
        if swap is None:
            return
        start, stop = self._stop(left), self._start(right)
        # Between two operands there is nothing else but brackets, white space and comments.
        found = re.search(swap[0].encode(), self._source[start:stop])
        if found:
            self._change(kind, start + found.start(), start + found.end(), swap[1])

    def _replace(self, kind: str, node: ast.expr | ast.stmt, replacement: str) -> None:
        self._change(kind, self._start(node), self._stop(node), replacement)

    def _change(self, kind: str, start: int, stop: int, replacement: str) -> None:
        self.changes.append(Change(kind, start, stop, replacement, *self._statement))

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def _text(self, node: ast.expr) -> str:
        return self._source[self._start(node) : self._stop(node)].decode()

    def _start(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def _stop(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset
