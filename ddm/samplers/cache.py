"""A denoiser that counts its calls and does not repeat itself."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser, Prediction
from ddm.kernels import Absorbing


class CallCounter(Denoiser):
    """Wrap a denoiser: count calls, and reuse the rows in which no token changed.

    Reuse is exact for time-free models: their raw output is a function of x_t alone. It pays with
    the absorbing kernel, where short steps often reveal nothing; with other kernels hardly any
    row stays the same, so nothing is kept. A call in which every row is reused is no call.

    Args:
        denoiser: The denoiser to call.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.process)
        self.denoiser = denoiser
        self.num_calls = 0
        self.num_rows = 0
        self._reuse = denoiser.time_free and isinstance(denoiser.process.kernel, Absorbing)
        self._last: Prediction | None = None

    def forward(self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"]) -> Prediction:
        """Call the denoiser on the rows that changed since the last call."""
        if self._reuse and self._last is not None and self._last.x_t.shape == x_t.shape:
            changed = (x_t != self._last.x_t).any(-1)
            num_changed = int(changed.sum())
            if num_changed < x_t.shape[0]:
                output = self._last.output
                if num_changed:
                    fresh = self._call(x_t[changed], t[changed])
                    output = output.index_copy(0, changed.nonzero().squeeze(-1), fresh.output)
                self._last = replace(self._last, output=output, x_t=x_t, t=t)
                return self._last
        prediction = self._call(x_t, t)
        if self._reuse:
            self._last = prediction
        return prediction

    def _call(self, x_t: Tensor, t: Tensor) -> Prediction:
        self.num_calls += 1
        self.num_rows += x_t.shape[0]
        prediction: Prediction = self.denoiser(x_t, t)
        return prediction
