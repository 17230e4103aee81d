"""Optional parts of the installation, and the line that installs what is missing."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement

# For those who change or publish the package; users have no need of them.
OF_DEVELOPERS = ("bench", "dev", "docs")
# Distributions whose modules have other names.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "bioio_czi": "bioio-czi",
    "bioio_lif": "bioio-lif",
    "bioio_nd2": "bioio-nd2",
    "google_crc32c": "google-crc32c",
    "skimage": "scikit-image",
    "umap": "umap-learn",
}


def extras() -> dict[str, list[Requirement]]:
    """List the extras of the package for users, and the distributions that each needs."""
    names = metadata.metadata("wsdino").get_all("Provides-Extra") or []
    requirements = [Requirement(text) for text in metadata.requires("wsdino") or []]
    return {
        name: [each for each in requirements if _is_of(name, each)]
        for name in names
        if name not in OF_DEVELOPERS
    }


def _is_of(extra: str, requirement: Requirement) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra})


def is_installed(requirement: Requirement) -> bool:
    """Tell whether a distribution is installed, in a version that will do."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def install_line(module: str) -> str | None:
    """Return the command that installs a module, with the smallest extra; None if none has it."""
    top = module.partition(".")[0]
    wanted = DISTRIBUTIONS.get(top, top)
    having = {
        name: len(requirements)
        for name, requirements in extras().items()
        if any(each.name == wanted for each in requirements)
    }
    return f"pip install 'wsdino[{min(having, key=having.__getitem__)}]'" if having else None
