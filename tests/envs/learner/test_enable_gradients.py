from __future__ import annotations

import numpy as np
import pytest
import torch

from gstds.common.state import state_digest
from gstds.envs import DataSelectionEnv


def trained(mode, dataset):
    with mode():
        env = DataSelectionEnv(dataset=dataset, epochs=1, batch_size=16, observe=(), reward="none")
        env.reset(seed=3)
        ended = False
        for step in range(40):
            if step == 1:
                state = env.state_dict()
                env.load_state_dict(state)
            weights = np.ones(env.action_space.shape, dtype=np.float32)
            _, _, ended, _, _ = env.step(weights)
            if ended:
                break
        assert not torch.is_grad_enabled() or mode is torch.enable_grad
    return state_digest(env.learner.model.state_dict())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_trains_the_same_network(mode, tiny_npz):
    assert trained(mode, tiny_npz) == trained(torch.enable_grad, tiny_npz)
