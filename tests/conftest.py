"""One thread: these tensors are small, and tests share their cores."""

import torch

torch.set_num_threads(1)
