"""What every test needs: one thread per worker, since two workers share the cores."""

import torch

torch.set_num_threads(1)
