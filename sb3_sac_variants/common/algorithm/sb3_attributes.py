"""What code written for SB3's SAC reads and sets on a model: networks, the temperature, and batch normalisation."""

import warnings
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.utils import get_parameters_by_name

from sb3_sac_variants.common.algorithm.arguments import check_ent_coef_change
from sb3_sac_variants.common.checks.compatibility import check_instance
from sb3_sac_variants.common.checks.validation import parse_ent_coef
from sb3_sac_variants.common.gradient_step.temperature import LearnedTemperature, Temperature
from sb3_sac_variants.common.gradient_step.updater import Updater
from sb3_sac_variants.common.networks.critics import StackedCritic
from sb3_sac_variants.common.networks.policies import MaxEntPolicy


class SB3Attributes:
    """SB3's names for what belongs to parts of a model here."""

    policy: MaxEntPolicy
    critic: StackedCritic
    temperature: Temperature
    tracked_networks: ClassVar[dict[str, str]]
    updater: Updater

    @property
    def _n_updates(self) -> int:
        """
        Gradient steps done before now, by SB3's name; an update, or a hook in it, may read it eagerly.

        :raises RuntimeError: in a compiled or captured update, where it would stand still for good
        """
        updater: Updater | None = vars(self).get("updater")
        return vars(self)["_n_updates"] + (0 if updater is None else updater.steps_of_this_run())

    @_n_updates.setter
    def _n_updates(self, value: int) -> None:
        vars(self)["_n_updates"] = value

    def _network_names(self) -> set[str]:
        return {"actor", *self.policy.learned_networks, *self.tracked_networks.values()}

    def _create_aliases(self) -> None:
        """Take over the networks of the policy as SB3's attributes ``actor``, ``critic``, ..."""
        for name in self._network_names():
            setattr(self, name, getattr(self.policy, name))

    def _networks(self) -> dict[str, th.nn.Module]:
        """
        The networks by their names.

        Updates and rollouts take those of the model, ``predict()`` and ``save()`` those of the policy: where somebody
        has replaced one of the two, the other follows.
        """
        networks = {name: getattr(self, name) for name in self._network_names()}
        for name, network in networks.items():
            of_policy = getattr(self.policy, name)
            if network is not of_policy:
                networks[name] = of_policy if network is self.updater.networks.get(name) else network
                setattr(self, name, networks[name])
                setattr(self.policy, name, networks[name])
        return networks

    @property
    def ent_coef(self) -> str | float:
        """
        The temperature as it was passed: a number, or where it is learned "auto" or "auto_0.1".

        A fixed one may be changed at any time. A learned one is where ``log_ent_coef`` is.
        """
        return vars(self)["ent_coef"]

    @ent_coef.setter
    def ent_coef(self, ent_coef: str | float) -> None:
        if "temperature" in vars(self):
            check_ent_coef_change(self, ent_coef)
            if not self.temperature.learned:
                self._set_fixed_temperature(parse_ent_coef(ent_coef)[0])
        # A Python number, whatever it came as: it is saved
        vars(self)["ent_coef"] = ent_coef if isinstance(ent_coef, str) else parse_ent_coef(ent_coef)[0]

    def _note_ent_coef(self) -> None:
        """Take a fixed temperature that was changed in place (``ent_coef_tensor.fill_(0.1)``) for what was passed."""
        used, (passed, learned) = self.temperature.value, parse_ent_coef(self.ent_coef)
        if not learned and not th.equal(used, th.full_like(used, passed)):
            try:
                self.ent_coef_tensor = used
            except ValueError as error:  # the run goes on, and has something to save
                warnings.warn(f"{error}. What is saved is ent_coef={passed}", stacklevel=3)

    def _set_fixed_temperature(self, value: float) -> None:
        """Change a temperature that is not learned."""
        self.temperature.value.fill_(value)

    @property
    def ent_coef_tensor(self) -> th.Tensor:
        """The fixed temperature, as SB3 has it; to be set as :attr:`ent_coef`, or in place."""
        if self.temperature.learned:
            raise AttributeError(f"ent_coef_tensor: with ent_coef={self.ent_coef!r}, read log_ent_coef.exp() instead")
        return self.temperature.value

    @ent_coef_tensor.setter
    def ent_coef_tensor(self, value: th.Tensor | float) -> None:
        if isinstance(value, th.Tensor) and value.numel() != 1:  # of several agents
            different = value.unique()
            if len(different) != 1:
                raise ValueError(f"ent_coef_tensor={value!r} has not one value, the same for all agents: pass a number")
            value = different
        self.ent_coef = value.item() if hasattr(value, "item") else value

    @property
    def log_ent_coef(self) -> th.Tensor | None:
        """Log of the learned temperature, ``(1,)`` (with several agents, one each); None if it is fixed."""
        return self.temperature.log_ent_coef if isinstance(self.temperature, LearnedTemperature) else None

    @log_ent_coef.setter
    def log_ent_coef(self, value: th.Tensor) -> None:
        if not isinstance(self.temperature, LearnedTemperature):
            raise AttributeError(f"log_ent_coef: ent_coef={self.ent_coef!r} is fixed: set ent_coef")
        self._check_stays_learned("log_ent_coef", value)
        own, value = self.temperature.log_ent_coef, th.as_tensor(value).flatten()
        if value.numel() not in (1, own.numel()) or not value.isfinite().all():
            raise ValueError(f"log_ent_coef={value} must be {own.numel()} finite number(s), or one for all")
        with th.no_grad():
            own.copy_(value)  # optimiser and captured graphs know the parameter that is there

    def _check_stays_learned(self, name: str, value: Any) -> None:
        if value is None:
            raise ValueError(
                f"{name}=None cannot make the learned ent_coef={self.ent_coef!r} a fixed one: make a new model, and "
                "give its policy the state_dict of this one's"
            )

    @property
    def ent_coef_optimizer(self) -> th.optim.Optimizer | None:
        """Optimiser of the learned temperature; None if it is fixed."""
        return self.temperature.optimizer if isinstance(self.temperature, LearnedTemperature) else None

    @ent_coef_optimizer.setter
    def ent_coef_optimizer(self, optimizer: th.optim.Optimizer) -> None:
        if not isinstance(self.temperature, LearnedTemperature):
            raise AttributeError(f"ent_coef_optimizer: ent_coef={self.ent_coef!r} is fixed, and has none")
        self._check_stays_learned("ent_coef_optimizer", optimizer)
        check_instance("ent_coef_optimizer", optimizer, th.optim.Optimizer, "an optimiser of [log_ent_coef]")
        self.temperature.optimizer = optimizer

    @property
    def batch_norm_stats(self) -> list[th.Tensor]:
        """Statistics of the critic's batch normalisation, as SB3's; targets follow them by themselves."""
        return get_parameters_by_name(self.critic, ["running_"])

    @property
    def batch_norm_stats_target(self) -> list[th.Tensor]:
        """Those of the target critic, where there is one."""
        return get_parameters_by_name(self.critic_target, ["running_"])  # type: ignore[attr-defined]
