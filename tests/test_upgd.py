"""``upgd`` against a plain loop in float64, numbers worked out by hand, torch's SGD and AdamW."""

import copy
import io
import math
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from torch import nn

from upgd import UPGD, AdaptiveUPGD

CLASSES = (UPGD, AdaptiveUPGD)
VARIANTS = ("paper", "official")
SHAPES = ((3, 2), (4,), (), (2, 1, 2))

DEFAULTS = dict(
    lr=1e-5,
    weight_decay=1e-3,
    beta_utility=0.999,
    sigma=1e-3,
    betas=(0.9, 0.999),
    eps=1e-5,
)

every_class = pytest.mark.parametrize("cls", CLASSES)
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


class Reference:
    """The formulas of the module's docstring, one element after the other. ``groups`` as the optimizer takes them."""

    def __init__(self, cls, groups, variant):
        self.adaptive = cls is AdaptiveUPGD
        self.official = variant == "official"
        self.groups = [{**DEFAULTS, **group} for group in groups]
        self.tensors = [
            [dict(w=p.detach().double().flatten().tolist(), like=p, t=0) for p in g["params"]] for g in self.groups
        ]
        self.flat = [tensor for tensors in self.tensors for tensor in tensors]
        for tensor in self.flat:
            tensor.update(
                u=[0.0] * len(tensor["w"]),
                m=[0.0] * len(tensor["w"]),
                v=[0.0] * len(tensor["w"]),
            )

    def step(self, grads):
        """:param grads: for each group a list of gradients, None where a tensor is skipped"""
        pairs = [
            (
                group,
                tensor,
                None if grad is None else grad.double().flatten().tolist(),
            )
            for group, tensors, group_grads in zip(self.groups, self.tensors, grads, strict=True)
            for tensor, grad in zip(tensors, group_grads, strict=True)
        ]

        pairs = [pair for pair in pairs if pair[2] is not None]
        eta = -math.inf

        for group, x, grad in pairs:
            x["t"] += 1
            beta = group["beta_utility"]

            for i, g in enumerate(grad):
                x["u"][i] = beta * x["u"][i] + (1 - beta) * (-g * x["w"][i])
                eta = max(
                    eta,
                    x["u"][i] if self.official else x["u"][i] / (1 - beta ** x["t"]),
                )

        for group, x, grad in pairs:
            noise = [0.0] * len(grad)
            if group["sigma"] > 0:
                noise = torch.randn_like(x["like"]).double().flatten().tolist()

            for i, (g, xi) in enumerate(zip(grad, noise, strict=True)):
                x["w"][i] = self.updated(group, x, i, g, xi, eta)

    def updated(self, group, x, i, g, xi, eta):
        u_hat = x["u"][i] / (1 - group["beta_utility"] ** x["t"])
        s = sigmoid(u_hat / eta) if eta > 0 else 0.5
        lr = group["lr"] * (2 if self.official else 1)
        w = x["w"][i] * (1 - group["lr"] * group["weight_decay"])
        if not self.adaptive:
            return w - lr * (g + group["sigma"] * xi) * (1 - s)
        beta1, beta2 = group["betas"]
        x["m"][i] = beta1 * x["m"][i] + (1 - beta1) * g
        x["v"][i] = beta2 * x["v"][i] + (1 - beta2) * g * g
        m_hat = x["m"][i] / (1 - beta1 ** x["t"])
        v_hat = x["v"][i] / (1 - beta2 ** x["t"])
        return w - lr * (m_hat * (1 - s) / (math.sqrt(v_hat) + group["eps"]) + group["sigma"] * xi * (1 - s))

    def weights(self):
        return [np.array(x["w"]).reshape(x["like"].shape) for x in self.flat]


def make_params(*shapes, seed=0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    return [nn.Parameter(torch.tensor(rng.normal(size=shape), dtype=dtype)) for shape in shapes or SHAPES]


def param(*values, dtype=torch.float64):
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def make_grads(params, seed):
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.normal(size=tuple(p.shape)), dtype=p.dtype) for p in params]


def set_grads(params, grads):
    for p, grad in zip(params, grads, strict=True):
        p.grad = None if grad is None else grad.clone()


def update(optimizer, steps, first=0):
    """Steps with gradients and noise that depend on the number of the step only."""
    params = [p for group in optimizer.param_groups for p in group["params"]]

    for t in range(first, first + steps):
        set_grads(params, make_grads(params, seed=t))
        torch.manual_seed(t)
        optimizer.step()


