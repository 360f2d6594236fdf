"""
Whole updates of ``DistributionalPPO`` against updates by hand.

The hand knows the rollout, what the policy predicts in public, and the formulas; it steps by gradient descent, in which
no factor of the loss is lost. Every parameter, every statistic and every logged scalar is compared after every update.
"""

import contextlib
import copy

import numpy as np
import pytest
import torch
from builders import CLIP_MODES, NORMALISED, ApartPolicy, Walk
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from distributional_ppo import DistributionalPPO

N = 5  # quantiles; no other layer has as many outputs
TAU = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])


class CustomBuffer(RolloutBuffer):
    """Of a class that may do anything in ``get``."""


def last_layers(policy):
    """For each critic weight and bias of the layer that gives the quantiles."""
    named = [parameter for parameter in policy.parameters() if len(parameter) == N]
    weights, biases = ([p for p in named if p.dim() == dim] for dim in (2, 1))
    return list(zip(weights, biases, strict=True))


@contextlib.contextmanager
def only_critic(policy, chosen):
    """The smaller mean is that of the chosen one, as the others' are pushed up."""
    others = [bias for i, (_, bias) in enumerate(last_layers(policy)) if i != chosen]
    kept = [bias.detach().clone() for bias in others]

    with torch.no_grad():
        for bias in others:
            bias.add_(1e6)

    try:
        yield
    finally:
        with torch.no_grad():
            for bias, value in zip(others, kept, strict=True):
                bias.copy_(value)


def quantiles_of(policy, observations):
    """Raw quantiles of every critic, with their gradient."""
    result = []
    head = policy.value_net

    for i in range(len(last_layers(policy))):
        with only_critic(policy, i):
            result.append(head.to_raw(head.of_smaller_mean(policy.quantiles_of_loss(observations))))

    return result


def huber_loss(quantiles, targets, kappa):
    """Per sample; targets are (B, M) atoms."""
    u = targets[:, None, :] - quantiles[:, :, None]
    huber = torch.where(u.abs() <= kappa, u**2 / 2, kappa * (u.abs() - kappa / 2))
    return (torch.where(u < 0, 1 - TAU[:, None], TAU[:, None]) * huber / kappa).mean(dim=(1, 2))


def clipped(quantiles, old, eps, mode, factor):
    """The clipped quantiles, and which were held back."""
    if mode == "per_quantile":
        return old + (quantiles - old).clamp(-eps, eps), (quantiles - old).abs() > eps
    mean = quantiles.mean(1, keepdim=True)
    old_mean = old.mean(1, keepdim=True)
    new_mean = old_mean + (mean - old_mean).clamp(-eps, eps)
    held_back = (mean - old_mean).abs() > eps
    share = torch.ones_like(mean)

    if mode == "mean_and_variance":
        std, old_std = (
            (x - x.mean(1, keepdim=True)).square().mean(1, keepdim=True).clamp(min=1e-20).sqrt()
            for x in (quantiles, old)
        )
        narrower = (old_std > 1e-6 * old.abs().max(1, keepdim=True).values) & (std > factor * old_std)
        share = torch.where(narrower, factor * old_std / std, share)
        held_back = held_back | narrower

    return new_mean + (quantiles - mean) * share, held_back.expand_as(quantiles)


def moments(x):
    """Mean and variance of the quantiles of each sample."""
    mean = x.mean(dim=1, keepdim=True)
    return mean[:, 0], (x - mean).square().mean(dim=1)


