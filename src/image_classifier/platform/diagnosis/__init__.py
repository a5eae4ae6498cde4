"""`why`: collect what the cluster says of a workload, recognize the cause, and say what to do."""
