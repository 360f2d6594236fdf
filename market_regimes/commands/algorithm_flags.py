"""The flags of the section ``algorithm``; ``make flags`` writes this file from the constructors."""

from typing import Any, Literal

from market_regimes.commands.flag import Flag
from market_regimes.run.schedule import schedule

ALGORITHM_FLAGS = (
    Flag(
        "policy",
        Literal["MlpPolicy", "CnnPolicy", "MultiInputPolicy", "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy"],
        "MlpPolicy",
        '"MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a subclass of ``ActorCriticPolicy``, whose '
        "``value_net`` becomes the quantile head",
    ),
    Flag(
        "learning_rate",
        schedule,
        0.0003,
        "learning rate, may be a function of the remaining progress (from 1 to 0), as clip ranges may",
    ),
    Flag("n_steps", int, 2048, "steps per environment and rollout; n_steps * n_envs must exceed 1"),
    Flag("batch_size", int, 64, "minibatch size"),
    Flag("n_epochs", int, 10, "passes over each rollout"),
    Flag("gamma", float, 0.99, "discount factor"),
    Flag("gae_lambda", float, 0.95, "trade-off of bias against variance in the advantage and in the critic's target"),
    Flag("clip_range", schedule, 0.2, "clip range of the policy ratio"),
    Flag(
        "clip_range_vf", schedule, None, "largest useful move of the critic's predictions in an update, None: no limit"
    ),
    Flag("normalize_advantage", bool, True, "whether to normalise the advantages of each minibatch"),
    Flag("ent_coef", float, 0.0, "weight of the entropy loss"),
    Flag("vf_coef", float, 0.5, "weight of the value loss, before the variance weight"),
    Flag("max_grad_norm", float, 0.5, "gradients are clipped to this norm, see ``gradient_clipping``"),
    Flag("use_sde", bool, False, "whether to explore with generalised state-dependent exploration (gSDE)"),
    Flag("sde_sample_freq", int, -1, "steps between new gSDE noise, -1: once per rollout"),
    Flag(
        "target_kl",
        float | None,
        None,
        "stop an update when the approximate KL divergence exceeds 1.5 times this, None: never",
    ),
    Flag("stats_window_size", int, 100, "episodes over which rollout statistics are averaged"),
    Flag("seed", int | None, None, "seed of all random generators"),
    Flag("device", str, "auto", '"auto", "cpu", "cuda", ...'),
    Flag(
        "quantile_huber_kappa",
        float,
        1.0,
        "error at which the quantile-Huber loss turns from quadratic to linear, in the units of the loss. A "
        "kappa far above the errors makes the quantiles expectiles, which are too narrow",
    ),
    Flag(
        "quantile_huber_kappa_units",
        Literal["loss", "std"] | None,
        None,
        'unit of kappa. "loss": that of the loss. "std": one standard deviation of the returns, averaged by '
        '``return_stats_rate``, with or without ``normalize_returns``. None: "loss" with "quantile_huber", '
        '"std" with "mean_and_spread"',
    ),
    Flag(
        "critic_loss",
        Literal["quantile_huber", "mean_and_spread"],
        "quantile_huber",
        '"quantile_huber": the quantile-Huber loss of every quantile, times the variance weight. '
        "\"mean_and_spread\": the squared error of the quantiles' mean, as PPO's value loss, plus a loss of the"
        " quantiles around it. That second loss is 4 kappa, or 4 of its units if that is more, times their "
        "quantile-Huber loss. Only it has the variance weight",
    ),
    Flag(
        "value_target",
        Literal["gae", "sr_lambda"],
        "gae",
        '"gae": every quantile learns the GAE(lambda) return, as in PPO. "sr_lambda": the quantiles learn a '
        "sampled distribution of lambda-returns (sample replacement) and its spread",
    ),
    Flag(
        "normalize_returns",
        bool,
        False,
        "let the critic predict (return - mean) / std of past returns. Set it where the scale of rewards is "
        "unknown: the variance weight is in squared units of the loss",
    ),
    Flag(
        "return_stats_rate",
        float | None,
        0.1,
        "weight in (0, 1] of the newest rollout in those statistics, None: all rollouts alike",
    ),
    Flag(
        "use_popart",
        bool,
        False,
        "rescale the critic's last layer when the statistics move, so that raw predictions stay. Needs "
        "``normalize_returns``",
    ),
    Flag(
        "distributional_vf_clip_mode",
        Literal["per_quantile", "mean_only", "mean_and_variance", "disable"] | None,
        None,
        'quantity that ``clip_range_vf`` limits: "per_quantile" (also None), "mean_only" or '
        '"mean_and_variance". "disable" ignores ``clip_range_vf``',
    ),
    Flag(
        "distributional_vf_clip_variance_factor",
        float,
        2.0,
        'largest ratio of the quantiles\' new standard deviation to the old one, with "mean_and_variance". All'
        " quantiles start equal, so it also limits how fast they spread",
    ),
    Flag(
        "clip_range_vf_units",
        Literal["raw", "std"],
        "raw",
        '"raw": ``clip_range_vf`` in units of return; "std": in standard deviations of the returns, needs '
        "``normalize_returns``",
    ),
    Flag(
        "use_twin_critics",
        bool,
        False,
        "two critics, each with its loss and weight; the value is the smaller mean, per state",
    ),
    Flag(
        "use_variance_gradient_scaling",
        bool,
        True,
        "multiply the value loss by the clamped mean variance of the quantiles",
    ),
    Flag(
        "variance_scaling_clip_min",
        float,
        0.1,
        "smallest weight, >= 0. Below 1e-6 there is none, and the weight is 1 until the quantiles spread",
    ),
    Flag("variance_scaling_clip_max", float, 10.0, "largest weight, may equal the smallest"),
    Flag(
        "variance_scaling_mode",
        Literal["batch", "dsac_t"],
        "batch",
        '"batch": one weight per minibatch, the mean variance. "dsac_t": one weight per sample, smaller where'
        ' the variance is larger. Use "dsac_t" with ``normalize_returns``',
    ),
    Flag(
        "gradient_clipping",
        Literal["joint", "apart"],
        "joint",
        '"joint": ``max_grad_norm`` limits one norm of all gradients, as in PPO. "apart": it limits three '
        "norms: parameters of the actor's loss only, of the critic's only, and of both",
    ),
    Flag(
        "compile",
        bool,
        False,
        "run the minibatch update and the policy's step in the rollout as compiled graphs. The numbers are "
        "the same up to rounding, but the random actions differ. Compiling takes some 20 seconds before the "
        "second update",
    ),
    Flag(
        "policy_kwargs.n_quantiles",
        int,
        32,
        "number of quantiles N of the critic, at least 1. All start at the value that SB3's policy has with "
        "the same seed",
    ),
    Flag(
        "policy_kwargs.net_arch",
        list[int] | dict[str, list[int]] | None,
        None,
        "The specification of the policy and value networks.",
    ),
    Flag(
        "policy_kwargs.activation_fn",
        Literal["Tanh", "ReLU", "ELU", "GELU", "SiLU", "LeakyReLU"],
        "Tanh",
        "Activation function",
    ),
    Flag("policy_kwargs.ortho_init", bool, True, "Whether to use or not orthogonal initialization"),
    Flag("policy_kwargs.log_std_init", float, 0.0, "Initial value for the log standard deviation"),
    Flag(
        "policy_kwargs.full_std",
        bool,
        True,
        "Whether to use (n_features x n_actions) parameters for the std instead of only (n_features,) when using gSDE",
    ),
    Flag(
        "policy_kwargs.use_expln",
        bool,
        False,
        "Use ``expln()`` function instead of ``exp()`` to ensure a positive standard deviation (cf paper). It"
        " allows to keep variance above zero and prevent it from growing too fast. In practice, ``exp()`` is "
        "usually enough.",
    ),
    Flag(
        "policy_kwargs.squash_output",
        bool,
        False,
        "Whether to squash the output using a tanh function, this allows to ensure boundaries when using gSDE.",
    ),
    Flag(
        "policy_kwargs.share_features_extractor",
        bool,
        True,
        "If True, the features extractor is shared between the policy and value networks.",
    ),
    Flag(
        "policy_kwargs.normalize_images",
        bool,
        True,
        "Whether to normalize images or not, dividing by 255.0 (True by default)",
    ),
    Flag(
        "policy_kwargs.optimizer_class",
        Literal["Adam", "AdamW", "RMSprop", "SGD", "UPGD", "AdaptiveUPGD"],
        "Adam",
        "The optimizer to use, ``th.optim.Adam`` by default",
    ),
    Flag(
        "policy_kwargs.optimizer_kwargs",
        dict[str, Any] | None,
        None,
        "Additional keyword arguments, excluding the learning rate, to pass to the optimizer",
    ),
    Flag(
        "sequence_length",
        int | None,
        None,
        "recurrent policies: cut longer sequences of a minibatch into chunks of this many steps; null: "
        "sequences end with the episode and the minibatch",
    ),
    Flag("policy_kwargs.lstm_hidden_size", int | None, None, "recurrent policies: units of each LSTM; null: 256"),
    Flag("policy_kwargs.n_lstm_layers", int | None, None, "recurrent policies: layers of each LSTM; null: 1"),
    Flag(
        "policy_kwargs.shared_lstm",
        bool | None,
        None,
        "recurrent policies: whether the critic reads the actor's LSTM, which it does not train; null: false",
    ),
    Flag(
        "policy_kwargs.enable_critic_lstm",
        bool | None,
        None,
        "recurrent policies: whether the critic has an LSTM of its own; null: true, unless shared_lstm is",
    ),
    Flag(
        "policy_kwargs.lstm_kwargs.dropout",
        float | None,
        None,
        "recurrent policies: share of each LSTM layer's outputs that training drops before the next layer; null: 0",
    ),
    Flag(
        "policy_kwargs.lstm_kwargs.bias",
        bool | None,
        None,
        "recurrent policies: whether the LSTMs have biases; null: true",
    ),
)
