"""Where the packages lie; all else is in pyproject.toml.

`callbacks/`, `datamodules/`, `configs/` and `checkpoints/` are folders of the repository and
packages of `ddm`: top-level packages of these names would collide with those of the user's own
training project. The links `ddm/callbacks` and `ddm/datamodules` are for mypy and for readers.
"""

from setuptools import find_packages, setup

FOLDERS = {
    "ddm.callbacks": "callbacks",
    "ddm.checkpoints": "checkpoints",
    "ddm.configs": "configs",
    "ddm.datamodules": "datamodules",
}

# A model of each kind of data and of each kernel; with all of them a wheel would be twice as large.
MODELS = ("countdown", "countdown_gaussian", "countdown_uniform", "digits", "folk", "pydoc")

packages = set(find_packages(include=["ddm", "ddm.*"]))
for package, folder in FOLDERS.items():
    packages |= {package, *(f"{package}.{name}" for name in find_packages(folder))}

setup(
    packages=sorted(packages),
    package_dir=FOLDERS,
    package_data={
        "ddm": ["py.typed"],
        "ddm.configs": ["*.yaml"],
        "ddm.checkpoints": [
            f"{model}.{end}" for model in MODELS for end in ("ckpt", "schedules.json")
        ],
    },
)
