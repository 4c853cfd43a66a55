"""
One candidate of `speed.py`, in a process of its own.

So no candidate's threads, allocations or compiler touch another's. It measures once for each line of its standard
input, and answers with a line of JSON.

Also runs with an interpreter that has SBX and not this package (`speed.py --sbx-python`).
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym


def make_model(candidate: str, env: gym.Env, **arguments: Any) -> Any:
    """
    Make the model of a candidate.

    :param candidate: "sb3:SAC", "sbx:SAC", or "SACv2:eager" and the like; "-" and a change of `CHANGES` may follow
    :param env: environment
    :param arguments: of the model
    :return: the model
    """
    name, _, rest = candidate.partition(":")
    if name == "sbx":
        import sbx

        return getattr(sbx, rest)("MlpPolicy", env, **arguments)
    arguments["device"] = "cpu"  # also where there is a GPU
    if name == "sb3":
        import stable_baselines3

        return getattr(stable_baselines3, rest)("MlpPolicy", env, **arguments)
    import sb3_sac_variants

    engine, _, change = rest.partition("-")
    model = getattr(sb3_sac_variants, name)("MlpPolicy", env, engine=engine, **arguments)
    if change:
        CHANGES[change](model)
    return model


def optimizers_outside_the_graph(model: Any) -> None:
    """The compiled graph is broken for ``Optimizer.step()``, as for any optimiser but plain Adam."""
    _refresh_without(model, plain_adam=False)


def _refresh_without(model: Any, **attributes: Any) -> None:
    for learner in (*model.updater.learners.values(), model.temperature.learner):
        refresh = learner.refresh

        def refresh_without(learner: Any = learner, refresh: Callable[[], None] = refresh) -> None:
            refresh()
            vars(learner).update(attributes)

        learner.refresh = refresh_without
        learner.refresh()


def with_all_guards(model: Any) -> None:
    """torch.compile checks all it took for granted before each update."""
    from sb3_sac_variants.common.gradient_step import compilation

    compilation._guards_to_check = lambda guards: [True] * len(guards)


def critics_in_a_loop(model: Any) -> None:
    """One product for each critic instead of one for all."""
    import torch as th
    from torch.nn import functional

    from sb3_sac_variants.common.networks.critics import StackedLinear

    def forward(layer: Any, inputs: Any) -> Any:
        weights, biases = layer.weight.unbind(), layer.bias.unbind()
        each = inputs.unbind() if inputs.dim() == 3 else [inputs] * len(weights)
        return th.stack([functional.linear(x, w.t(), b[0]) for x, w, b in zip(each, weights, biases, strict=True)])

    StackedLinear.forward = forward  # type: ignore[method-assign]


def replay_in_numpy(model: Any) -> None:
    """SB3's replay buffer."""
    from stable_baselines3.common.buffers import ReplayBuffer

    model.replay_buffer = ReplayBuffer(
        model.buffer_size, model.observation_space, model.action_space, model.device, n_envs=model.n_envs
    )


def metrics_to_the_host(model: Any) -> None:
    """Metrics are read at each update, as ``.item()`` does."""
    add = model.updater.metrics.add

    def add_and_read(values: dict[str, Any]) -> None:
        add(values)
        for value in values.values():
            value.item()

    model.updater.metrics.add = add_and_read


def denormals_kept(model: Any) -> None:
    """Averages of the optimisers shrink to the smallest numbers there are, which processors are slow with."""
    for learner in model.updater.learners.values():
        learner.flush_denormals = lambda: None


def memory_given_back(model: Any) -> None:
    """The memory that an update frees goes back to the system, as by default, and comes again page by page."""
    from sb3_sac_variants.common.gradient_step import engine_choice

    engine_choice.keep_freed_memory = lambda: None


def last_layers_one_by_one(model: Any) -> None:
    """A product for the policy's mean and another for its standard deviation."""
    from sb3_sac_variants.common.networks import actors

    actors.ONE_PRODUCT_FROM = 10**9


def templates_for_products(model: Any) -> None:
    """The compiler tries its own matrix products beside the library's."""
    from torch._inductor import config

    config.max_autotune, config.max_autotune_gemm_backends = True, "ATEN,CPP"


def narrow_products_kept(model: Any) -> None:
    """Products of a dozen columns are computed as they are written."""
    from sb3_sac_variants.common.gradient_step.wide_products import WideProducts

    WideProducts.__call__ = lambda self, graph: None  # type: ignore[method-assign]
    WideProducts.uuid = lambda self: "unchanged"  # type: ignore[method-assign]


def wrapper_in_cpp(model: Any) -> None:
    """The compiled graph calls its kernels from C++, not from Python."""
    from torch._inductor import config

    config.cpp_wrapper = True


def bfloat16(model: Any) -> None:
    """As with ``precision="bfloat16"``."""
    model.precision = "bfloat16"


