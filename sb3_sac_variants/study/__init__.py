"""Several seeds of several algorithms: declare a study in a file, train it here or on a Ray cluster, report it.

``python -m sb3_sac_variants.study run FILE`` trains with the RL Zoo's own command, one process for each run;
``status`` shows how far the runs are, and ``report`` writes CSV files, tables and figures.
"""
