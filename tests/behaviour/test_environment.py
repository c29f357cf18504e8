"""docs/environment.md has every environment variable that the code reads, and none of ours that it doesn't."""

import ast
import re

import pytest
from support.pages import ROOT

PYTHON = sorted(
    path for folder in ("fastflow", "kernels", "benchmarks", "tests", "tools") for path in (ROOT / folder).rglob("*.py")
)
NATIVE = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".hpp", ".cu", ".cuh"))
READS = ("get", "setdefault", "pop")


def documented() -> set[str]:
    """The variables in the first column of the first table."""
    text = (ROOT / "docs/environment.md").read_text(encoding="utf-8")
    table = text[text.index("| variable |") : text.index("| option |")]
    first = "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE))
    return set(re.findall(r"`([A-Z][A-Z0-9_]+)`", first))


def is_environ(node: ast.expr) -> bool:
    return ast.unparse(node) in ("os.environ", "environ")


def words(node: ast.expr | None, loops: dict[str, ast.expr]) -> set[str]:
    """The texts that a name in the code stands for: itself, or those of the tuple that a loop takes it from."""
    if isinstance(node, ast.Name) and node.id in loops:
        node = loops[node.id]
    if isinstance(node, ast.Tuple):
        return {text for element in node.elts for text in words(element, loops)}
    assert isinstance(node, ast.Constant), f"line {node and node.lineno}: say the variable's name where it is read"
    return {str(node.value)}


def read_by(code: str) -> set[str]:
    """The variables that a module's code reads from the environment, or writes into its own."""
    if "environ" not in code and "getenv" not in code:
        return set()
    tree = ast.parse(code)
    loops = {
        node.target.id: node.iter
        for node in ast.walk(tree)
        if isinstance(node, ast.For) and isinstance(node.target, ast.Name)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and is_environ(node.value):
            found |= words(node.slice, loops)
        elif isinstance(node, ast.Compare) and any(is_environ(side) for side in node.comparators):
            found |= words(node.left, loops)
        elif isinstance(node, ast.AugAssign) and is_environ(node.target) and isinstance(node.value, ast.Dict):
            found |= {text for key in node.value.keys for text in words(key, loops)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            method = node.func
            if (is_environ(method.value) and method.attr in READS) or ast.unparse(method) == "os.getenv":
                found |= words(node.args[0], loops)
    return found


def test_the_table_has_every_variable_that_the_code_reads():
    read = {name for path in PYTHON for name in read_by(path.read_text(encoding="utf-8"))}
    read |= {name for path in NATIVE for name in re.findall(r'getenv\("(\w+)"\)', path.read_text(encoding="utf-8"))}
    assert {"FASTFLOW_ISA", "TRITON_INTERPRET", "XLA_FLAGS", "RANK", "GRADIO_TEMP_DIR"} <= read
    assert read - documented() == set()


def test_every_variable_of_our_own_is_read():
    code = "".join(path.read_text(encoding="utf-8") for path in (*PYTHON, *NATIVE))
    for name in documented():
        if name.startswith("FASTFLOW_"):
            assert re.search(rf'(environ.*|getenv\()"{name}"', code), name


@pytest.mark.parametrize(
    "code",
    [
        "os.environ['PLANTED']",
        "os.environ.get('PLANTED', '0')",
        "environ.setdefault('PLANTED', '1')",
        "os.getenv('PLANTED')",
        "'PLANTED' in os.environ",
        "os.environ |= {'PLANTED': '1'}",
        "for name in ('PLANTED',): os.environ.setdefault(name, '1')",
    ],
)
def test_a_planted_variable_is_found(code):
    assert read_by(code) == {"PLANTED"}


def test_a_name_that_the_code_hides_is_refused():
    with pytest.raises(AssertionError, match="say the variable's name where it is read"):
        read_by("os.environ[prefix + 'PLANTED']")
