"""The command `fetch`: download a registered version, as KServe's storage initializer does.

It runs before every pod of a server starts, so it imports neither NumPy nor MLflow.
"""

from collections.abc import Mapping
from pathlib import Path

from image_classifier.platform import download_version
from image_classifier.settings import Settings


def fetch(settings: Settings, uri: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Download the package of the version `uri` into `folder`; `environment` may hold MLflow's credentials."""
    download_version(
        uri,
        folder,
        tracking_uri=settings.tracking_uri,
        timeout=settings.registry_timeout,
        credentials=environment,
        public_key=settings.public_key,
    )
