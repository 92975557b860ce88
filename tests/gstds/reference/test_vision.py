import multiprocessing
import subprocess
import sys

import pytest
import torch

from gstds.reference.vision import import_torchvision


def test_models_and_transforms_work():
    torchvision = import_torchvision()
    model = torchvision.models.resnet18(num_classes=3).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    resized = torchvision.transforms.Resize(4)(torch.zeros(3, 8, 8))
    assert resized.shape == (3, 4, 4)


def test_the_same_module_comes_back():
    assert import_torchvision() is import_torchvision()
    assert sys.modules["torchvision"] is import_torchvision()


def test_a_mixed_install_is_mended():
    # A finder that withholds the compiled half makes any install the mixed one.
    script = """
import sys, warnings
warnings.simplefilter("error")
import torch
load = torch.ops.load_library
def refuse(path):
    raise OSError("no CUDA runtime")
torch.ops.load_library = refuse
try:
    import torchvision
    raise SystemExit("the install is not mixed: the test tests nothing")
except RuntimeError as error:
    assert "torchvision::nms" in str(error), error
from gstds.reference.vision import import_torchvision
import gc
first = import_torchvision()
gc.collect()
assert torch.ops.torchvision.nms is not None
assert first.models.ResNet18_Weights.DEFAULT is not None
assert import_torchvision() is first
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


IMPORTS = {
    "at the top": "import torchvision\nfrom torchvision.models import resnet18\n",
    "by another library": "import like_timm\nresnet18 = like_timm.models.resnet18\n",
    "in the function": "def resnet18(**kw):\n    import torchvision\n"
    "    return torchvision.models.resnet18(**kw)\n",
}


FAILED = "try:\n    import torchvision\nexcept RuntimeError: pass\n"
CASES = [(how, before) for how in IMPORTS for before in ("", FAILED)]
QUICK = [("by another library", FAILED)]


@pytest.mark.parametrize(
    ("how", "before"),
    [pytest.param(*one, marks=[pytest.mark.slow] * (one not in QUICK)) for one in CASES],
)
def test_a_users_own_import_is_mended(tmp_path, how, before):
    (tmp_path / "like_timm.py").write_text(
        "import torchvision.ops\nfrom torchvision import models\n"
    )
    (tmp_path / "net.py").write_text(
        IMPORTS[how] + "def make(classes):\n    return resnet18(num_classes=classes)\n"
    )
    script = f"""
import torch
def refuse(path):
    raise OSError("no CUDA runtime")
torch.ops.load_library = refuse
{before}
from gstds.envs.learner.models import build_model
assert build_model("net:make", (3, 32, 32), 4, 0).fc.out_features == 4
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_other_failures_are_not_hidden(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('something else')\n")
    script = "from gstds.reference.vision import import_torchvision\nimport_torchvision()\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "RuntimeError: something else" in done.stderr


def _resize(transform):
    return tuple(transform(torch.zeros(3, 8, 8)).shape)


@pytest.mark.slow
def test_spawned_workers_unpickle_torchvision_objects():
    transform = import_torchvision().transforms.Resize(4)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, initializer=import_torchvision) as pool:
        assert pool.apply(_resize, (transform,)) == (3, 4, 4)
