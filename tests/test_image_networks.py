"""The image models: shapes, rows that are their own, the ELBO, spectral norm, styles, and what a folder must hold."""

from __future__ import annotations

import pickle
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from tiny_images import CONDITIONS, KINDS, LABELS, tiny_condition, tiny_drawer
from tiny_models import tiny_bert_folder
from torch import Tensor
from transformers import AutoConfig, AutoModel

from finetune.errors import ModelError
from finetune.image.blocks import sizes_of
from finetune.image.drawer import Drawer
from finetune.image.losses import discriminator_loss, r1
from finetune.image.networks import build_image_model, load_image_model
from finetune.image.style import Style
from finetune.image.vae import Vae
from finetune.recipe_image import ImageModel, Images


def vae(**settings: object) -> Vae:
    model = tiny_drawer("vae", **settings)  # type: ignore[arg-type]
    assert isinstance(model, Vae)
    return model.eval()


def style(**settings: object) -> Style:
    model = tiny_drawer("style", **settings)  # type: ignore[arg-type]
    assert isinstance(model, Style)
    return model.eval()


def pictures(count: int, *, size: int = 8, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [8, 9, 28, 30, 32, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_every_size_is_drawn_and_read(kind: str, size: int) -> None:
    for channels, condition in ((1, "none"), (3, "label"), (1, "caption")):
        model = tiny_drawer(kind, size=size, channels=channels, condition=condition)
        asked = tiny_condition(condition, 2)
        drawn = model.draw(model.latents(2, seed=0), asked)
        assert drawn.shape == (2, channels, size, size)
        assert 0 <= drawn.min() < drawn.max() <= 1
        if isinstance(model, Vae):
            mean, log_variance = model.encode(drawn, asked)
            assert mean.shape == log_variance.shape == (2, 5)
            assert model.reconstruct(drawn, asked).shape == drawn.shape
        else:
            assert model.discriminator(drawn, asked).shape == (2,)


def test_the_smallest_square_is_small_and_doubles_to_the_size() -> None:
    for size in range(8, 1025):
        base, doublings = sizes_of(size)
        assert 4 <= base <= 8
        assert size <= base * 2**doublings < size + 2**doublings
    assert [sizes_of(size) for size in (8, 28, 32, 1024)] == [(4, 1), (7, 2), (4, 3), (4, 8)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_row_does_not_depend_on_the_others(kind: str, condition: str) -> None:
    model, asked = tiny_drawer(kind, condition=condition), tiny_condition(condition, 5)
    latents = model.latents(5, seed=3)
    assert torch.equal(latents[2:4], model.latents(2, seed=3, first=2))
    assert not torch.equal(latents, model.latents(5, seed=4))
    together = model.draw(latents, asked)
    alone = torch.cat([model.draw(latents[[i]], None if asked is None else asked[[i]]) for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-5)
    # In training mode a draw is the same, and leaves no trace in the model.
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    assert torch.equal(model.draw(latents, asked), together)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_latents_are_standard_normal() -> None:
    numbers = tiny_drawer("vae", latent_size=50).latents(400, seed=0).flatten().numpy()
    assert stats.kstest(numbers, "norm").pvalue > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_for_changes_the_image_and_its_judgement(kind: str) -> None:
    for condition in ("label", "caption"):
        model, asked = tiny_drawer(kind, condition=condition), tiny_condition(condition, 2)
        assert asked is not None
        latents = model.latents(1, seed=0).expand(2, -1)
        one, other = model.draw(latents, asked)
        assert (one - other).abs().max() > 1e-4
        if not isinstance(model, Vae):
            first, second = model.eval().discriminator(one.expand(2, -1, -1, -1), asked)
            assert first.item() != second.item()
        with pytest.raises(ValueError, match="a condition is missing"):
            model.draw(latents)
    with pytest.raises(ValueError, match="model without one"):
        tiny_drawer(kind).draw(torch.zeros(1, 5), torch.tensor([0]))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_depend_on_the_seed_alone(kind: str) -> None:
    one, same, other = (tiny_drawer(kind, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())


# VAE


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "learned_variance"])
def test_elbo_is_what_its_definition_says(likelihood: str) -> None:
    model = vae(condition="label", likelihood=likelihood, beta=3.0)
    pixels, asked = pictures(4), tiny_condition("label", 4)
    with torch.no_grad():
        out = model(pixels, asked, torch.Generator().manual_seed(5))
        mean, log_variance = model.encode(pixels, asked)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(5))
        latents = mean + torch.exp(0.5 * log_variance) * noise
        means = model.decode(latents, asked).sigmoid().double().flatten(1).numpy()
    x, deviation = pixels.double().flatten(1).numpy(), 0.1
    if likelihood == "bernoulli":
        log_p = (x * np.log(means) + (1 - x) * np.log(1 - means)).sum(axis=1)
    else:
        log_p = stats.norm.logpdf(255 * x, 255 * means, 255 * deviation).sum(axis=1)
    q = stats.norm(mean.numpy(), np.exp(log_variance.numpy() / 2))
    # KL of two Gaussians (here the second is standard), from entropies: E_q[log q] - E_q[log p].
    kl = (-q.entropy() + 0.5 * np.log(2 * np.pi) + 0.5 * (q.mean() ** 2 + q.var())).sum(axis=1)
    np.testing.assert_allclose(out.reconstruction.numpy(), -log_p, rtol=1e-4)
    np.testing.assert_allclose(out.divergence.numpy(), kl, rtol=1e-4)
    np.testing.assert_allclose(out.elbo.numpy(), log_p - kl, rtol=1e-4)
    assert out.loss.item() == pytest.approx((-log_p + 3 * kl).mean(), rel=1e-4)


def test_only_the_learned_variance_is_a_weight_and_it_has_a_floor() -> None:
    assert "log_deviation" not in vae(likelihood="gaussian").state_dict()
    assert vae(likelihood="bernoulli").pixel_log_deviation() is None
    model = vae()
    model(pictures(4)).loss.backward()
    assert model.log_deviation.grad is not None
    assert model.log_deviation.grad.abs() > 0
    model.log_deviation.data.fill_(-20.0)
    deviation = model.pixel_log_deviation()
    assert deviation is not None
    assert deviation.exp().item() == pytest.approx(1 / 255)


def test_a_vae_learns_to_reconstruct() -> None:
    model, pixels = vae(width=8), pictures(8).round()
    error = (model.reconstruct(pixels) - pixels).square().mean()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for step in range(60):
        optimizer.zero_grad()
        model(pixels, None, torch.Generator().manual_seed(step)).loss.backward()
        optimizer.step()
    assert (model.reconstruct(pixels) - pixels).square().mean() < 0.3 * error


# Discriminators


def test_spectral_norm_bounds_every_weight_and_moves_in_training_alone() -> None:
    judge = tiny_drawer("gan", condition="label").discriminator
    pixels, asked = pictures(4), tiny_condition("label", 4)
    judge.train()
    for _ in range(30):
        judge(pixels, asked)
    judge.eval()
    for name, module in judge.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear, torch.nn.Embedding)):
            weight = module.weight.detach().flatten(1).numpy()
            assert np.linalg.svd(weight, compute_uv=False)[0] == pytest.approx(1, abs=0.05), name
    before = {name: tensor.clone() for name, tensor in judge.state_dict().items()}
    vectors = [name for name in before if name.endswith("_u")]
    assert len(vectors) == sum(name.endswith("original") for name in before) > 5
    judge(pixels, asked)
    assert all(torch.equal(tensor, before[name]) for name, tensor in judge.state_dict().items())
    fresh = tiny_drawer("gan").discriminator.train()
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    fresh(pixels)
    moved = {name for name, tensor in fresh.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.endswith(("_u", "_v")) for name in moved)
    plain = tiny_drawer("gan", spectral_norm=False).discriminator.state_dict()
    assert not any("_u" in name for name in plain)


