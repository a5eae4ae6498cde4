from .identity import VERSION_FILE as VERSION_FILE, ModelIdentity as ModelIdentity
from .model import (
    ACTIVATION_MAP_OUTPUT as ACTIVATION_MAP_OUTPUT,
    ACTIVATION_MAP_SWITCH as ACTIVATION_MAP_SWITCH,
    EMBEDDING_OUTPUT as EMBEDDING_OUTPUT,
    INPUT as INPUT,
    OUTPUT as OUTPUT,
    ActivationMaps as ActivationMaps,
    Embeddings as Embeddings,
    Graph as Graph,
    Model as Model,
    batch_images as batch_images,
    load_runtime as load_runtime,
    output_shapes as output_shapes,
    top_classes as top_classes,
)
from .package import (
    GoldenImage as GoldenImage,
    Images as Images,
    Package as Package,
    Probabilities as Probabilities,
    encode_png as encode_png,
    write_package as write_package,
)
from .reference_statistics import (
    CLASS_FEATURE as CLASS_FEATURE,
    CONFIDENCE_FEATURE as CONFIDENCE_FEATURE,
    EMBEDDING_FEATURE as EMBEDDING_FEATURE,
    IMAGE_STATISTICS as IMAGE_STATISTICS,
    MAX_EMBEDDINGS as MAX_EMBEDDINGS,
    MIN_EMBEDDINGS as MIN_EMBEDDINGS,
    SIZE_FEATURE as SIZE_FEATURE,
    bin_index as bin_index,
    center_crop as center_crop,
    compute_embedding_reference as compute_embedding_reference,
    compute_reference as compute_reference,
    decode_array as decode_array,
    encode_array as encode_array,
    image_statistics as image_statistics,
    project as project,
    shorter_side as shorter_side,
    top_confidence as top_confidence,
)
from .timing import quantile_interval as quantile_interval, time_in_turn as time_in_turn
