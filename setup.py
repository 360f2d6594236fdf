"""
Copies the modules that stand alone into stub packages, since PEP 561's ``py.typed`` only counts inside a package.

Everything else about the distribution stands in ``pyproject.toml``.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithStubs(build_py):
    """``build_py``, and for each module ``NAME.py`` its text as ``NAME-stubs/__init__.pyi``."""

    def run(self) -> None:
        """Build, then write the stubs beside the modules, except in an editable install, which builds none."""
        super().run()
        if self.editable_mode:
            return
        for name in self.distribution.py_modules or []:
            stub = Path(self.build_lib) / f"{name}-stubs" / "__init__.pyi"
            stub.parent.mkdir(parents=True, exist_ok=True)
            stub.write_text(Path(f"{name}.py").read_text("utf-8"), "utf-8")


setup(cmdclass={"build_py": BuildWithStubs})
