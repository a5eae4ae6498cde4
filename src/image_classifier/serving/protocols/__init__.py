"""One module per protocol: `/predict`, `/explain`, KServe V1, the Open Inference Protocol (V2) and its tensors."""
