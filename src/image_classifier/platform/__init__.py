"""What a supply chain needs beside the steps: the source, the model download, the trial of a candidate."""
