from .attachments import Attestations as Attestations
from .model_signature import package_files as package_files
from .model_signature import verify as verify
from .model_signature import verify_folder as verify_folder
