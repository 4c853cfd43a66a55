"""Ways of drawing an environment."""

from collections.abc import Sequence


def check_render_mode(render_mode: str | None, known: Sequence[str], env_id: str) -> None:
    """
    Check a constructor's ``render_mode``.

    :param render_mode: What was passed
    :param known: What the environment can do by itself
    :param env_id: Its id, with which Gymnasium shows the frames in a window
    :raises ValueError: If it can not do it
    """
    if render_mode is not None and render_mode not in known:
        raise ValueError(
            f"render_mode={render_mode!r} is not one of {[None, *known]}; for a window use "
            f'gymnasium.make("{env_id}", render_mode="human")'
        )