def naive_targets(model, steps, lambda_):
    """Sample replacement in plain Python, one environment after the other."""
    n_envs = model.n_envs
    draws = np.random.default_rng([model.seed, model.num_timesteps]).random((len(steps), n_envs))

    def predict(observation):
        with torch.no_grad():
            return model.policy.predict_quantiles(observation[None])[0].double().numpy()

    rows = []

    for env in range(n_envs):
        z = predict(steps[-1]["new_obs"][env])
        targets = []

        for t in reversed(range(len(steps))):
            step = steps[t]

            if step["dones"][env] and not step["infos"][env]["TimeLimit.truncated"]:
                z = np.full(len(z), step["rewards"][env], dtype=np.float64)
            elif step["dones"][env]:
                z = step["rewards"][env] + model.gamma * predict(step["infos"][env]["terminal_observation"])
            else:
                following = z if draws[t, env] < lambda_ else predict(step["new_obs"][env])
                z = step["rewards"][env] + model.gamma * following

            targets.append(z)

        rows.append(targets[::-1])

    return np.array(rows).swapaxes(0, 1).reshape(len(steps) * n_envs, -1)  # step by step, as in the buffer


class ByHand(BaseCallback):
    """Does every update of the model beforehand, on copies, and compares once the model has done it."""

    def __init__(self, *policies):
        """:param policies: two like that of the model, to calculate with"""
        super().__init__()
        self.policies = policies
        self.rollouts = []
        self.steps = []
        self.history = []
        self.expected = None
        self.n_updates = 0

    def _on_rollout_start(self):
        self.compare()
        self.steps = []

    def _on_step(self):
        self.steps.append({k: copy.deepcopy(self.locals[k]) for k in ("rewards", "dones", "infos", "new_obs")})
        return True

    def _on_rollout_end(self):
        states = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        self.expected = self.update(self.model)
        np.random.set_state(states[0])  # noqa: NPY002
        torch.set_rng_state(states[1])

    def _on_training_end(self):
        self.compare()

    def compare(self):
        if self.expected is None:
            return
        policy, scalars, before = self.expected

        logged = {
            name[len("train/") :]: value
            for name, value in self.model.logger.name_to_value.items()
            if name.startswith("train/")
        }

        assert logged.keys() == scalars.keys()

        for name, value in scalars.items():
            tolerance = 0.01 if "fraction" in name else 2e-5  # rounding may move a sample over the bound
            assert logged[name] == pytest.approx(value, rel=2e-4, abs=tolerance), (
                name,
                len(self.history),
            )

        moved = 0.0
        actual = self.model.policy.state_dict()

        for name, value in policy.state_dict().items():
            torch.testing.assert_close(
                actual[name],
                value,
                rtol=1e-4,
                atol=5e-6,
                msg=lambda m, n=name: f"{n}: {m}",
            )
            moved = max(moved, float((value - before[name]).abs().max()))

        assert moved > 1e-3

        self.history.append(scalars)
        self.expected = None

    # ------------------------------------------------------------------------------------------- one update by hand

    def take_in_statistics(self, model, policy, returns):
        """Statistics of all rollouts so far, in float64; PopArt on the last layers."""
        self.rollouts.append(returns.astype(np.float64))
        head = policy.value_net
        rate = model.return_stats_rate
        n = len(self.rollouts)
        shares = np.ones(n) if rate is None else rate * (1 - rate) ** np.arange(n)[::-1]
        shares /= shares.sum()
        mean = sum(share * r.mean() for share, r in zip(shares, self.rollouts, strict=True))
        square = sum(share * (r**2).mean() for share, r in zip(shares, self.rollouts, strict=True))
        std = np.sqrt(square - mean**2)
        old_mean = head.ret_mean.item()
        old_std = head.ret_std.item()

        if model.use_popart and old_std > 0:
            head.std_average.mul_(old_std / std)
            for weight, bias in last_layers(policy):
                weight.data.mul_(old_std / std)
                bias.data.copy_((bias.double() * old_std + old_mean - mean) / std)

        head.ret_mean.fill_(mean)
        head.ret_std.fill_(std)
        head.ret_updates.fill_(n)

    def update(self, model):
        buffer, before = copy.deepcopy((model.rollout_buffer, model.policy.state_dict()))
        policy, old_policy = self.policies
        for ours in self.policies:
            ours.load_state_dict(before)
        head = policy.value_net
        progress = 1 - model.num_timesteps / model._total_timesteps
        rates = dict(
            learning_rate=model.learning_rate(progress),
            clip_range=model.clip_range(progress),
        )
        returns = buffer.returns.astype(np.float64).flatten()
        values = buffer.values.astype(np.float64).flatten()
        scalars = dict(
            **rates,
            explained_variance=1 - (returns - values).var() / returns.var(),
        )
        had_statistics = before["value_net.ret_std"] > 0
        observations = torch.as_tensor(buffer.observations).flatten(0, 1)
        critics = np.stack([q.detach().double().numpy() for q in quantiles_of(old_policy, observations)])
        chosen = critics[
            critics.mean(axis=2).argmin(axis=0),
            np.arange(len(observations)),
        ]

        assert values == pytest.approx(chosen.mean(axis=1), rel=1e-4, abs=1e-5)
        assert old_policy.predict_quantiles(observations).detach().numpy() == pytest.approx(chosen, rel=1e-4, abs=1e-5)

        if had_statistics:
            below = (returns[:, None] < chosen).mean(axis=0)
            scalars["quantile_calibration_error"] = np.abs(below - TAU.numpy()).mean()

        atoms = None

        if model.value_target == "sr_lambda":
            rows = naive_targets(model, self.steps, model.gae_lambda)
            if model.gae_lambda in (
                0.0,
                1.0,
            ):  # where nothing is drawn, the mean of the atoms is SB3's return
                assert rows.mean(axis=1) == pytest.approx(returns, rel=1e-4, abs=1e-4)
            atoms = {tuple(o.tolist()): row for o, row in zip(observations, rows, strict=True)}

        if model.normalize_returns:
            self.take_in_statistics(model, policy, buffer.returns)

        lists = {}
        clips = model.clip_range_vf is not None and had_statistics and model.distributional_vf_clip_mode != "disable"
        if clips:
            scalars["clip_range_vf"] = rates["clip_range_vf"] = model.clip_range_vf(progress)

        def note(**values):
            for name, value in values.items():
                lists.setdefault(name, []).append(float(torch.as_tensor(value).detach()))

        def epochs():
            for _ in range(model.n_epochs):
                self.n_updates += 1
                for batch in buffer.get(model.batch_size):
                    loss, kl = self.loss(
                        model,
                        policy,
                        old_policy if clips else None,
                        batch,
                        atoms,
                        rates,
                        note,
                    )
                    note(loss=loss, approx_kl=kl)
                    if model.target_kl is not None and kl > 1.5 * model.target_kl:
                        return
                    parameters = list(policy.parameters())
                    gradients = torch.autograd.grad(loss, parameters)
                    norm = sum(float(g.double().square().sum()) for g in gradients) ** 0.5
                    note(grad_norm=norm)

                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        factor = min(1.0, model.max_grad_norm / norm)
                        parameter.data.sub_(rates["learning_rate"] * factor * gradient)

        epochs()

        for name, numbers in lists.items():
            extreme = {
                "variance_scaling_weight_min": min,
                "variance_scaling_weight_max": max,
            }.get(name[:27])
            scalars[name] = numbers[-1] if name == "loss" else extreme(numbers) if extreme else np.mean(numbers)

        scalars["value_loss_std"] = np.std(lists["value_loss"])
        scalars["vf_coef_effective"] = model.vf_coef * scalars.get("variance_scaling_weight", 1.0)
        scalars["n_updates"] = self.n_updates
        if hasattr(policy, "log_std"):
            scalars["std"] = policy.log_std.detach().double().exp().mean().item()

        assert head.ret_std > 0

        return policy, scalars, before

    def loss(self, model, policy, old_policy, batch, atoms, rates, note):
        discrete = isinstance(model.action_space, spaces.Discrete)
        actions = batch.actions.long().flatten() if discrete else batch.actions
        _, log_prob, entropy = policy.evaluate_actions(batch.observations, actions)
        advantages = batch.advantages
        if model.normalize_advantage:
            advantages = (advantages - advantages.mean()) / advantages.std(correction=1)
        log_ratio = log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        eps = rates["clip_range"]
        surrogate = torch.where(
            advantages >= 0,
            advantages * ratio.clamp(max=1 + eps),
            advantages * ratio.clamp(min=1 - eps),
        )
        policy_loss = -surrogate.mean()
        entropy_loss = log_prob.mean() if entropy is None else -entropy.mean()

        note(
            policy_gradient_loss=policy_loss,
            entropy_loss=entropy_loss,
            clip_fraction=((ratio - 1).abs() > eps).double().mean(),
        )

        value_loss = self.value_loss(model, policy, old_policy, batch, atoms, rates, note)
        loss = policy_loss + model.ent_coef * entropy_loss + model.vf_coef * value_loss
        return loss, (ratio - 1 - log_ratio).mean().item()

    def value_loss(self, model, policy, old_policy, batch, atoms, rates, note):
        head = policy.value_net
        targets = batch.returns[:, None]
        if atoms is not None:
            targets = torch.tensor(np.array([atoms[tuple(o.tolist())] for o in batch.observations])).float()
        targets = (targets - head.ret_mean) / head.ret_std
        critics = quantiles_of(policy, batch.observations)
        olds = [None] * len(critics)
        if old_policy is not None:
            olds = [old.detach() for old in quantiles_of(old_policy, batch.observations)]
        total = 0.0
        logged = []
        each = []

        for i, (raw, old) in enumerate(zip(critics, olds, strict=True)):
            quantiles = (raw - head.ret_mean) / head.ret_std
            metrics = {}
            losses = huber_loss(quantiles, targets, model.quantile_huber_kappa)

            if old is not None:
                eps = rates["clip_range_vf"] / (1.0 if model.clip_range_vf_units == "std" else head.ret_std)
                mode = model.distributional_vf_clip_mode or "per_quantile"
                factor = model.distributional_vf_clip_variance_factor
                near, held_back = clipped(
                    quantiles,
                    (old - head.ret_mean) / head.ret_std,
                    eps,
                    mode,
                    factor,
                )
                second = huber_loss(near, targets, model.quantile_huber_kappa)
                losses = torch.where(held_back.any(dim=1) & (second > losses), second, losses)
                metrics["clip_fraction_vf"] = held_back.double().mean()

            _, variance = moments(quantiles.detach())
            metrics["value_loss"] = losses.detach().mean()
            metrics["quantile_variance_mean"] = variance.mean()
            metrics["quantile_variance_std"] = (variance - variance.mean()).square().mean().sqrt()
            weights = torch.ones(())

            if model.use_variance_gradient_scaling:
                weights = self.weights(model, head, variance, i)
                low = model.variance_scaling_clip_min
                high = model.variance_scaling_clip_max
                weights = weights.clamp(low, high)
                metrics["variance_scaling_weight"] = weights.mean()
                metrics["variance_scaling_weight_min"] = weights.min()
                metrics["variance_scaling_weight_max"] = weights.max()
                metrics["variance_scaling_clamped"] = ((weights <= low) | (weights >= high)).double().mean()

            total = total + (weights * losses).mean()
            logged.append(metrics)
            each.append({f"{name}_{i + 1}": value for name, value in metrics.items()})

        for name in logged[0]:
            numbers = [metrics[name].item() for metrics in logged]
            extreme = {
                "variance_scaling_weight_min": min,
                "variance_scaling_weight_max": max,
            }.get(name)
            note(**{name: extreme(numbers) if extreme else np.mean(numbers)})

        if len(critics) > 1:
            note(**each[0], **each[1])
        return total

    def weights(self, model, head, variance, critic):
        if model.variance_scaling_mode == "batch":
            return variance.mean()
        # A sum with weights that fall by 0.995 a minibatch, over the sum of the weights.
        std = variance.sqrt().mean()
        filled = head.std_average_filled[critic].item()
        summed = 0.995 * head.std_average[critic].item() * filled + 0.005 * std
        filled = 0.995 * filled + 0.005
        average = summed / filled
        head.std_average[critic] = average
        head.std_average_filled[critic] = filled
        return average**2 / (variance + 0.1)


