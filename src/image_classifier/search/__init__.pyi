from .finalists import Finalist as Finalist
from .tuning import check_time as check_time
from .tuning import search as search