def values(params):
    return [p.detach().clone() for p in params]


def assert_same(params, others):
    assert all(torch.equal(p, second) for p, second in zip(params, others, strict=True))


def assert_close(params, expected, rtol=1e-11):
    for p, e in zip(params, expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), e, rtol=rtol, atol=rtol)


@every_class
@every_variant
@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_25_steps_are_those_of_the_plain_loop(cls, variant, foreach, sigma):
    params = make_params()
    options = dict(lr=0.05, weight_decay=0.1, beta_utility=0.9, sigma=sigma)
    reference = Reference(cls, [dict(params=values(params), **options)], variant)
    optimizer = cls(params, variant=variant, foreach=foreach, **options)

    for t in range(25):
        grads = make_grads(params, seed=t)
        set_grads(params, grads)
        torch.manual_seed(t)
        optimizer.step()
        torch.manual_seed(t)
        reference.step([grads])
        assert_same([p.grad for p in params], grads)

    assert_close(params, reference.weights())


@every_class
@every_variant
@pytest.mark.parametrize("foreach", [True, False])
def test_groups_and_skipped_tensors_are_those_of_the_plain_loop(cls, variant, foreach):
    params = make_params((2, 3), (3,), (2,), (1, 2))

    groups = [
        dict(params=params[:2], lr=0.1, weight_decay=0.0, sigma=0.2, beta_utility=0.5),
        dict(params=params[2:], lr=0.02, weight_decay=0.3, sigma=0.0),
    ]

    if cls is AdaptiveUPGD:
        groups[0].update(betas=(0.5, 0.8), eps=0.1)
    reference = Reference(
        cls,
        [{**group, "params": values(group["params"])} for group in groups],
        variant,
    )
    optimizer = cls(groups, variant=variant, foreach=foreach)

    for t in range(24):
        grads = make_grads(params, seed=t)
        grads = [None if (t + i) % 3 == 0 else grad for i, grad in enumerate(grads)]
        groups[1]["lr"] = reference.groups[1]["lr"] = 0.02 / (1 + t)
        optimizer.param_groups[1]["lr"] = groups[1]["lr"]
        set_grads(params, grads)
        torch.manual_seed(t)
        optimizer.step()
        torch.manual_seed(t)
        reference.step([grads[:2], grads[2:]])

    assert_close(params, reference.weights())
    assert [optimizer.state[p]["step"].item() for p in params] == [16.0] * 4


@every_class
def test_defaults_are_those_of_the_plain_loop(cls):
    params = make_params()
    reference = Reference(cls, [dict(params=values(params))], "paper")
    optimizer = cls(params)
    update(optimizer, steps=20)

    for t in range(20):
        torch.manual_seed(t)
        reference.step([make_grads(params, seed=t)])

    assert_close(params, reference.weights(), rtol=1e-15)  # 20 steps of 1e-5


@every_class
@every_variant
def test_float32_rounds_no_more_than_its_arithmetic(cls, variant):
    """1 - 0.999 in float32 would be wrong by 1e-5 of its value, and with it the first step."""
    double = make_params()
    single = make_params(dtype=torch.float32)

    with torch.no_grad():
        for d, s in zip(double, single, strict=True):
            d.copy_(s)

    before = values(single)

    for params in (double, single):
        set_grads(
            params,
            [g.to(p) for g, p in zip(make_grads(single, seed=1), params, strict=True)],
        )
        cls(
            params,
            lr=1.0,
            weight_decay=0.0,
            beta_utility=0.9,
            sigma=0.0,
            variant=variant,
        ).step()

    for d, s, b in zip(double, single, before, strict=True):
        torch.testing.assert_close((s - b).double(), d - b.double(), rtol=1e-6, atol=5e-7)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        # -g*w = .5 -1; u = .25 -.5; u_hat = .5 -1; eta .5; 1 - s = sigmoid(-1 2) = .26894142 .88079708;
        # .99 * 1 + .1 * .5 * .26894142 and .99 * -2 + .1 * .5 * .88079708
        ("paper", (1.003447071, -1.935960146)),
        # eta .25; 1 - s = sigmoid(-2 4) = .11920292 .98201379; .99 + .2 * .5 * .11920292, -1.98 + .2 * .5 * .98201379
        ("official", (1.001920292, -1.881798621)),
    ],
)
def test_first_step_is_the_hand_computed_one(variant, expected):
    w = param(1.0, -2.0)
    w.grad = torch.full_like(w, -0.5)
    UPGD([w], lr=0.1, weight_decay=0.1, beta_utility=0.5, sigma=0.0, variant=variant).step()

    assert w.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        # as above with d = m_hat / (sqrt(v_hat) + eps) = -.5 / (.5 + .5): the same numbers
        ("paper", (1.003447071, -1.935960146)),
        ("official", (1.001920292, -1.881798621)),
    ],
)
def test_first_adaptive_step_is_the_hand_computed_one(variant, expected):
    w = param(1.0, -2.0)
    w.grad = torch.full_like(w, -0.5)
    AdaptiveUPGD(
        [w],
        lr=0.1,
        weight_decay=0.1,
        beta_utility=0.5,
        sigma=0.0,
        eps=0.5,
        variant=variant,
    ).step()

    assert w.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("foreach", [None, True, False])
