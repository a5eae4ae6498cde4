from .space import study_name as study_name
from .study import SearchOptions as SearchOptions
from .tuning import search as search