#: another precision, and steps of the ladder, each without one idea or with one that was not taken
CHANGES: dict[str, Callable[[Any], None]] = {
    function.__name__: function
    for function in (
        bfloat16,
        replay_in_numpy,
        critics_in_a_loop,
        metrics_to_the_host,
        optimizers_outside_the_graph,
        with_all_guards,
        denormals_kept,
        memory_given_back,
        last_layers_one_by_one,
        templates_for_products,
        narrow_products_kept,
        wrapper_in_cpp,
    )
}


class Updates:
    """
    Gradient steps per second on random transitions.

    :param candidate: what to measure
    :param options: of the command line
    """

    def __init__(self, candidate: str, options: argparse.Namespace):
        from harness import SHAPES, RandomAgents, RandomEnv, flop_an_update, prepare

        observation_dim, action_dim = SHAPES["Hopper"]
        discrete = "discrete" in candidate
        env: gym.Env = RandomEnv(observation_dim, 0 if discrete else action_dim)
        if options.agents:
            env = RandomAgents(options.agents)
        policy_kwargs: dict[str, Any] = {"net_arch": options.net_arch}
        if options.shared:
            policy_kwargs |= {"share_actor": True, "share_critic": True}
        batch_size, steps_a_call = options.batch_size, options.steps_a_call
        arguments: dict[str, Any] = {"seed": 0, "buffer_size": 20_000, "batch_size": batch_size}
        arguments["policy_kwargs"] = policy_kwargs
        candidate = candidate.replace("discrete ", "")
        model = make_model(candidate, env, **arguments)
        self.model, self.seconds, self.steps_a_call = prepare(model), options.seconds, steps_a_call
        self.flop = 0
        if not candidate.startswith("sbx:") and "bfloat16" not in candidate:
            name = candidate if candidate.startswith("sb3:") else f"{candidate.partition(':')[0]}:eager"
            self.flop = flop_an_update(prepare(make_model(name, env, **arguments), 300))
        for _ in range(3):
            self.model.train(gradient_steps=steps_a_call, batch_size=batch_size)

    def measure(self) -> dict[str, float]:
        """
        Measure once.

        :return: updates per second, and their share of the floor: of what the machine would do if an update were
            nothing but large products in float32
        """
        from harness import flop_per_second, updates_per_second

        per_second = updates_per_second(self.model, self.steps_a_call, self.seconds)
        return {"per_second": per_second, "floor_share": per_second * self.flop / flop_per_second()}


class EndToEnd:
    """
    Environment steps per second of ``learn()``, one environment, one update a step; and where the time goes.

    :param candidate: what to measure
    :param seconds: how long each time
    :param env_id: task
    """

    def __init__(self, candidate: str, seconds: float, env_id: str):
        self.model = make_model(candidate, gym.make(env_id), seed=0, learning_starts=100, buffer_size=50_000)
        self.seconds = seconds
        self.spent = {"environment": 0.0, "update": 0.0}
        self._time(self.model.env, "step", "environment")
        self._time(self.model, "train", "update")
        if hasattr(self.model, "engine"):  # "auto" compiles for a long run, and this one is measured in pieces
            from sb3_sac_variants.common.gradient_step import engine_choice

            engine_choice.COMPILE_PAYS_FROM = 0
        self._learn(300)

    def _time(self, owner: Any, method: str, stage: str) -> None:
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = original(*args, **kwargs)
            self.spent[stage] += time.perf_counter() - start
            return result

        setattr(owner, method, timed)

    def _learn(self, steps: int) -> None:
        self.model.learn(steps, log_interval=None, reset_num_timesteps=False)

    def measure(self) -> dict[str, float]:
        """
        Measure once.

        :return: steps per second, and microseconds a step in each stage
        """
        self.spent.update(environment=0.0, update=0.0)
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < self.seconds:
            self._learn(200)
            done += 200
        total = time.perf_counter() - start
        stages = {stage: 1e6 * seconds / done for stage, seconds in self.spent.items()}
        stages["rest"] = 1e6 * total / done - sum(stages.values())
        return {"per_second": done / total, **stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidate")
    parser.add_argument("--measure", choices=("updates", "end_to_end"), required=True)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--steps-a-call", type=int, default=1)
    parser.add_argument("--agents", type=int, default=0, help="0 for an environment of one")
    parser.add_argument("--shared", action="store_true", help="one set of networks for all agents")
    parser.add_argument("--net-arch", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if arguments.threads == 1:  # for JAX
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import torch as th

    th.set_num_threads(arguments.threads)
    bench: Updates | EndToEnd
    if arguments.measure == "updates":
        bench = Updates(arguments.candidate, arguments)
    else:
        bench = EndToEnd(arguments.candidate, arguments.seconds, arguments.env)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(bench.measure()), flush=True)


if __name__ == "__main__":
    main()