@pytest.mark.parametrize("kind", ["gan", "style"])
def test_a_step_after_loading_is_the_step_without(kind: str, tmp_path: Path) -> None:
    model = tiny_drawer(kind, condition="label", spectral_norm=True).train()
    step(model, seed=0)
    model.save_pretrained(tmp_path)
    loaded = load_image_model(tmp_path).train()
    for one in (model, loaded):
        step(one, seed=1)
    states = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def step(model: Drawer, *, seed: int) -> None:
    """One step of the discriminator under R1, by plain gradient descent."""
    torch.manual_seed(seed)
    real, asked = pictures(6, seed=seed).requires_grad_(), tiny_condition("label", 6)
    logits = model.discriminator(real, asked)
    drawn = model.generator(model.latents(6, seed=seed), asked)
    loss = discriminator_loss(logits, model.discriminator(drawn, asked), loss="non_saturating") + r1(logits, real)
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
        if parameter.grad is not None:
            parameter.data -= 0.01 * parameter.grad
    model.zero_grad()


def test_a_batch_of_one_image_again_and_again_is_told_from_a_varied_one() -> None:
    judge = tiny_drawer("gan").discriminator.eval()
    varied = pictures(8)
    alike = varied[:1].expand(8, -1, -1, -1)
    assert judge(varied)[0].item() != judge(alike)[0].item()


