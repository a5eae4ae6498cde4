from .cache import Cache as Cache
from .data_checks import MAX_CLASS_RATIO as MAX_CLASS_RATIO, kept_by_crop as kept_by_crop
from .dataset import ORIGINAL_FORMATS as ORIGINAL_FORMATS, Dataset as Dataset, DatasetPart as DatasetPart
from .formats import read_source as read_source
from .image_source import UNLABELED as UNLABELED, ImageSource as ImageSource, Shard as Shard, StoredImage as StoredImage
from .location import file_stamps as file_stamps, locate as locate
from .parallel_decoding import (
    MAX_IN_PROCESS_BYTES as MAX_IN_PROCESS_BYTES,
    MAX_SMALL_IMAGE_SIZE as MAX_SMALL_IMAGE_SIZE,
)
from .preparation import DataRequest as DataRequest, decode_sample as decode_sample, prepare as prepare
from .public_datasets import PUBLIC_DATASETS as PUBLIC_DATASETS, apply_metadata as apply_metadata
from .remote_files import fetch as fetch, file_system as file_system, is_remote as is_remote
from .shard_decoding import decode_stored_image as decode_stored_image
from .split import split_validation as split_validation, stratified_folds as stratified_folds
