from .attachments import Attestations as Attestations
from .model_signature import package_files as package_files, verify as verify, verify_folder as verify_folder