# Style


def test_truncation_moves_styles_to_the_average_of_their_class() -> None:
    model = style(condition="label")
    model.train()
    for number in range(40):
        model.generator(model.latents(6, seed=number), tiny_condition("label", 6))
    model.eval()
    latents, asked = model.latents(6, seed=0), tiny_condition("label", 6)
    w, half, none = (model.map(latents, asked, truncation=value) for value in (1.0, 0.5, 0.0))
    assert torch.allclose(half, (w + none) / 2, atol=1e-6)
    assert torch.allclose(none[0], none[3])
    assert (none[0] - none[1]).abs().max() > 1e-4
    drawn = model.draw(latents, asked, truncation=0.0)
    assert torch.allclose(drawn[0], drawn[3], atol=1e-6)


def test_the_average_of_a_class_that_was_not_drawn_stays() -> None:
    model = style(condition="label").train()
    model.generator(model.latents(4, seed=0), torch.tensor([0, 0, 2, 2]))
    average = model.generator.mapping.average
    assert average[1].abs().sum() == 0
    assert average[0].abs().sum() > 0
    expected = 0.002 * model.map(model.latents(4, seed=0), torch.tensor([0, 0, 2, 2]))[2:].mean(dim=0)
    assert torch.allclose(average[2], expected, atol=1e-7)


def test_mixed_styles_are_coarse_of_one_and_fine_of_the_other() -> None:
    model = style(size=16)
    one, other = model.map(model.latents(2, seed=0)).split(1)
    assert model.layers == 5
    assert torch.equal(model.mixed(one, other, crossover=0), model.mixed(other, other, crossover=3))
    mixed = model.mixed(one, other, crossover=2)
    assert torch.equal(mixed[0, :2], one.expand(2, -1))
    assert torch.equal(mixed[0, 2:], other.expand(3, -1))
    pure = model.draw_from_styles(model.mixed(one, other, crossover=5))
    assert torch.allclose(pure, model.draw(model.latents(1, seed=0)), atol=1e-6)
    assert not torch.equal(model.draw_from_styles(mixed), pure)


def test_noise_follows_its_seed_and_is_fresh_in_training() -> None:
    model = style()
    for convolution in model.generator.synthesis.convolutions:
        convolution.noise_strength.data.fill_(0.5)
    latents = model.latents(2, seed=0)
    assert torch.equal(model.draw(latents, noise_seed=1), model.draw(latents, noise_seed=1))
    assert not torch.equal(model.draw(latents, noise_seed=1), model.draw(latents, noise_seed=2))
    assert not torch.equal(model.generator(latents), model.generator(latents))