def train(action_space=None, updates=4, policy_kwargs=None, **flags):
    """Learn with schedules of everything; return the scalars of the updates by hand, as all agree."""
    settings = dict(
        learning_rate=lambda progress: 0.1 + 0.5 * progress**2,
        clip_range=lambda progress: 0.02 + 0.1 * progress,
        n_steps=24,
        batch_size=20,  # 48 = 20 + 20 + 8
        n_epochs=3,
        ent_coef=0.03,
        vf_coef=4.0,
        max_grad_norm=0.4,
        variance_scaling_clip_min=0.05,
        variance_scaling_clip_max=0.9,
        quantile_huber_kappa=0.6,
        seed=0,
        device="cpu",
    )

    policy_kwargs = dict(net_arch=[8], n_quantiles=N, optimizer_class=torch.optim.SGD) | (policy_kwargs or {})
    env = DummyVecEnv([lambda: Walk(action_space)] * 2)
    settings |= dict(policy=ApartPolicy, env=env, policy_kwargs=policy_kwargs) | flags
    hand = ByHand(*(DistributionalPPO(**settings).policy for _ in range(2)))
    model = DistributionalPPO(**settings)
    model.learn(48 * updates, hand)

    assert len(hand.history) == updates

    return hand.history


def clip_vf(mode, eps=0.07, **flags):
    """Of small movements most are held back."""
    return dict(
        clip_range_vf=lambda progress: eps * (0.3 + progress),
        distributional_vf_clip_mode=mode,
        **flags,
    )


