"""BentoML, asked with the bytes: bentoml serve bentoml_service:Peer --port 8080."""

from typing import Annotated

import bentoml
from bentoml.validators import ContentType
from package_model import PackageModel


@bentoml.service(workers=2, metrics={"enabled": False})
class Peer:
    def __init__(self) -> None:
        self.model = PackageModel()

    @bentoml.api
    def predict(self, image: Annotated[bytes, ContentType("image/jpeg")], /) -> dict[str, object]:
        return self.model.predict(image)
