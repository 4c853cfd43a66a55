"""Several seeds of several algorithms: declare a study in a file, train it here or on a Ray cluster, report it."""
