from .decoder import (
    CROP as CROP,
    FORMATS as FORMATS,
    MIN_IMAGE_SIZE as MIN_IMAGE_SIZE,
    PAD as PAD,
    PAD_GRAY as PAD_GRAY,
    Dimensions as Dimensions,
    decode as decode,
    decode_with_metadata as decode_with_metadata,
    fit_to_square as fit_to_square,
    read_dimensions as read_dimensions,
)
from .image_headers import header_pixel_count as header_pixel_count
