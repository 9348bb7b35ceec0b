"""What a method is, and the parts that most of them share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from invjax.diffusion import ANCESTRAL, Transition, diffuse_once, tweedie
from invjax.problem import Problem
from invjax.schedule import Steps
from invjax.settings import Number, Settings, is_same
from invjax.types import OPERATOR_WORDS, Info, Operator

# The fields of `Transition`, which every method has, under the names that flags
# and records use.
TRANSITION = {
    'transition': 'kind',
    'variance': 'variance',
    'eta': 'eta',
    'clip': 'clip',
}


class Method(Settings):
    """One way to bring a prior and a measurement together; inherit from it.

    A method is a value: its fields are its hyperparameters (`invjax.settings`),
    and its functions read their arguments and the fields, nothing else. All
    that the project knows of a method stands in its class: what is redefined
    here, and what it overrides.

    Attributes:
        transition: how the prior's step is taken.
    """

    name = 'method'
    # Raise it with each change of what the same settings compute: it is part of
    # the names under which results are kept.
    version: ClassVar[int] = 1
    # What of an operator it asks for: a protocol of `invjax.types`.
    needs: ClassVar[type] = Operator
    # Whether its step is its own, and not the transition's plus a correction: of
    # the transition it then reads what `read_of_transition` says.
    has_own_step: ClassVar[bool] = False
    # Whether how often it evaluates the prior depends on what it sees.
    stops_by_value: ClassVar[bool] = False
    # Numbers that are read with one value of a choice alone: name to the
    # choice and that value.
    only_with: ClassVar[Mapping[str, tuple[str, str]]] = {}
    # Values of hyperparameters that `tune` goes over where no grid is given.
    tuning_grid: ClassVar[Mapping[str, tuple[float, ...]]] = {}
    # Settings that `validate` tries on the closed-form posteriors.
    validation_settings: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    transition: Transition = dataclasses.field(default=ANCESTRAL, kw_only=True)

    def start(self, key: jax.Array, problem: Problem, steps: Steps):
        """What the sampler carries before the first step: x and a state.

        By default pure noise, x_T ~ N(0, I), and no state (Algorithm 1). The
        sampler looks inside neither.
        """
        del steps
        return jax.random.normal(key, problem.image_shape), ()

    def update(
        self,
        key: jax.Array,
        x_t: Any,
        state: Any,
        step: Steps,
        problem: Problem,
        prior,
    ) -> tuple[Any, Any, Info]:
        """One whole step of the reverse process: x_s, state, Info.

        Args:
            key: of the step.
            x_t, state: from `start` or from the step before.
            step: a row of Steps.
            problem: the measurement and its operator.
            prior: (x_t, t) -> Prediction.
        """
        raise NotImplementedError(f'{type(self).__name__} has no update.')

    def finish(self, key: jax.Array, x: Any, state: Any, problem: Problem):
        """The image, (H, W, C), that the last x stands for."""
        del key, state, problem
        return x

    def first_t(self, steps: Steps) -> Number | None:
        """The timestep above which steps change nothing; None where all count.

        Such steps are left out (`batch`).

        Args:
            steps: all of them.
        """
        del steps
        return None

    def needs_of_operator(self) -> type:
        """`needs`, or less where a choice asks for less."""
        return self.needs

    def read_of_transition(self) -> tuple[str, ...]:
        """Of the transition's settings those that its step reads."""
        return ('clip',) if self.has_own_step else tuple(TRANSITION)

    def check_operator(self, operator) -> None:
        """Refuse, with a ValueError, an operator that it cannot do."""
        needed = self.needs_of_operator()
        if not isinstance(operator, needed):
            raise ValueError(
                f'{self.name} needs {OPERATOR_WORDS[needed]}, which '
                f'{type(operator).__name__} is not.'
            )

    @classmethod
    def hyperparameters(cls) -> dict[str, Any]:
        """Its own fields and their defaults, without the transition's."""
        return {
            field.name: field.default
            for field in dataclasses.fields(cls)
            if field.name != 'transition'
        }

    @classmethod
    def setting_names(cls) -> tuple[str, ...]:
        """The names that `of` takes."""
        return (*cls.hyperparameters(), *TRANSITION)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """The method with flat settings, as flags and records have them.

        Args:
            settings: its own by their names, and those of its transition:
                `transition` ('ddpm' or 'ddim'), `variance`, `eta`, `clip`.

        Raises:
            ValueError: for a name that it does not have, or a value that is out
                of its range.
        """
        cls.check_names(settings)
        own = {n: v for n, v in settings.items() if n not in TRANSITION}
        for name, value in own.items():
            # Flags and files give 8.0 for what is a whole number.
            if isinstance(value, float) and isinstance(
                cls.hyperparameters()[name], int
            ):
                own[name] = int(value) if value.is_integer() else value
        transition = Transition(
            **{TRANSITION[n]: v for n, v in settings.items() if n not in own}
        )
        return cls(**own, transition=transition)

    @classmethod
    def check_names(cls, names) -> None:
        """Refuse, with a ValueError, a setting that it does not have."""
        for name in names:
            if name not in cls.setting_names():
                raise ValueError(
                    f'{cls.name} has no hyperparameter {name!r}; it has '
                    f'{", ".join(cls.setting_names())}.'
                )

    def check_read(self, names) -> None:
        """Refuse, with a ValueError, settings that its choices leave unread.

        One at its default says nothing: a record has all settings.
        """
        defaults = type(self)()
        read = self.read_of_transition()
        needed = dict(self.only_with)
        if 'transition' in read:
            needed |= {'eta': ('transition', 'ddim')}
            needed |= {'variance': ('transition', 'ddpm')}
        for name in names:
            if name not in needed and name not in TRANSITION:
                continue
            if is_same(self._setting(name), defaults._setting(name)):
                continue
            if name in TRANSITION and name not in read:
                raise ValueError(
                    f'{name} is not read by {self.name}, whose step is its own; '
                    'of the transition it reads, as it is set, '
                    f'{", ".join(read) or "nothing"}.'
                )
            if name in needed:
                field, value = needed[name]
                if self._setting(field) != value:
                    raise ValueError(
                        f'{name} of {self.name} is read with {field}={value} '
                        f'alone, and {field} is {self._setting(field)}.'
                    )

    def _setting(self, name: str):
        """The value of one setting, by its name in `of`."""
        if name in TRANSITION:
            return getattr(self.transition, TRANSITION[name])
        return getattr(self, name)

    def settings(self) -> dict[str, Any]:
        """The inverse of `of`: all settings as plain data."""
        own = {n: _plain(getattr(self, n)) for n in self.hyperparameters()}
        return own | {
            name: _plain(getattr(self.transition, field))
            for name, field in TRANSITION.items()
        }

    def describe(self) -> dict[str, Any]:
        """What a result's record says of the method, as plain data."""
        return {
            'method': self.name,
            'version': self.version,
            'settings': self.settings(),
        }


