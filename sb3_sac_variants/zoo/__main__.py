"""The RL Zoo's commands with our algorithms, without the start-up hook.

``python -m sb3_sac_variants.zoo train --algo sac_v1 --env Pendulum-v1`` is
``python -m rl_zoo3.train --algo sac_v1 --env Pendulum-v1``, and so for the zoo's other commands below. One more,
``resume FOLDER``, goes on with a run that was interrupted.
"""

import runpy
import sys

from sb3_sac_variants.zoo.plugin import register

#: Each is a module that can be run; those of ``rl_zoo3.plots`` go by either name.
COMMANDS = {
    "train": "rl_zoo3.train",
    "tune": "sb3_sac_variants.zoo.tune",
    "enjoy": "rl_zoo3.enjoy",
    "record_video": "rl_zoo3.record_video",
    "load_from_hub": "rl_zoo3.load_from_hub",
    "push_to_hub": "rl_zoo3.push_to_hub",
    "plot_train": "rl_zoo3.plots.plot_train",
    "all_plots": "rl_zoo3.plots.all_plots",
    "plot_from_file": "rl_zoo3.plots.plot_from_file",
    "resume": "sb3_sac_variants.zoo.resume",
}


def main() -> None:
    """Run the zoo's command named by the first argument with the others."""
    command = sys.argv[1].removeprefix("plots.") if len(sys.argv) > 1 else ""
    usage = f"python -m sb3_sac_variants.zoo {{{','.join(COMMANDS)}}} ..."
    if command in ("-h", "--help"):
        print(f"usage: {usage}\n\nEach command lists its options: python -m sb3_sac_variants.zoo train --help")
        return
    if command not in COMMANDS:
        given = f"unknown command {sys.argv[1]!r}" if len(sys.argv) > 1 else "no command"
        sys.exit(f"{given}: {usage}")
    register()
    del sys.argv[1]
    runpy.run_module(COMMANDS[command], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
