"""
What a gradient step of MASAC costs from 2 to 16 agents: networks of each agent's own, and shared ones.

Observations and actions are those of Simple Spread, 6 N and 5 numbers for each agent, filled with random numbers. With
networks of its own for each agent, the critics' first layer grows with N^2 weights, the others with N.

    python benchmarks/multi_agent/cost.py                # eager; a minute or two on one core
    python benchmarks/multi_agent/cost.py --engine compile
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch as th

from sb3_sac_variants import MASAC

FOLDER = Path(__file__).resolve().parent
sys.path.append(str(FOLDER.parent))
from harness import RandomAgents, alternate, prepare, updates_per_second, where, write_csv  # noqa: E402

SETTINGS = {"own networks": {}, "shared networks": {"share_actor": True, "share_critic": True}}


def prepared(n_agents: int, engine: str, device: str, batch_size: int, policy_kwargs: dict) -> MASAC:
    """
    :param n_agents: number of agents
    :param engine: how updates run
    :param device: where
    :param batch_size: transitions in each
    :param policy_kwargs: which networks are shared
    :return: a model with random transitions in its replay buffer
    """
    arguments = {"net_arch": [64, 64], **policy_kwargs}
    model = MASAC(
        "MlpPolicy",
        RandomAgents(n_agents),
        engine=engine,
        device=device,
        batch_size=batch_size,
        buffer_size=2000,
        policy_kwargs=arguments,
        ce_coef=0.01,
        seed=0,
    )
    prepare(model, transitions=2000)
    model.train(3, batch_size)  # compiles, or captures
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--engine", default="eager", choices=["eager", "compile", "cudagraph"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    parser.add_argument("--out", type=Path, default=FOLDER / "cost.csv")
    args = parser.parse_args()
    if args.device == "cpu":
        th.set_num_threads(1)

    rows = []
    for n_agents in args.agents:
        models = {
            name: prepared(n_agents, args.engine, args.device, args.batch_size, kwargs)
            for name, kwargs in SETTINGS.items()
        }
        speeds = alternate(
            {name: lambda m=model: updates_per_second(m, 5, args.seconds) for name, model in models.items()},
            args.rounds,
        )
        for name, model in models.items():
            times = [1000 / speed for speed in speeds[name]]
            row = {
                "agents": n_agents,
                "networks": name,
                "engine": args.engine,
                "milliseconds": f"{statistics.median(times):.2f}",
                "spread": f"{max(times) - min(times):.2f}",
                "parameters": sum(p.numel() for module in (model.actor, model.critic) for p in module.parameters()),
            }
            print(*row.values(), sep="\t", flush=True)
            rows.append({**row, **where(args.device)})
    write_csv(args.out, rows)


if __name__ == "__main__":
    main()
