"""The routes of each protocol: `/predict`, `/explain`, KServe V1 and V2."""
