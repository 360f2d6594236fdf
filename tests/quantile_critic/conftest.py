"""What tests of compiled code need: a compiler, or graphs that run without one. Both are imported where asked for."""

import pytest


@pytest.fixture(scope="session")
def compiler():
    """Skip where torch cannot compile, with the sentence that a user of ``compile=True`` gets."""
    import torch

    from quantile_critic.compiled import reason_to_stay_eager

    reason = reason_to_stay_eager(torch.nn.Linear(1, 1))
    if reason is not None:
        pytest.skip(reason)


def run_as_traced(patch):
    """Let graphs run as they are traced, without machine code of their own."""
    from torch._dynamo.aot_compile_types import SerializableCallable

    class Traced(SerializableCallable):
        """A graph as torch.compile has traced it."""

        def __init__(self, graph):
            self.graph = graph

        def __call__(self, *args):
            return self.graph(*args)

        @classmethod
        def serialize_compile_artifacts(cls, fn):
            raise NotImplementedError

        @classmethod
        def deserialize_compile_artifacts(cls, data):
            raise NotImplementedError

    patch.setattr("quantile_critic.compiled._backend", lambda policy: lambda graph, inputs: Traced(graph))


@pytest.fixture
def no_machine_code(monkeypatch):
    """Graphs run as they are traced: a change is seen or missed before machine code is made."""
    run_as_traced(monkeypatch)


@pytest.fixture(scope="module")
def any_number_of_builds():
    """A pair that serves many cases compiles more often than a training should; its graphs run as they are traced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quantile_critic.compiled.MAX_BUILDS", 1000)
        run_as_traced(patch)
        yield
