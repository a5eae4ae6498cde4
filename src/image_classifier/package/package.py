"""The model package: the one contract between training and serving.

A folder, that any ONNX runtime can serve and in which nothing is pickled:

    model.onnx       input `image` uint8 [N, S, S, 3]; output `probabilities` float32 [N, K]; in between it
                     calculates with 32-bit floats, or with 8-bit integers where that pays
    package.json     classes, image size, provenance
    golden/*.png     a few validation images, with the probabilities they must give in golden.json
    reference.json   counts of images and answers by their statistics, against which drift is seen; those of
                     earlier versions of this program hold others, and are read over
    manifest.json    the SHA-256 of each file, and the digest over all of them
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from image_classifier.errors import PackageError
from image_classifier.files import folder_written_atomically, sha256_of
from image_classifier.images import decode

FORMAT = 1
INPUT, OUTPUT = "image", "probabilities"
GOLDEN_TOLERANCE = 1e-4
_BATCH = 256

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GoldenImage:
    """An image, as an encoded PNG, and what the model must answer to it."""

    png: bytes
    label: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Package:
    """A package that was read and whose every file has the digest that the manifest states."""

    folder: Path
    digest: str
    classes: tuple[str, ...]
    image_size: int
    provenance: Mapping[str, Any]
    golden: tuple[GoldenImage, ...]
    reference: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Package":
        """Read and verify the package in `folder`; raises PackageError. Files beside it are ignored."""
        manifest = _read_json(folder / "manifest.json")
        try:
            for name, stated in manifest["files"].items():
                if sha256_of(folder / name) != stated:
                    raise PackageError(
                        f"{folder / name} is not the file that was packed: its digest differs from the "
                        "manifest's; fetch the package again"
                    )
            if _digest(manifest["files"]) != manifest["digest"]:
                raise PackageError(
                    f"the digest in {folder / 'manifest.json'} does not fit its own list of files"
                )
            content = _read_json(folder / "package.json")
            if content["format"] != FORMAT:
                raise PackageError(
                    f"{folder} is a package of format {content['format']}, but this program reads "
                    f"format {FORMAT}"
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
            )
        except OSError as error:
            raise PackageError(f"the package in {folder} cannot be read: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise PackageError(
                f"the package in {folder} lacks {error}; it was not written by this program"
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
) -> Package:
    """Write a package, whole or not at all, and read it back.

    `model` is the serialised ONNX graph; `golden` holds images uint8 [G, S, S, 3], the label of each and
    the probabilities [G, K] that the model must give.
    """
    with folder_written_atomically(folder) as draft:
        (draft / "model.onnx").write_bytes(model)
        content = {
            "format": FORMAT,
            "classes": list(classes),
            "image_size": image_size,
            "provenance": dict(provenance),
        }
        _write_json(draft / "package.json", content)
        _write_json(draft / "reference.json", reference)
        (draft / "golden").mkdir()
        answers = []
        for number, (image, label, probabilities) in enumerate(zip(*golden, strict=True)):
            name = f"golden/{number:03d}.png"
            (draft / name).write_bytes(encode_png(image))
            answers.append({"file": name, "label": label, "probabilities": [float(p) for p in probabilities]})
        _write_json(draft / "golden.json", answers)
        files = {
            path.relative_to(draft).as_posix(): sha256_of(path)
            for path in sorted(draft.rglob("*"))
            if path.is_file()
        }
        _write_json(draft / "manifest.json", {"digest": _digest(files), "files": files})
    return Package.read(folder)


class Graph:
    """A loaded graph of a package's kind. Safe to call from several threads."""

    def __init__(self, model: Path | bytes, threads: int) -> None:
        """Load it on `threads` CPU threads; raises PackageError where that is not possible."""
        onnxruntime = load_runtime()
        options = onnxruntime.SessionOptions()
        # ONNX Runtime would take the machine's cores, whatever the container's quota.
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # The arena keeps the largest batch's memory for ever.
        options.enable_cpu_mem_arena = False
        # Threads that spin between requests use up a container's CPU quota: twice the CPU time, and no faster.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no narrower public base
            shown = "the graph" if isinstance(model, bytes) else model
            raise PackageError(f"{shown} cannot be loaded: {error}") from error

    def probabilities(self, images: Images) -> Probabilities:
        """The probabilities float32 [N, K] of images uint8 [N, S, S, 3]."""
        if len(images) <= _BATCH:
            return self._run(images)
        parts = [self._run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        return np.concatenate(parts)

    def _run(self, images: Images) -> Probabilities:
        answer: Probabilities = self.session.run([OUTPUT], {INPUT: images})[0]
        return answer


class Model:
    """A loaded package, ready to answer. Safe to call from several threads."""

    def __init__(self, package: Package, graph: Graph) -> None:
        self.package = package
        self._graph = graph

    @classmethod
    def load(cls, package: Package, threads: int) -> "Model":
        """Load the graph on `threads` CPU threads and replay the golden images.

        Raises PackageError where the graph cannot be loaded or an answer differs from the recorded one by
        more than 1e-4: such a model would answer otherwise than it was evaluated.
        """
        model = cls(package, Graph(package.model_file, threads))
        model._check_signature()
        model._replay()
        return model

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return self.package.classes

    def probabilities(self, images: Images) -> Probabilities:
        """The probabilities float32 [N, K] of images uint8 [N, S, S, 3]."""
        return self._graph.probabilities(images)

    def _check_signature(self) -> None:
        size, classes = self.package.image_size, len(self.package.classes)
        inputs = [(i.name, i.type, i.shape[1:]) for i in self._graph.session.get_inputs()]
        outputs = [(o.name, o.type, o.shape[1:]) for o in self._graph.session.get_outputs()]
        if inputs != [(INPUT, "tensor(uint8)", [size, size, 3])] or outputs != [
            (OUTPUT, "tensor(float)", [classes])
        ]:
            raise PackageError(
                f"{self.package.model_file} takes {inputs} and gives {outputs}, but a package's model takes "
                f"{INPUT} uint8 [N, {size}, {size}, 3] and gives {OUTPUT} float32 [N, {classes}]"
            )

    def _replay(self) -> None:
        size = self.package.image_size
        for number, golden in enumerate(self.package.golden):
            image = decode(golden.png, size, max_pixels=size * size)
            answer = self.probabilities(image[np.newaxis])[0]
            difference = float(np.abs(answer - np.array(golden.probabilities)).max())
            if not difference <= GOLDEN_TOLERANCE:
                raise PackageError(
                    f"golden image {number} of {self.package.folder} gives other probabilities than recorded "
                    f"(difference {difference:.2g}): this machine would answer otherwise than was evaluated"
                )


def load_runtime() -> ModuleType:
    """ONNX Runtime. A process that has loaded it may be forked, as long as it has made no session."""
    # Its telemetry starts a thread on import, which hangs or aborts a process that is forked afterwards.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime  # type: ignore[no-any-return]


def likeliest(probabilities: Probabilities, classes: Sequence[str], top: int) -> list[tuple[str, float]]:
    """The `top` likeliest classes of one image, float32 [K], and their probabilities, in order."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(classes[index], float(probabilities[index])) for index in order]


def encode_png(image: Images) -> bytes:
    """Encode one image, uint8 [S, S, 3], without loss."""
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
        raise PackageError(f"{path.parent} is no model package: it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise PackageError(f"{path} cannot be read: {error}") from error


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
