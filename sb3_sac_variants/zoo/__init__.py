"""The RL Zoo trains, plays and tunes the algorithms of this package.

After ``pip install`` the zoo's own commands know them (``python -m rl_zoo3.train --algo sac_v1 ...``) through a
start-up hook. Without the hook, ``python -m sb3_sac_variants.zoo train --algo sac_v1 ...`` does the same, and a
script calls :func:`register` before it uses the zoo.
"""

from sb3_sac_variants.zoo.plugin import ZOO_ALGORITHMS, ZooAlgorithm, hyperparameter_file, register

__all__ = ["ZOO_ALGORITHMS", "ZooAlgorithm", "hyperparameter_file", "register"]