def _plain(value):
    return value.item() if hasattr(value, 'item') else value


def guided_step(
    key: jax.Array,
    x_t: jax.Array,
    x0_hat: jax.Array,
    prediction,
    step: Steps,
    problem: Problem,
    transition: Transition,
    guidance: Number = 0.0,
) -> tuple[jax.Array, Info]:
    """A step of the prior plus a correction (Algorithm 2, lines 3 to 5).

    Args:
        key: of the step's noise.
        x_t, x0_hat: (H, W, C).
        prediction: the prior's at x_t.
        step: a row of Steps.
        problem: for the residual in Info.
        transition: how the prior's step is taken.
        guidance: (H, W, C), or zero: what is added to it.

    Returns:
        x_s, (H, W, C), and Info.
    """
    noise = jax.random.normal(key, x_t.shape)
    prior_x_s = transition(x_t, x0_hat, prediction, step, noise)
    guidance = jnp.broadcast_to(guidance, x_t.shape)
    info = observe(x_t, x0_hat, prior_x_s, guidance, problem)
    return prior_x_s + guidance, info


def corrected_step(
    key: jax.Array,
    x_t: jax.Array,
    x0_hat: jax.Array,
    x0_corrected: jax.Array,
    prediction,
    step: Steps,
    problem: Problem,
    transition: Transition,
) -> tuple[jax.Array, Info]:
    """A step of the prior with another estimate of the clean image in it.

    Args:
        x0_hat: (H, W, C), the prior's own.
        x0_corrected: (H, W, C), what the measurement made of it. Both are
            clipped here if the transition clips.

    The others are those of `guided_step`, and so is what it returns; guidance
    in Info is the difference that the correction makes to x_s.
    """
    if transition.clip:
        x0_hat = jnp.clip(x0_hat, -1, 1)
        x0_corrected = jnp.clip(x0_corrected, -1, 1)
    noise = jax.random.normal(key, x_t.shape)
    prior_x_s = transition(x_t, x0_hat, prediction, step, noise)
    x_s = transition(x_t, x0_corrected, prediction, step, noise)
    return x_s, observe(x_t, x0_hat, prior_x_s, x_s - prior_x_s, problem)


