"""QD-BEV's library: quantization and distillation of camera-only bird's-eye-view detectors (QD-BEV, ICCV 2023).

Tensors and flat arguments only; it sees no profile, no artifact folder and no terminal. Import the rooms
themselves (``qdbev.quantization``, ``qdbev.detectors`` ...): importing ``qdbev`` alone loads nothing heavy.
"""

from __future__ import annotations

__version__ = "0.1.0"
