"""Generators of the checked-in files that are derived from the code: manifests and documents."""