def test_a_modulated_convolution_is_that_of_modulated_weights() -> None:
    layer = style(width=6).generator.synthesis.convolutions[0].double()
    x, w = torch.randn(2, 12, 4, 4, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    scale = layer.style(w)
    for row in range(2):
        weight = layer.weight / np.sqrt(12 * 9) * scale[row][None, :, None, None]
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected = torch.nn.functional.conv2d(x[row : row + 1], weight, padding=1) + layer.bias
        expected = torch.nn.functional.leaky_relu(expected, 0.2) * np.sqrt(2)
        assert torch.allclose(layer(x, w)[row : row + 1], expected)


def test_style_draws_1024_pixels_from_initial_weights() -> None:
    model = style(size=1024, channels=3)
    start, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    drawn = model.draw(model.latents(1, seed=0))
    assert drawn.shape == (1, 3, 1024, 1024)
    assert torch.isfinite(drawn).all()
    assert drawn.std() > 0.01
    assert time.process_time() - start < 30
    # In kilobytes, on Linux: some 20 MB for each of the layers of this width that are alive at once.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000


# Folders


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_models_are_the_same(kind: str, tmp_path: Path) -> None:
    model = tiny_drawer(kind, size=12, channels=3, condition="label")
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded, automatic = load_image_model(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == f"finetune_{kind}"
    latents, asked = model.latents(4, seed=0), tiny_condition("label", 4)
    for other in (loaded, automatic):
        assert type(other) is type(model)
        assert not other.training
        assert other.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())
        assert torch.allclose(other.draw(latents, asked), model.draw(latents, asked), atol=1e-6)
    assert loaded.config.id2label == dict(enumerate(LABELS))
    assert torch.equal(loaded.draw(latents, asked), model.draw(latents, asked))


def test_a_named_model_goes_on_and_must_draw_the_same_pictures(tmp_path: Path) -> None:
    model = tiny_drawer("vae", condition="label")
    model.save_pretrained(tmp_path / "saved")
    named = ImageModel(name="saved")
    images = Images(size=8, condition="label")
    same = build_image_model(named, images=images, labels=LABELS, seed=9, base=tmp_path)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in same.state_dict().items())
    with pytest.raises(ModelError, match=r"image\.size is 16, the model has 8"):
        build_image_model(named, images=Images(size=16, condition="label"), labels=LABELS, seed=9, base=tmp_path)
    with pytest.raises(ModelError, match="the labels are bird, cow, fish, the model has bird, fish, cow"):
        build_image_model(named, images=images, labels=sorted(LABELS), seed=9, base=tmp_path)


@pytest.mark.parametrize("name", ["network.pkl", "weights.pt", "model.bin"])
def test_a_pickle_is_refused_unopened(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(ModelError, match="nothing is unpickled here"):
        load_image_model(path)
    folder = tmp_path / "folder"
    tiny_drawer("vae").save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    path.rename(folder / name)
    with pytest.raises(ModelError, match="only safetensors are loaded"):
        load_image_model(folder)
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"posterior.bias": None}, r"Missing: posterior\.bias"),
        ({"decoder.extra": torch.zeros(2)}, r"Not expected: decoder\.extra"),
        ({"posterior.bias": torch.zeros(3)}, r"posterior\.bias is \[3\], config\.json says \[10\]"),
        ({"posterior.bias": torch.full((10,), float("nan"))}, r"posterior\.bias holds NaN"),
    ],
)
def test_strange_weights_are_refused(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    tiny_drawer("vae").save_pretrained(tmp_path)
    tensors = {**load_file(tmp_path / "model.safetensors"), **change}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        load_image_model(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no image model: model_type 'bert'"):
        load_image_model(tiny_bert_folder(tmp_path / "bert"))
    with pytest.raises(ModelError):
        load_image_model(tmp_path / "nothing")
