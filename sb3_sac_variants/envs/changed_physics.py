"""MuJoCo environments whose bodies, ground, motors or joints differ from those of training."""

import math
from numbers import Real
from typing import Any

import gymnasium as gym


class ChangedPhysics(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Multiplies physical properties of a MuJoCo environment by constant factors.

    The zoo takes it as ``env_wrapper: {sb3_sac_variants.envs.ChangedPhysics: {mass: 1.5}}``. Around another
    ``ChangedPhysics`` the factors multiply. ``close()`` gives the model its nominal values back.

    :param env: A MuJoCo environment of Gymnasium
    :param mass: Factor of the masses and inertias of all bodies
    :param friction: Factor of the friction of all geoms. MuJoCo takes the larger one of two that touch, so that the
        ground alone would change nothing
    :param gear: Factor of the strength of all actuators
    :param damping: Factor of the damping of all joints
    :raises TypeError: If the environment has no MuJoCo model
    :raises ValueError: If a factor is no positive number
    """

    def __init__(
        self, env: gym.Env, mass: float = 1.0, friction: float = 1.0, gear: float = 1.0, damping: float = 1.0
    ) -> None:
        factors: dict[str, Any] = {"mass": mass, "friction": friction, "gear": gear, "damping": damping}
        for name, factor in factors.items():
            if isinstance(factor, bool) or not isinstance(factor, Real) or not 0 < float(factor) < math.inf:
                raise ValueError(f"{name}={factor!r} must be a positive number; 1 leaves the environment as it is")
        gym.utils.RecordConstructorArgs.__init__(self, **factors)
        gym.Wrapper.__init__(self, env)
        if not hasattr(getattr(env.unwrapped, "model", None), "body_mass"):
            raise TypeError(f"ChangedPhysics needs a MuJoCo environment, such as HalfCheetah-v5; got {env.unwrapped}")
        changes = {
            "body_mass": mass,
            "body_inertia": mass,
            "geom_friction": friction,
            "actuator_gear": gear,
            "dof_damping": damping,
        }
        self._nominal = {name: getattr(self._model, name).copy() for name in changes}
        self._changed = {name: self._nominal[name] * factor for name, factor in changes.items()}
        self._set(self._changed)

    @property
    def _model(self) -> Any:
        return self.env.unwrapped.model  # type: ignore[attr-defined]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Change a copy, too: Gymnasium makes the environment inside of it anew, with a model of nominal values."""
        vars(self).update(state)
        self._set(self._changed)

    def _set(self, values: dict[str, Any]) -> None:
        import mujoco

        for name, value in values.items():
            getattr(self._model, name)[:] = value
        # What MuJoCo derives from masses and gears; in data of its own, because it moves the bodies.
        mujoco.mj_setConst(self._model, mujoco.MjData(self._model))

    def close(self) -> None:
        """Give the model its nominal values back, and close the environment."""
        self._set(self._nominal)
        super().close()