BOX = spaces.Box(-1, 1, (2,))

CASES = {
    "off": dict(use_variance_gradient_scaling=False, max_grad_norm=1.0),
    "batch": dict(variance_scaling_clip_min=0.17, variance_scaling_clip_max=0.19),
    "clamped": dict(variance_scaling_clip_min=0.2, variance_scaling_clip_max=0.2),
    "advantages as they are": dict(normalize_advantage=False, max_grad_norm=0.1),
    "no clipping of gradients": dict(
        max_grad_norm=1e9,
        learning_rate=lambda progress: 0.05 + 0.2 * progress,
    ),
    "normalised": dict(normalize_returns=True, return_stats_rate=0.3),
    "normalised, all alike": dict(normalize_returns=True, return_stats_rate=None, ent_coef=0.0),
    "PopArt": dict(**NORMALISED, quantile_huber_kappa=2.0),
    "PopArt, all alike": dict(**NORMALISED, return_stats_rate=None),
    "dsac_t": dict(variance_scaling_mode="dsac_t", **NORMALISED),
    "dsac_t without PopArt": dict(variance_scaling_mode="dsac_t", normalize_returns=True),
    "continuous": dict(action_space=BOX),
    "gSDE": dict(action_space=BOX, use_sde=True),
    "squashed gSDE": dict(
        action_space=BOX,
        use_sde=True,
        policy_kwargs=dict(squash_output=True),
    ),
    "equal quantiles": dict(policy="MlpPolicy", **clip_vf("mean_and_variance")),
    "clip disabled": clip_vf("disable"),
    "two extractors": dict(
        policy_kwargs=dict(share_features_extractor=False),
        use_twin_critics=True,
    ),
    "sampled": dict(value_target="sr_lambda", gae_lambda=0.6),
    "sampled, lambda 0": dict(value_target="sr_lambda", gae_lambda=0.0, use_twin_critics=True),
    "sampled, lambda 1": dict(value_target="sr_lambda", gae_lambda=1.0, use_twin_critics=True),
    "sampled, normalised": dict(
        value_target="sr_lambda",
        gae_lambda=0.6,
        variance_scaling_mode="dsac_t",
        **NORMALISED,
    ),
    "sampled, clipped": dict(value_target="sr_lambda", **clip_vf("per_quantile"), **NORMALISED),
    "sampled, twins": dict(value_target="sr_lambda", gae_lambda=0.6, use_twin_critics=True),
    "own buffer": dict(
        rollout_buffer_class=CustomBuffer,
        value_target="sr_lambda",
        gae_lambda=0.6,
    ),
    "own buffer, clipped": dict(
        rollout_buffer_class=CustomBuffer,
        use_twin_critics=True,
        **clip_vf("per_quantile"),
    ),
    "twins": dict(use_twin_critics=True),
    "twins off": dict(use_twin_critics=True, use_variance_gradient_scaling=False),
    "twins, dsac_t": dict(use_twin_critics=True, variance_scaling_mode="dsac_t", **NORMALISED),
}

