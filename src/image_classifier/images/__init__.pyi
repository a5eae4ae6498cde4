from .decoder import (
    FORMATS as FORMATS,
    MIN_IMAGE_SIZE as MIN_IMAGE_SIZE,
    Dimensions as Dimensions,
    decode as decode,
    decode_with_metadata as decode_with_metadata,
    read_dimensions as read_dimensions,
    resize_and_crop as resize_and_crop,
)
from .image_headers import header_pixel_count as header_pixel_count