def test_eta_is_over_all_tensors_of_all_groups(foreach):
    a = param(1.0)
    b = param(1.0)
    c = param(1.0)
    set_grads([a, b, c], [torch.full_like(a, g) for g in (-1.0, -0.1, -0.2)])
    UPGD(
        [dict(params=[a, b]), dict(params=[c])],
        lr=1.0,
        weight_decay=0.0,
        sigma=0.0,
        foreach=foreach,
    ).step()

    # eta 1; 1 + 1 * sigmoid(-1), 1 + .1 * sigmoid(-.1), 1 + .2 * sigmoid(-.2)
    assert [p.item() for p in (a, b, c)] == pytest.approx([1.268941421, 1.047502081, 1.090033200], abs=1e-9)


def test_a_skipped_tensor_keeps_its_state_and_stays_out_of_eta():
    skipped = param(1.0)
    w = param(1.0)
    never = param(1.0)
    optimizer = UPGD([skipped, w, never], lr=1.0, weight_decay=0.5, beta_utility=0.0, sigma=0.0)
    set_grads([skipped, w], [torch.full_like(w, -1.0), torch.full_like(w, -0.1)])
    optimizer.step()
    state = copy.deepcopy(optimizer.state[skipped])
    value = skipped.item()
    start = w.item()
    skipped.grad = None
    optimizer.step()

    # beta 0: u_hat = .1 * w is the only utility and eta, so s = sigmoid(1) whatever u was; w/2 + .1 * sigmoid(-1)
    assert w.item() == pytest.approx(start / 2 + 0.0268941421, abs=1e-9)
    assert (skipped.item(), never.item()) == (value, 1.0)
    assert optimizer.state[skipped] == state
    assert never not in optimizer.state
    assert optimizer.state[w]["step"].item() == 2


@every_class
@every_variant
def test_without_positive_utility_s_is_one_half(cls, variant):
    scale = 2 if variant == "official" else 1
    for grad in (0.0, 0.5):  # eta 0 and eta -.5
        w = param(1.0)
        w.grad = torch.full_like(w, grad)
        cls([w], lr=0.1, weight_decay=0.0, sigma=0.0, variant=variant).step()
        direction = grad / (grad + 1e-5) if cls is AdaptiveUPGD else grad
        assert w.item() == pytest.approx(1 - 0.1 * scale * 0.5 * direction, abs=1e-12)


@every_class
@every_variant
def test_noise_is_lr_sigma_and_one_half(cls, variant):
    w = param(1.0, 2.0)
    b = param(3.0)
    set_grads([w, b], [torch.zeros_like(w), torch.zeros_like(b)])
    torch.manual_seed(7)
    cls([w, b], lr=0.1, weight_decay=0.0, sigma=0.3, variant=variant).step()
    torch.manual_seed(7)
    scale = 0.1 * 0.3 * (1.0 if variant == "official" else 0.5)
    noise = [
        torch.randn(2, dtype=torch.float64),
        torch.randn(1, dtype=torch.float64),
    ]
    expected = [
        torch.tensor([1.0, 2.0]) - scale * noise[0],
        torch.tensor([3.0]) - scale * noise[1],
    ]

    assert_close([w, b], [e.numpy() for e in expected], rtol=1e-14)


@every_variant
def test_utilities_near_the_smallest_number_are_not_nan(variant):
    w = param(1e-38, 0.0, 1.0, dtype=torch.float32)
    w.grad = torch.tensor([-1e-3, 0.0, 1.0])
    UPGD([w], lr=0.1, variant=variant).step()

    assert torch.isfinite(w).all()


