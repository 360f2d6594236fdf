"""
The flags of the section ``algorithm`` are the parameters of the constructors of the algorithm and of its policies.

The constructors need torch, whose import takes longer than all else that parses a command line. So their flags are
written down in ``algorithm_flags.py``, which ``make flags`` does, and a test compares them.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from textwrap import wrap
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from distributional_ppo import DistributionalPPO, QuantileActorCriticPolicy
from market_regimes.commands.flag import Flag
from market_regimes.run.algorithm import ACTIVATIONS, FEED_FORWARD, OPTIMIZERS, RECURRENT, recurrent_types
from market_regimes.run.schedule import schedule

# Parameters that the run or the algorithm provides, and those that name a class, which a file must not import.
SKIPPED = {
    *("self", "env", "policy_kwargs", "tensorboard_log", "verbose", "_init_setup_model"),
    *("rollout_buffer_class", "rollout_buffer_kwargs"),
}
SKIPPED_POLICY = {
    *("self", "observation_space", "action_space", "lr_schedule", "use_sde", "n_critics"),
    *("features_extractor_class", "features_extractor_kwargs"),
}
# Of parameters that are written in another form than they are passed.
TYPES: dict[str, Any] = {
    "policy": Literal[(*FEED_FORWARD, *RECURRENT)],
    "learning_rate": schedule,
    "clip_range": schedule,
    "clip_range_vf": schedule,
    "device": str,
    "activation_fn": Literal[tuple(ACTIVATIONS)],
    "optimizer_class": Literal[tuple(OPTIMIZERS)],
}
# Of parameters that only recurrent policies have; null stands for the constructor's default.
RECURRENT_HELP = {
    "sequence_length": (
        "cut longer sequences of a minibatch into chunks of this many steps; null: sequences end with the episode and "
        "the minibatch"
    ),
    "policy_kwargs.lstm_hidden_size": "units of each LSTM; null: 256",
    "policy_kwargs.n_lstm_layers": "layers of each LSTM; null: 1",
    "policy_kwargs.shared_lstm": "whether the critic reads the actor's LSTM, which it does not train; null: false",
    "policy_kwargs.enable_critic_lstm": (
        "whether the critic has an LSTM of its own; null: true, unless shared_lstm is"
    ),
    "policy_kwargs.lstm_kwargs.dropout": (
        "share of each LSTM layer's outputs that training drops before the next layer; null: 0"
    ),
    "policy_kwargs.lstm_kwargs.bias": "whether the LSTMs have biases; null: true",
}


def algorithm_flags() -> tuple[Flag, ...]:
    """:return: the flags of the section ``algorithm``, as the constructors have them here"""
    docstring = DistributionalPPO.__doc__ or ""
    flags = _flags_of(DistributionalPPO.__init__, docstring, SKIPPED, "")
    for policy in (QuantileActorCriticPolicy, ActorCriticPolicy):
        flags |= _flags_of(policy.__init__, policy.__doc__ or "", SKIPPED_POLICY, "policy_kwargs.")

    # Where they are null, the constructor chooses.
    for name, hint in recurrent_types().items():
        flags[name] = Flag(name, hint | None, None, f"recurrent policies: {RECURRENT_HELP.get(name, '')}")
    return tuple(flags.values())


def _flags_of(
    constructor: Any,
    docstring: str,
    skip: set[str],
    prefix: str,
) -> dict[str, Flag]:
    """One flag per parameter of a constructor by its name, typed and described by its signature and docstring."""
    documented = parse_docstring(docstring).params
    helps = {param.arg_name: " ".join((param.description or "").split()) for param in documented}

    # SB3's type of an environment names VecEnv, which its module imports for type checkers only.
    hints = {**get_type_hints(constructor, localns={"VecEnv": VecEnv}), **TYPES}

    flags: dict[str, Flag] = {}
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name in skip or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue

        # A class is written by its name.
        default = "MlpPolicy" if parameter.default is parameter.empty else parameter.default
        default = getattr(default, "__name__", default)
        flags[prefix + name] = Flag(prefix + name, hints[name], default, helps.get(name, ""))
    return flags


def source_of(flags: tuple[Flag, ...]) -> str:
    """
    :param flags: of the section ``algorithm``
    :return: the text of ``algorithm_flags.py``, not yet formatted
    """
    lines = [
        '"""The flags of the section ``algorithm``; ``make flags`` writes this file from the constructors."""',
        "",
        "from typing import Any, Literal",
        "",
        "from market_regimes.commands.flag import Flag",
        "from market_regimes.run.schedule import schedule",
        "",
        "ALGORITHM_FLAGS = (",
        *(_flag_source(flag) for flag in flags),
        ")",
    ]
    return "\n".join(lines) + "\n"


def _flag_source(flag: Flag) -> str:
    """A flag as Python code, its help in lines."""
    words = wrap(flag.help, 100, drop_whitespace=False) or [""]
    help = "\n".join(repr(line) for line in words)
    return f"Flag({flag.name!r}, {_type_source(flag.type)}, {flag.default!r}, {help}),"


def _type_source(hint: Any) -> str:
    """A type as Python code."""
    if isinstance(hint, type) and get_origin(hint) is None:
        return "None" if hint is type(None) else hint.__name__
    if hint is schedule or hint is Any:
        return hint.__name__  # type: ignore[no-any-return]

    # Unions, whichever way they are written; choices; lists and dictionaries.
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return f"Literal{list(parts)}"
    sources = [_type_source(part) for part in parts]
    if isinstance(hint, UnionType) or get_origin(hint) not in (list, dict):
        return " | ".join(sources)
    return f"{get_origin(hint).__name__}[{', '.join(sources)}]"


if __name__ == "__main__":
    Path(__file__).with_name("algorithm_flags.py").write_text(source_of(algorithm_flags()), encoding="utf-8")
