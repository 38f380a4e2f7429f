"""Steps, checkpoints and exact resume."""

import pytest
import torch
from safetensors.torch import load_file

from crsearch.config import ModelConfig, OptimConfig
from crsearch.errors import TrainingDiverged
from crsearch.runs import RunDirectory
from crsearch.train.optim import Optimiser, schedule_factor
from crsearch.train.trainer import Meter, Trainer, generator


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def losses_for(model, stop_at=None):
    def losses(step):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 4, generator=generator(0, "toy", step))
        yield (model(x) - x.sum(-1, keepdim=True)).square().mean(), {"tokens_sum": 16.0}

    return losses


def trainer(run, model, name="muon", save_every=0.0):
    return Trainer(
        run=run, stage="toy", key="k", model=model, optim=OptimConfig(name=name),
        precision=ModelConfig(precision="fp32"), pretrained=False, log_every=5, save_every=save_every,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["muon", "adamw"])
@pytest.mark.parametrize("stop_at", [3, 7, 23])
def test_a_stage_that_was_killed_ends_with_the_same_bits(tmp_path, name, stop_at):
    with RunDirectory(tmp_path / "whole") as run:
        whole = net()
        sums = trainer(run, whole, name).train(30, losses_for(whole))
        lines = run.numbers()
    with RunDirectory(tmp_path / "cut") as run:
        first = net()
        with pytest.raises(KeyboardInterrupt):
            trainer(run, first, name).train(30, losses_for(first, stop_at))
        second = net()
        resumed = trainer(run, second, name).train(30, losses_for(second))
        assert run.numbers() == lines
    assert resumed == sums == {"tokens_sum": 480.0}
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_damaged_checkpoint_is_not_used(tmp_path):
    with RunDirectory(tmp_path) as run:
        model = net()
        with pytest.raises(KeyboardInterrupt):
            trainer(run, model).train(30, losses_for(model, 12))
        file = tmp_path / "checkpoints/toy/model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        again = net()
        trainer(run, again).train(30, losses_for(again))
        assert [r["step"] for r in run.numbers()] == [5, 10, 15, 20, 25, 30]


def test_a_checkpoint_of_other_inputs_is_not_resumed(tmp_path):
    with RunDirectory(tmp_path) as run:
        model = net()
        with pytest.raises(KeyboardInterrupt):
            trainer(run, model).train(30, losses_for(model, 12))
        other = trainer(run, net())
        other.key = "another"
        assert other._resume(Optimiser(other.model, other.optim, False))[0] == 0


def test_a_loss_that_is_not_a_number_stops_the_stage_with_its_step(tmp_path):
    def losses(step):
        yield torch.tensor(float("nan"), requires_grad=True), {}

    with RunDirectory(tmp_path) as run, pytest.raises(TrainingDiverged, match="toy: loss is nan at step 0"):
        trainer(run, net()).train(2, losses)


def test_optimiser_state_survives_a_file(tmp_path):
    model = net()
    optimiser = Optimiser(model, OptimConfig(name="muon"), False)
    model(torch.ones(1, 4)).sum().backward()
    optimiser.step(0, 10)
    from safetensors.torch import save_file

    save_file(optimiser.tensors(), str(tmp_path / "o.safetensors"))
    again = Optimiser(model, OptimConfig(name="muon"), False)
    again.load_tensors(load_file(str(tmp_path / "o.safetensors")))
    for name, value in optimiser.tensors().items():
        assert torch.equal(value, again.tensors()[name])


def test_schedule_warms_up_and_falls_to_zero():
    config = OptimConfig(warmup=0.1)
    factors = [schedule_factor(config, s, 100) for s in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1.0
    assert factors[99] < 0.001
    assert sorted(factors[10:], reverse=True) == factors[10:]


def test_meter_means_and_empties():
    meter = Meter()
    meter.add({"a": 1.0})
    meter.add({"a": 3.0, "b": 5.0})
    assert meter.flush() == {"a": 2.0, "b": 5.0}
    assert meter.flush() == {}