def opposed_grads(params, seed):
    """Gradients of the sign of their weight, so that every utility is negative."""
    return [g.abs() * p.detach().sign() for g, p in zip(make_grads(params, seed), params, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_official_without_utility_is_sgd_with_decoupled_decay(dtype):
    ours = make_params(dtype=dtype)
    theirs = make_params(dtype=dtype)
    optimizer = UPGD(ours, lr=0.001, weight_decay=0.1, sigma=0.0, variant="official")
    sgd = torch.optim.SGD(theirs, lr=0.001)

    for t in range(20):
        set_grads(ours, opposed_grads(ours, seed=t))
        set_grads(theirs, [p.grad for p in ours])
        with torch.no_grad():
            torch._foreach_mul_(theirs, 1 - 0.001 * 0.1)
        optimizer.step()
        sgd.step()

    # Not to the bit: SGD multiplies and adds with one rounding.
    assert_close(ours, values(theirs), rtol=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_official_without_utility_is_adamw(dtype):
    ours = make_params(dtype=dtype)
    theirs = make_params(dtype=dtype)
    optimizer = AdaptiveUPGD(ours, lr=0.001, weight_decay=0.1, sigma=0.0, variant="official")
    adamw = torch.optim.AdamW(theirs, lr=0.001, weight_decay=0.1, eps=1e-5)

    for t in range(20):
        set_grads(ours, opposed_grads(ours, seed=t))
        set_grads(theirs, [p.grad for p in ours])
        optimizer.step()
        adamw.step()

    for p, q in zip(ours, theirs, strict=True):  # Adam's own order of operations gives its moments to the bit
        assert torch.equal(optimizer.state[p]["exp_avg"], adamw.state[q]["exp_avg"])
        assert torch.equal(optimizer.state[p]["exp_avg_sq"], adamw.state[q]["exp_avg_sq"])

    assert_close(ours, values(theirs), rtol=20 * torch.finfo(dtype).eps)


numbers = st.floats(-10, 10, width=32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(numbers, st.lists(numbers, min_size=3, max_size=3)),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(VARIANTS),
    st.floats(0, 0.999),
)
def test_the_factor_of_the_step_has_bounds_and_the_order_of_the_utilities(elements, variant, beta):
    """
    u_hat <= eta for "paper", so 1 - s >= 1 - sigmoid(1); u_hat <= eta / (1 - beta^t) for "official". Elements of more
    utility get a factor no greater, utilities of different sign factors on different sides of 1/2.
    """
    w = param(*[element[0] for element in elements])
    optimizer = UPGD([w], lr=0.1, weight_decay=0.0, beta_utility=beta, sigma=0.0, variant=variant)
    scale = 2 if variant == "official" else 1

    for t in range(3):
        before = w.detach().numpy().copy()
        grad = np.array([element[1][t] for element in elements])
        w.grad = torch.tensor(grad)
        optimizer.step()
        utility = optimizer.state[w]["utility"].numpy()
        ratio = 1 / (1 - beta ** (t + 1)) if variant == "official" else 1.0
        low = scale * sigmoid(-ratio)
        high = scale
        if utility.max() <= 0:
            low = high = scale / 2
        step = (before - w.detach().numpy()) * np.sign(grad)
        tolerance = 1e-12
        assert np.all(step >= low * 0.1 * np.abs(grad) - tolerance)
        assert np.all(step <= high * 0.1 * np.abs(grad) + tolerance)
        large = np.abs(grad) > 1e-3
        factors = (step[large] / (0.1 * np.abs(grad[large])))[np.argsort(utility[large])]
        assert np.all(np.diff(factors) <= 1e-7)
        assert np.all(step[utility > 0] <= scale / 2 * 0.1 * np.abs(grad[utility > 0]) + tolerance)
        assert np.all(step[utility < 0] >= scale / 2 * 0.1 * np.abs(grad[utility < 0]) - tolerance)


@every_class
@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_together_and_one_by_one_give_the_same_bits(cls, variant, dtype):
    runs = []

    for foreach in (True, False, None):
        params = make_params(dtype=dtype)
        update(
            cls(params, lr=0.01, sigma=0.1, variant=variant, foreach=foreach),
            steps=20,
        )
        runs.append(params)

    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


@pytest.mark.parametrize(
    ("n_tensors", "foreach", "expected"),
    [
        (1, None, [1]),
        (3, None, [3]),
        (1, True, [1]),
        (3, True, [3]),
        (3, False, [1, 1, 1]),
    ],
)
def test_foreach_takes_tensors_together(n_tensors, foreach, expected, monkeypatch):
    lengths = []
    real = torch._foreach_sigmoid_
    monkeypatch.setattr(
        torch,
        "_foreach_sigmoid_",
        lambda tensors: (lengths.append(len(tensors)), real(tensors)),
    )
    update(UPGD(make_params(*[(2,)] * n_tensors), foreach=foreach), steps=1)

    assert lengths == expected


def test_noise_is_that_of_the_seed_and_none_is_drawn_without_sigma():
    runs = []

    for seed in (0, 0, 1):
        params = make_params()
        set_grads(params, make_grads(params, seed=0))
        torch.manual_seed(seed)
        UPGD(params, lr=0.1, sigma=0.1).step()
        runs.append(params)

    assert_same(runs[0], runs[1])
    assert not torch.equal(runs[0][0], runs[2][0])

    for sigma in (0.0, 0.1):
        state = torch.get_rng_state()
        UPGD(params, sigma=sigma).step()
        assert torch.equal(torch.get_rng_state(), state) == (sigma == 0)


def saved_by_torch(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every_class
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s)), saved_by_torch],
)
def test_a_loaded_state_continues_to_the_bit(cls, copied):
    params = make_params(dtype=torch.float32)
    options = dict(lr=0.01, weight_decay=0.2, sigma=0.1, variant="official")
    optimizer = cls(params, **options)
    update(optimizer, steps=5)

    assert optimizer.state[params[0]]["step"].dtype == torch.float32

    others = [nn.Parameter(value) for value in values(params)]
    restored = cls(others)
    restored.load_state_dict(copied(optimizer.state_dict()))

    assert {name: restored.param_groups[0][name] for name in options} == options

    update(optimizer, steps=5, first=5)
    update(restored, steps=5, first=5)
    assert_same(params, others)
    assert optimizer.state[params[0]]["step"].item() == restored.state[others[0]]["step"].item() == 10


