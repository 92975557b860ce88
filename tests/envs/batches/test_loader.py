import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gstds.envs.batches.loader import augment, normalize


def batch(n=16, shape=(1, 8, 8), seed=0):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(1, 256, (n, *shape), dtype=np.uint8))


def test_each_result_is_a_window_of_the_padded_image_possibly_mirrored():
    images, pad = batch(64, (3, 6, 9)), 2
    out = augment(images, np.arange(64), seed=3, epoch=1, pad=pad, flip=True)
    seen = set()
    for image, result in zip(images.numpy(), out.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
        windows = {
            (y, x, m): padded[:, y : y + 6, x : x + 9][:, :, :: -1 if m else 1]
            for y in range(5)
            for x in range(5)
            for m in (0, 1)
        }
        hits = [key for key, window in windows.items() if np.array_equal(window, result)]
        assert len(hits) == 1
        seen.add(hits[0])
    assert len(seen) > 30


def test_offsets_and_mirrors_are_uniform():
    n, pad = 20_000, 1
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3).expand(n, 1, 3, 3)
    out = augment(image, np.arange(n), seed=0, epoch=0, pad=pad, flip=True)
    kinds, counts = np.unique(out.view(n, 9).numpy(), axis=0, return_counts=True)
    assert len(kinds) == 18
    expected = n / 18
    # 99.99% point of chi-squared with 17 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 47.6


@settings(deadline=None)
@given(st.permutations(range(12)), st.integers(0, 2**32), st.integers(0, 50))
def test_a_sample_does_not_depend_on_its_batch(order, seed, epoch):
    images, indices, order = batch(12), np.arange(100, 112), np.array(order)
    options = {"seed": seed, "epoch": epoch, "pad": 2, "flip": True}
    whole = augment(images, indices, **options)
    assert torch.equal(augment(images[order], indices[order], **options), whole[order])
    part = order[:3]
    assert torch.equal(augment(images[part], indices[part], **options), whole[part])


def test_seed_and_epoch_matter():
    images, indices = batch(), np.arange(16)
    options = {"pad": 2, "flip": True}
    first = augment(images, indices, seed=0, epoch=0, **options)
    assert not torch.equal(first, augment(images, indices, seed=1, epoch=0, **options))
    assert not torch.equal(first, augment(images, indices, seed=0, epoch=1, **options))


def test_nothing_to_do_returns_the_images():
    images = batch()
    assert augment(images, np.arange(16), seed=0, epoch=0, pad=0, flip=False) is images
    empty = batch(0)
    assert augment(empty, np.arange(0), seed=0, epoch=0, pad=2, flip=True).shape == empty.shape


def test_the_input_is_left_as_it_was():
    images = batch()
    before = images.clone()
    augment(images, np.arange(16), seed=0, epoch=0, pad=2, flip=True)
    assert torch.equal(images, before)


def test_normalize_is_the_formula():
    images = batch(5, (3, 8, 6))
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    out = normalize(images, mean, std)
    wanted = images.double() / 255
    wanted = (wanted - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), wanted, atol=1e-6, rtol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)
