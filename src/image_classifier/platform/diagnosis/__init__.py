"""The diagnosis behind `why`: collect symptoms from the cluster, recognize the cause, and say what to do."""
