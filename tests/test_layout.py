"""The architecture: who imports whom, what stands at the top level, how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("lightning_modules", "datamodules", "callbacks")
TOP_LEVEL = {
    "pyproject.toml", "README.md", "main.py", "Makefile", "studio.py", "requirements.lock", "LICENSE",
    "CONTRIBUTING.md",
    "lightning_modules", "datamodules", "callbacks", "configs", "tests",
}  # fmt: skip
# The shared language of the domain, which any package may import.
SHARED = ("datamodules.reports", "datamodules.manifest")


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, also inside functions and `if TYPE_CHECKING`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_do_not_import_one_another(package: str) -> None:
    assert files(package)
    for path in files(package):
        for name in imports(path):
            for other in set(PACKAGES) - {package}:
                allowed = any(below(name, shared) for shared in SHARED) or (
                    name == "datamodules" and any(below(n, s) for s in SHARED for n in imports(path))
                )
                assert allowed or not below(name, other), f"{path.relative_to(ROOT)} imports {name}"
            assert not below(name, "main"), f"{path.relative_to(ROOT)} imports the command line"


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("lightning_modules/networks", ("lightning.", "lightning_modules.stages")),
        ("callbacks/metrics", ("lightning.", "lightning_modules", "callbacks.fidelity")),
        ("datamodules/reports", ("lightning.", "torch", "lightning_modules", "callbacks")),
        ("datamodules/phantom", ("lightning.", "torch")),
        ("datamodules/layouts", ("lightning.", "torch")),
    ],
)
def test_lower_layers_know_no_upper_ones(folder: str, forbidden: tuple[str, ...]) -> None:
    for path in files(folder):
        for name in imports(path):
            for wrong in forbidden:
                assert not below(name + ("." if wrong.endswith(".") else ""), wrong.rstrip(".")), f"{path}: {name}"


def test_the_shared_language_loads_without_torch() -> None:
    code = (
        "import sys, datamodules.manifest, datamodules.reports.labels, datamodules.reports.mentions, "
        "datamodules.reports.vocabulary, datamodules.reports.sections; "
        "sys.exit(','.join(m for m in ('torch', 'lightning') if m in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_top_level_names() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    names = {line.split("/")[0] for line in tracked if line}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_files_are_short_and_say_what_they_hold(package: str) -> None:
    for path in files(package):
        text = path.read_text()
        assert len(text.splitlines()) <= 360, f"{path.relative_to(ROOT)} is too long"
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), f"{path.relative_to(ROOT)} has no docstring"


def test_only_stages_opens_checkpoints() -> None:
    published = "chexbert.py"  # weights of others, which are no stage's checkpoint
    for path in files("lightning_modules"):
        if path.name not in ("stages.py", published):
            assert "torch.load(" not in path.read_text(), path