@every_class
def test_lr_follows_a_schedule_and_may_be_a_tensor(cls):
    scheduled = make_params()
    tensors = make_params()
    by_hand = make_params()
    schedule = [0.1 * 0.5**t for t in range(6)]
    optimizer = cls(scheduled, lr=0.1)
    with_tensor = cls(tensors, lr=torch.tensor(0.1).double())
    third = cls(by_hand)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)

    for t, lr in enumerate(schedule):
        with_tensor.param_groups[0]["lr"].fill_(lr)
        third.param_groups[0]["lr"] = lr
        for each in (optimizer, with_tensor, third):
            update(each, steps=1, first=t)
        scheduler.step()

    assert_same(scheduled, by_hand)
    assert_same(tensors, by_hand)


@every_class
def test_a_closure_is_called_once_with_gradients_on(cls):
    (w,) = make_params((3,))
    optimizer = cls([w], lr=0.1)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    before = w.detach().clone()

    assert optimizer.step(closure).item() == pytest.approx((before**2).sum().item())
    assert calls == [True]
    assert not torch.equal(w, before)
    assert w.requires_grad
    assert optimizer.step() is None


@every_class
def test_a_step_without_gradients_is_not_an_error(cls):
    w = param(1.0)
    empty = nn.Parameter(torch.zeros(0, 3))
    optimizer = cls([w, empty], foreach=True)
    optimizer.step()

    assert len(optimizer.state) == 0

    empty.grad = torch.zeros(0, 3)
    optimizer.step()
    w.grad = torch.ones_like(w)
    optimizer.step()

    assert w.item() != 1.0


@every_class
@every_variant
@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)])
def test_a_step_reads_no_tensor_on_the_host(cls, variant, lr, monkeypatch):
    """The meta device has no values at all to be read; the patches guard what lies on the CPU beside it."""

    def read(*_):
        raise AssertionError("the step reads a tensor on the host")

    for device in ("meta", "cpu"):
        params = [nn.Parameter(torch.randn(shape, device=device)) for shape in SHAPES]
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer = cls(params, lr=lr, variant=variant)

        with monkeypatch.context() as patch:
            for name in (
                "item",
                "tolist",
                "numpy",
                "cpu",
                "__bool__",
                "__float__",
                "__int__",
                "__index__",
            ):
                patch.setattr(torch.Tensor, name, read)
            optimizer.step()
            optimizer.step()


