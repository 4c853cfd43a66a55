"""The RL Zoo trains, plays and tunes the algorithms of this package, and of other packages that declare theirs.

After ``pip install`` the zoo's own commands know them (``python -m rl_zoo3.train --algo sac_v1 ...``) through a
start-up hook. Without the hook, ``python -m sb3_sac_variants.zoo train --algo sac_v1 ...`` does the same, and a
script calls :func:`register` before it uses the zoo. To add an algorithm, see :class:`ZooAlgorithm`.
"""

from sb3_sac_variants.zoo.plugin import ZooAlgorithm, hyperparameter_file, register

__all__ = ["ZooAlgorithm", "hyperparameter_file", "register"]
