"""Where the packages lie; all else is in pyproject.toml.

`callbacks/` and `datamodules/` are folders of the repository and packages of `ddm`: top-level
packages of these names would collide with those of the user's own training project.
"""

from setuptools import find_packages, setup

FOLDERS = {"ddm.callbacks": "callbacks", "ddm.datamodules": "datamodules"}

packages = find_packages(include=["ddm", "ddm.*"])
for package, folder in FOLDERS.items():
    packages += [package, *(f"{package}.{name}" for name in find_packages(folder))]

setup(packages=packages, package_dir=FOLDERS)