CASES["clip by default"] = clip_vf(None)
for mode in CLIP_MODES:
    narrow = dict(distributional_vf_clip_variance_factor=0.9)
    std = dict(clip_range_vf_units="std", **narrow, **NORMALISED)
    CASES[mode] = clip_vf(mode, distributional_vf_clip_variance_factor=1.01)
    CASES[f"{mode}, raw units"] = clip_vf(mode, **narrow, **NORMALISED)
    CASES[f"{mode}, units of std"] = clip_vf(mode, 0.02, **std)
    CASES[f"{mode}, twins"] = clip_vf(mode, use_twin_critics=True, **narrow)
    CASES[f"{mode}, twins, dsac_t"] = clip_vf(
        mode,
        0.02,
        use_twin_critics=True,
        variance_scaling_mode="dsac_t",
        **std,
    )


@pytest.mark.parametrize("flags", CASES.values(), ids=CASES.keys())
@pytest.mark.filterwarnings("ignore::UserWarning:distributional_ppo")
def test_updates_are_those_by_hand(flags):
    history = train(**flags)
    if flags.get("clip_range_vf") and flags.get("distributional_vf_clip_mode") != "disable":
        assert max(scalars.get("clip_fraction_vf", 0.0) for scalars in history) > 0.05

    assert max(scalars["clip_fraction"] for scalars in history) > 0.05


