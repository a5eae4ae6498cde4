from .decoder import FORMATS as FORMATS
from .decoder import SMALLEST_SIZE as SMALLEST_SIZE
from .decoder import Extent as Extent
from .decoder import decode as decode
from .decoder import decode_with_original as decode_with_original
from .decoder import fit as fit
from .decoder import measure as measure
from .encoded import stated_pixels as stated_pixels