def renoise(
    x_t: jax.Array,
    x_0: jax.Array,
    step: Steps,
    mix: Number,
    noise: jax.Array,
) -> jax.Array:
    """x_s, (H, W, C), from a clean image and partly fresh noise (DiffPIR).

        eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)
        x_s = sqrt(alpha_bar_s) x_0
              + sqrt(1 - alpha_bar_s) (sqrt(1 - mix) eps + sqrt(mix) noise)

    Args:
        x_t, x_0: (H, W, C).
        step: a row of Steps.
        mix: () fraction of fresh noise, 0 (DDIM) to 1 (independent of x_t).
        noise: (H, W, C), standard normal.
    """
    eps = x_t - jnp.sqrt(step.alpha_bar_t) * x_0
    eps = eps / jnp.sqrt(step.noise_var_t)
    mixed = jnp.sqrt(1 - mix) * eps + jnp.sqrt(mix) * noise
    return jnp.sqrt(step.alpha_bar_s) * x_0 + jnp.sqrt(step.noise_var_s) * mixed


def estimate_and_transpose(x_t: jax.Array, step: Steps, prior):
    """Tweedie's estimate, not clipped, and the way back through it.

    Returns:
        x0_hat, (H, W, C); v -> J^T v with J = d x0_hat / d x_t; the prediction.
    """

    def estimate(x_t):
        prediction = prior(x_t, step.t)
        return tweedie(x_t, prediction.eps, step.alpha_bar_t), prediction

    x0_hat, transpose, prediction = jax.vjp(estimate, x_t, has_aux=True)
    return x0_hat, lambda v: transpose(v)[0], prediction


def repeat_step(
    key: jax.Array,
    x_t: jax.Array,
    step: Steps,
    problem: Problem,
    times: Number,
    step_once: Callable[[jax.Array, jax.Array], tuple[jax.Array, Info]],
) -> tuple[jax.Array, Info]:
    """Take a step several times, each but the last undone by fresh noise.

    Args:
        times: () a whole number, 1 or more. May be traced.
        step_once: (key, x_t) -> x_s, Info.

    Returns:
        x_s and Info of the last time.
    """

    def again(i, carry):
        x_t, _, _ = carry
        key_step, key_back = jax.random.split(jax.random.fold_in(key, i))
        x_s, info = step_once(key_step, x_t)
        noise = jax.random.normal(key_back, x_t.shape)
        return diffuse_once(x_s, step.beta, noise), x_s, info

    nothing = observe(x_t, x_t, x_t, x_t, problem)
    _, x_s, info = jax.lax.fori_loop(
        0, jnp.asarray(times, jnp.int32), again, (x_t, x_t, nothing)
    )
    return x_s, info


def observe(x_t, x0_hat, prior_x_s, guidance, problem: Problem) -> Info:
    """Info of a step that solved no linear system; images are (H, W, C)."""
    return Info(
        residual=jnp.linalg.norm(problem.residual(x0_hat)),
        prior_step=jnp.linalg.norm(prior_x_s - x_t),
        guidance=jnp.linalg.norm(guidance),
        clipped=jnp.mean(jnp.abs(x0_hat) >= 1),
        solver_residual=jnp.zeros(()),
    )
