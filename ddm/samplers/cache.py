"""A denoiser that counts its calls and does not repeat itself."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser, Prediction


class CallCounter(Denoiser):
    """Wrap a denoiser: count calls, and leave out the rows that need none.

    With an absorbing kernel nothing is asked for rows without a mask, which stay as they are, and
    time-free models, whose output is a function of x_t alone, are not asked again for rows in
    which no token changed. With other kernels hardly any row stays the same, so nothing is kept.
    A call in which no row is left is no call.

    Args:
        denoiser: The denoiser to call.

    Attributes:
        num_calls: Network calls made.
        num_rows: Sequences evaluated in all calls together.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.process)
        self.denoiser = denoiser
        self.time_free = denoiser.time_free
        self.min_time = denoiser.min_time
        self.num_calls = 0
        self.num_rows = 0
        self._last: Prediction | None = None

    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Prediction:
        """Call the denoiser on the rows that need it."""
        if not self.process.kernel.absorbing:
            return self._call(self.denoiser, x_t, t, free)
        if self._last is None or self._last.x_t.shape != x_t.shape:
            self._last = self._call(self.denoiser, x_t, t, free)
            return self._last
        masked = ~self.process.kernel.is_revealed(x_t)
        needed = (masked if free is None else masked & free).any(-1)
        if self.time_free:
            needed &= (x_t != self._last.x_t).any(-1)
        features, num = self._last.features, int(needed.sum())
        if num == len(x_t):
            self._last = self._call(self.denoiser, x_t, t, free)
            return self._last
        if num:
            index = needed.nonzero().squeeze(-1)
            rows = self.denoiser.rows(index)
            fresh = self._call(rows, x_t[index], t[index], None if free is None else free[index])
            features = features.index_copy(0, index, fresh.features)
        self._last = replace(self._last, features=features, x_t=x_t, t=t, free=free)
        return self._last

    def _call(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, free: Tensor | None) -> Prediction:
        self.num_calls += denoiser.calls_per_prediction
        self.num_rows += denoiser.calls_per_prediction * len(x_t)
        prediction: Prediction = denoiser(x_t, t, free)
        return prediction
