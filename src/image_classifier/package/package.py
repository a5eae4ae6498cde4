"""Files of a model package, the contract between training and serving: write, read and verify.

A package is a folder that any ONNX runtime can serve, without pickled objects:

    model.onnx       input `image` uint8 [N, S, S, 3]; output `probabilities` float32 [N, K]; computes with float32, or
                     with int8 if that is faster and as accurate
    package.json     classes, image size, provenance; framing if it is not crop
    golden/*.png     a few validation images; golden.json holds the probabilities that the model must return for them
    reference.json   reference statistics for drift detection; those of the first packages of version 0.1 are ignored
    manifest.json    SHA-256 of each file, and the digest of the package
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from image_classifier.errors import PackageError
from image_classifier.files import folder_written_atomically, sha256_of
from image_classifier.images import CROP, PAD

FORMAT, PADDED_FORMAT = 1, 2
"""A program that reads only the first one would crop the images for a model that needs padding."""

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GoldenImage:
    """A PNG image and the probabilities that the model must return for it."""

    png: bytes
    label: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Package:
    """A package whose files match the manifest."""

    folder: Path
    digest: str
    """SHA-256, in hexadecimal, of the names and digests of all files."""
    classes: tuple[str, ...]
    image_size: int
    provenance: Mapping[str, Any]
    golden: tuple[GoldenImage, ...]
    reference: Mapping[str, Any]
    """Reference statistics, as `compute_reference` returns them."""
    framing: str = CROP
    """How an image is fitted to a square: `CROP` or `PAD`."""

    @classmethod
    def read(cls, folder: Path) -> "Package":
        """Read and verify the package in `folder`; files that the manifest does not list are ignored.

        Raises PackageError if a file is missing, was changed, or cannot be read.
        """
        manifest = _read_json(folder / "manifest.json")
        try:
            for name, expected in manifest["files"].items():
                if sha256_of(folder / name) != expected:
                    difference = "its SHA-256 differs from the manifest's"
                    raise PackageError(f"{folder / name} was changed: {difference}; download the package again")
            if _digest(manifest["files"]) != manifest["digest"]:
                raise PackageError(f"the digest in {folder / 'manifest.json'} does not match its list of files")
            content = _read_json(folder / "package.json")
            framing = content.get("framing", CROP)
            if (found := content["format"], framing) not in ((FORMAT, CROP), (PADDED_FORMAT, PAD)):
                raise PackageError(
                    f"{folder} has package format {found} with the framing {framing}, but this version reads format "
                    f"{FORMAT} with {CROP} and {PADDED_FORMAT} with {PAD}"
                )
            golden = tuple(
                GoldenImage((folder / item["file"]).read_bytes(), item["label"], tuple(item["probabilities"]))
                for item in _read_json(folder / "golden.json")
            )
            return cls(
                folder=folder,
                digest=manifest["digest"],
                classes=tuple(content["classes"]),
                image_size=content["image_size"],
                provenance=content["provenance"],
                golden=golden,
                reference=_read_json(folder / "reference.json"),
                framing=framing,
            )
        except OSError as error:
            raise PackageError(f"the package in {folder} cannot be read: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise PackageError(
                f"the package in {folder} is incomplete or was not written by this program ({error!r})"
            ) from error

    @property
    def model_file(self) -> Path:
        return self.folder / "model.onnx"


def write_package(
    folder: Path,
    *,
    model: bytes,
    classes: Sequence[str],
    image_size: int,
    provenance: Mapping[str, Any],
    golden: tuple[Images, Sequence[str], Probabilities],
    reference: Mapping[str, Any],
    framing: str = CROP,
) -> Package:
    """Write a package atomically and read it back.

    `model` is the serialized ONNX graph. `golden` holds images uint8 [G, S, S, 3], their labels, and the probabilities
    float32 [G, K] that the model must return.
    """
    with folder_written_atomically(folder) as draft:
        (draft / "model.onnx").write_bytes(model)
        content = {"format": FORMAT, "classes": list(classes), "image_size": image_size, "provenance": dict(provenance)}
        if framing == PAD:
            content |= {"format": PADDED_FORMAT, "framing": framing}
        _write_json(draft / "package.json", content)
        _write_json(draft / "reference.json", reference)
        (draft / "golden").mkdir()
        items = []
        for number, (image, label, probabilities) in enumerate(zip(*golden, strict=True)):
            name = f"golden/{number:03d}.png"
            (draft / name).write_bytes(encode_png(image))
            items.append({"file": name, "label": label, "probabilities": [float(p) for p in probabilities]})
        _write_json(draft / "golden.json", items)
        paths = [path for path in sorted(draft.rglob("*")) if path.is_file()]
        files = {path.relative_to(draft).as_posix(): sha256_of(path) for path in paths}
        _write_json(draft / "manifest.json", {"digest": _digest(files), "files": files})
    return Package.read(folder)


def encode_png(image: Images) -> bytes:
    """Encode an image, uint8 [S, S, 3], as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _digest(files: Mapping[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise PackageError(f"{path.parent} is not a model package: {path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise PackageError(f"{path} cannot be read: {error}") from error


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
