"""The rules of the house, read off the syntax trees: nothing is imported to check them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import minidl

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minidl"

# Each room stands on a floor and imports from its own floor and those below.
FLOORS = {
    0: "_version startup errors terminal bar shipped memory reprs labels trees blas kernels "
    "_kernels atomic archive layers losses groups optimizers schedules data",
    1: "model specs",
    2: "gradcheck evaluation divergence lbfgs progress best ranks parallel training "
    "fitting predictor checkpoint conformal",
    3: "config runs estimators tabular export report",
    4: "commands cli __main__",
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms.split()}
FLOOR_OF[""] = 2  # `import minidl` itself, which gathers the public names

# Imports inside functions: what is slow to import, where only some of the work needs it.
IMPORTED_LATE = {
    "__init__.py": {"minidl"},
    "data": {"sklearn", "scipy", "polars"},
    "ranks.py": {"mpi4py"},
    "cli.py": {"minidl"},
    "commands": {"minidl"},
    "report": {"minidl"},
    "export": {"onnx", "minidl"},
}

# `import minidl` needs NumPy and nothing else.
NOT_BY_IMPORT = ("sklearn", "scipy", "yaml", "pydantic", "tqdm", "pandas", "matplotlib", "joblib")

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "imp", "runpy"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {
    ("importlib", "import_module"),
    ("util", "module_from_spec"),
    ("yaml", "load"),
    ("yaml", "load_all"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("os", "system"),
    ("os", "popen"),
    ("joblib", "load"),
}
VAGUE_NAMES = {"utils", "util", "helpers", "base", "common", "types", "misc"}

MOST_LINES = 350
PACKAGE_LINES = 20_100

# Underscore attributes that a module reads of objects of another module: named tuples and os have
# methods of that kind, scikit-learn's callbacks need one, and a model lends its layers scratch
# memory and owns them.
BUILT_FOR_EACH_OTHER = {
    "minidl/data/batches.py": {"_replace"},
    "minidl/data/textfiles.py": {"_cells"},
    "minidl/startup.py": {"_exit"},
    "minidl/estimators/callbacks.py": {"_init_callback_context"},
    "minidl/model.py": {"_owner", "_scratch"},
    "minidl/config/text.py": {"_document"},
}

AT_THE_ROOT = set(
    "pyproject.toml minidl configs scripts tests README.md LICENSE CHANGELOG.md .gitignore .ci "
    "setup.py MANIFEST.in CITATION.cff .gitattributes .github".split()
)
A_MACHINES_PATH = re.compile(r"(?<![\w./$~}-])/(home|Users|root|work|mnt|tmp|scratch)/\w")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sources("minidl")
}
COMPILED = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PACKAGE.rglob("*.c")}


def imported(node: ast.AST) -> list[str]:
    """The modules that one import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0 and node.module, "imports are absolute"
    names = [f"{node.module}.{alias.name}" for alias in node.names]
    if node.module in MODULES:  # of our own: a module, or a name in one
        return [name if name in {*MODULES, *COMPILED} else node.module for name in names]
    return [node.module, *names]


def room_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def test_imports_go_down_the_floors():
    wrong = []
    for module, path in MODULES.items():
        if not (room := room_of(module)):
            continue
        assert room in FLOOR_OF, f"{module}: say in FLOORS on which floor it stands"
        wrong += [
            f"{module} is on floor {FLOOR_OF[room]} and imports {name}"
            for node in ast.walk(tree_of(path))
            for name in imported(node)
            if name.split(".")[0] == "minidl" and FLOOR_OF[room_of(name)] > FLOOR_OF[room]
        ]
    assert not wrong


