"""The backbone that the settings name, and the request for data that fits it."""

from image_classifier.backbones import SHIPPED, Backbone, read_backbone
from image_classifier.datasets import DataRequest, fetch, is_remote
from image_classifier.errors import TrainingError
from image_classifier.files import expand_home
from image_classifier.settings import AUTO, NO_BACKBONE, Settings, pick
from image_classifier.text import without_credentials


def named_backbone(settings: Settings) -> Backbone | None:
    """The backbone that the setting `backbone` names, downloaded if it is an address; None for auto and none.

    Raises TrainingError if there is no such backbone or its file cannot be used, and DataError if it cannot be
    downloaded.
    """
    value = settings.backbone
    if value in (AUTO, NO_BACKBONE):
        return None
    if value in SHIPPED:
        return SHIPPED[value]
    shown = without_credentials(value)
    if is_remote(value):
        path = fetch(value, settings.home / "cache" / "backbones", settings.fetch_timeout, settings.max_data)
    else:
        path = expand_home(value)
        if not path.suffix:
            raise TrainingError(
                f"there is no backbone {shown!r}; use auto, none, {', '.join(SHIPPED)}, or the path or address of an "
                ".onnx or .safetensors file"
            )
    return read_backbone(path, shown)


def data_request(settings: Settings) -> DataRequest:
    """The request for the data of a training, whose photos have the size of the backbone.

    For "auto" that is the size of the fastest one; the training may choose another.
    """
    if settings.image_size or settings.backbone == NO_BACKBONE:
        return pick(settings, DataRequest)
    backbone = named_backbone(settings) or next(iter(SHIPPED.values()))
    return pick(settings, DataRequest, photo_size=backbone.image_size)