OUT_OF_RANGE = [
    (dict(lr=-1.0), "lr must be finite and >= 0, got -1.0"),
    (dict(lr=math.nan), "lr must be finite and >= 0, got nan"),
    (dict(lr=math.inf), "lr must be finite and >= 0, got inf"),
    (dict(lr=torch.tensor(-1.0)), "lr must be finite and >= 0, got -1.0"),
    (
        dict(lr=torch.ones(2)),
        "lr must be a float or a 0-dim tensor, got shape (2,)",
    ),
    (dict(weight_decay=-0.1), "weight_decay must be finite and >= 0, got -0.1"),
    (dict(sigma=-0.1), "sigma must be finite and >= 0, got -0.1"),
    (dict(beta_utility=1.0), "beta_utility must be within [0, 1), got 1.0"),
    (dict(beta_utility=-0.1), "beta_utility must be within [0, 1), got -0.1"),
    (dict(variant="Paper"), "variant must be 'paper' or 'official', got 'Paper'"),
]

OUT_OF_RANGE_FOR_ADAPTIVE = [
    (dict(betas=(1.0, 0.9)), "betas[0] must be within [0, 1), got 1.0"),
    (dict(betas=(0.9, -0.1)), "betas[1] must be within [0, 1), got -0.1"),
    (dict(eps=0.0), "eps must be finite and > 0, got 0.0"),
    (dict(eps=-1e-8), "eps must be finite and > 0, got -1e-08"),
]


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [(UPGD, *case) for case in OUT_OF_RANGE]
    + [(AdaptiveUPGD, *case) for case in OUT_OF_RANGE + OUT_OF_RANGE_FOR_ADAPTIVE],
)
def test_values_out_of_range_are_refused_by_name(cls, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cls([param(1.0)], **options)

    optimizer = cls([param(1.0)])
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.add_param_group({"params": [param(1.0)], **options})
    assert len(optimizer.param_groups) == 1


@every_class
def test_groups_of_two_variants_are_refused(cls):
    with pytest.raises(ValueError, match="variant must be the same"):
        cls(
            [
                dict(params=[param(1.0)]),
                dict(params=[param(1.0)], variant="official"),
            ]
        )


@every_class
def test_complex_parameters_are_refused(cls):
    optimizer = cls([param(1.0)])
    with pytest.raises(TypeError, match=f"{cls.__name__} does not support complex"):
        optimizer.add_param_group({"params": param(1.0 + 1.0j, dtype=torch.complex64)})
    assert len(optimizer.param_groups) == 1


@every_class
def test_sparse_gradients_are_refused_before_anything_moves(cls):
    embedding = nn.Embedding(4, 2, sparse=True)
    w = param(1.0, dtype=torch.float32)
    (embedding(torch.tensor([1])).sum() + w.sum()).backward()
    optimizer = cls([dict(params=[w]), dict(params=embedding.parameters())])

    with pytest.raises(RuntimeError, match=f"{cls.__name__} does not support sparse gradients"):
        optimizer.step()
    assert w.item() == 1.0
    assert optimizer.state[w]["step"].item() == 0


@every_class
def test_ppo_trains_saves_and_loads_with_it(cls, tmp_path):
    kwargs = dict(
        n_steps=64,
        batch_size=32,
        n_epochs=2,
        seed=0,
        device="cpu",
        policy_kwargs=dict(optimizer_class=cls),
    )
    model = PPO("MlpPolicy", "CartPole-v1", **kwargs)
    before = values(model.policy.parameters())
    model.learn(256)
    (group,) = model.policy.optimizer.param_groups

    assert isinstance(model.policy.optimizer, cls)
    assert (group["lr"], group["weight_decay"], group["sigma"]) == (
        3e-4,
        1e-3,
        1e-3,
    )
    assert group.get("eps", 1e-5) == 1e-5
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())
    assert not any(torch.equal(p, b) for p, b in zip(model.policy.parameters(), before, strict=True))

    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=model.env, device="cpu")
    assert isinstance(loaded.policy.optimizer, cls)
    assert_same(loaded.policy.parameters(), values(model.policy.parameters()))

    ours = model.policy.optimizer
    theirs = loaded.policy.optimizer
    update(ours, steps=3)
    update(theirs, steps=3)

    assert_same(loaded.policy.parameters(), values(model.policy.parameters()))

    loaded.learn(128)
    assert all(torch.isfinite(p).all() for p in loaded.policy.parameters())
