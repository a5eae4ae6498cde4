"""Scores of many images: a source goes through the model in parts, and each part becomes a parquet file."""