def test_no_imports_go_in_circles():
    graph = {}
    for module, path in MODULES.items():
        named = [name for node in ast.walk(tree_of(path)) for name in imported(node)]
        graph[module] = {name for name in named if name in MODULES and name != module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_imports_stand_at_the_top():
    hidden = []
    for path in sources("minidl", "scripts"):
        allowed = IMPORTED_LATE.get(path.relative_to(ROOT).parts[1], set())
        hidden += [
            f"{name_of(path)}:{node.lineno} imports {name} in a function"
            for function in ast.walk(tree_of(path))
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
            for name in imported(node)
            if name.split(".")[0] not in allowed
        ]
    assert not hidden


def test_our_own_modules_are_imported_for_use_and_not_for_types_only():
    for path in sources("minidl"):
        tree, for_types = tree_of(path), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                for_types |= {*ast.walk(node)}
        ours = [
            (name, node in for_types)
            for node in ast.walk(tree)
            for name in imported(node)
            if name.split(".")[0] == "minidl"
        ]
        used = {name for name, typed in ours if not typed}
        assert {name for name, typed in ours if typed} <= used, name_of(path)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.Module) -> set[str]:
    """The functions, classes and attributes that a module defines."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if ast.unparse(node.value) in ("self", "cls"):
                names.add(node.attr)
    return names


def test_nobody_reads_underscore_attributes_of_another_module():
    for path in sources("minidl"):
        tree = tree_of(path)
        own, read = own_names(tree), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
                if ast.unparse(node.value) not in ("self", "cls", "super()"):
                    read.add(node.attr)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minidl."):
                read |= {alias.name for alias in node.names if is_private(alias.name)}
        assert read == BUILT_FOR_EACH_OTHER.get(name := name_of(path), set()), name


def test_the_package_stays_small():
    n_lines = sum(len(path.read_text("utf-8").splitlines()) for path in sources("minidl"))
    assert n_lines <= PACKAGE_LINES


def test_nothing_is_unpickled_evaluated_or_imported_by_name():
    for path in sources("minidl", "scripts"):
        for node in ast.walk(tree_of(path)):
            where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
            for name in imported(node):
                assert name.split(".")[0] not in FORBIDDEN_MODULES, where
                assert tuple(name.rsplit(".", 1)) not in FORBIDDEN_ATTRIBUTES, where
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in FORBIDDEN_CALLS, where
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in FORBIDDEN_ATTRIBUTES, where
            if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell"):
                assert getattr(node.value, "value", None) is False, where


def undocumented(node: ast.AST, name: str) -> Iterator[str]:
    """The public names without a docstring, depth first; overrides count as well."""
    if not ast.get_docstring(node):
        yield name
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if child.name.startswith("_") or isinstance(node, ast.FunctionDef):
                continue
            yield from undocumented(child, f"{name}.{child.name}")


def test_public_names_are_documented():
    missing = []
    for module, path in MODULES.items():
        if (tree := tree_of(path)).body:  # an empty __init__.py says nothing
            missing += undocumented(tree, module)
    assert not missing


def test_files_are_short_and_have_names_that_say_something():
    for path in sources("minidl"):
        name, n_lines = name_of(path), len(path.read_text("utf-8").splitlines())
        assert n_lines <= MOST_LINES, f"{name}: {n_lines} lines: it holds two ideas"
        assert path.stem not in VAGUE_NAMES, name


def test_importing_the_library_imports_numpy_only():
    code = "import sys, minidl; print(*{name.split('.')[0] for name in sys.modules})"
    run = [sys.executable, "-W", "error", "-c", code]
    loaded = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    assert "numpy" in loaded
    assert not set(loaded) & set(NOT_BY_IMPORT)


def test_other_rooms_are_imported_with_their_first_use():
    rooms = ("config", "estimators", "tabular", "report")
    code = f"""if True:
        import sys, minidl
        late = {{"minidl.predictor", *(f"minidl.{{room}}" for room in {rooms})}}
        assert not late & {{*sys.modules}}
        for room in {rooms}:
            assert getattr(minidl, room).__path__
        assert minidl.load.__module__ == minidl.Predictor.__module__ == "minidl.predictor"
        """
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="module 'minidl' has no attribute 'cofnig'"):
        minidl.cofnig  # noqa: B018


def tracked() -> list[Path]:
    git = ["git", "-C", str(ROOT), "ls-files", "-z"]
    try:
        listed = subprocess.run(git, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_nothing_else_stands_at_the_root():
    assert {path.parts[0] for path in tracked()} <= AT_THE_ROOT


def test_no_file_names_a_path_of_one_machine():
    for path in tracked():
        text = (ROOT / path).read_text("utf-8", errors="ignore")
        assert not (found := A_MACHINES_PATH.search(text)), f"{path}: {found}"