@pytest.mark.parametrize("target_kl", [1e-5, 5e-5, 1e-4, 2e-4])
def test_updates_that_the_kl_divergence_ends_are_those_by_hand(target_kl):
    history = train(target_kl=target_kl, n_epochs=5)
    assert history[-1]["n_updates"] < 4 * 5


def test_an_episode_truncated_at_the_first_step_of_a_rollout():
    """The third episode of 9 steps ends at step 27: the first of the second rollout of 26."""
    train(n_steps=26, value_target="sr_lambda", gae_lambda=0.6)


@pytest.mark.parametrize(
    "flags",
    [
        clip_vf("per_quantile"),
        dict(value_target="sr_lambda", gae_lambda=0.6),
    ],
)
def test_a_buffer_of_another_name_trains_the_same_however_often(flags):
    """The second update of a rollout finds the buffer flat, one environment after the other."""
    models = []

    for buffer_class in (RolloutBuffer, CustomBuffer):
        env = DummyVecEnv([Walk] * 3)
        model = DistributionalPPO(
            "MlpPolicy",
            env,
            n_steps=16,
            batch_size=20,
            seed=0,
            device="cpu",
            rollout_buffer_class=buffer_class,
            **flags,
        )
        model.learn(48)
        model.train()
        models.append(model)

    first, two = (torch.nn.utils.parameters_to_vector(model.policy.parameters()) for model in models)

    assert torch.allclose(first, two, rtol=0, atol=1e-6)
