"""The singlestep updates of DPM-Solver of orders 1 to 3.

With t = -ln sigma, eps = (x - D) / sigma, a step of length h from t and em(z) = exp(z) - 1, the states at the
share r of the step are u_r = x - sigma_r em(r h) eps to first order, where sigma_r = exp(-t - r h). The ends of
steps are

    order 2:  x' = x - sigma' em(h) eps - sigma' / (2 r) em(h) (eps_r - eps)
    order 3:  u2 = x - sigma_2 em(r2 h) eps - sigma_2 (r2 / r1) (em(r2 h) / (r2 h) - 1) (eps_1 - eps),
              x' = x - sigma' em(h) eps - sigma' / r2 (em(h) / h - 1) (eps_2 - eps)

with r1 = 1/3 and r2 = 2/3. The factors are computed in the dtype of t, each by itself, as k-diffusion does in
torch's default dtype, so that both agree to all digits. Source: Lu et al. 2022, "DPM-Solver", arXiv 2206.00927,
algorithms 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from edmfast.sampling.engine import Call, Combine, Expression, register

X = register("x")
R1, R2 = 1 / 3, 2 / 3


@dataclass(frozen=True)
class SingleStep:
    """A step from t to t_next, tensors without dimensions on the CPU."""

    t: Tensor
    t_next: Tensor

    def sigma(self, r: float = 0.0) -> float:
        """Return the level at the share r of the step."""
        return float(self._sigma(r))

    def first(self, r: float = 1.0) -> Expression:
        """Return the states at the share r, of order 1."""
        growth = self._sigma(r) * (r * self._h).expm1()
        return X - float(growth) * self._eps("x", "D", 0.0)

    def second(self, r: float, states: str, denoised: str) -> Expression:
        """Return the end of order 2, from the registers of the evaluation at the share r."""
        factor = self._sigma(1.0) / (2 * r) * self._h.expm1()
        return self.first() - float(factor) * self._change(r, states, denoised)

    def third_stage(self, states: str, denoised: str) -> Expression:
        """Return u2, from the registers of the evaluation at the share r1."""
        length = R2 * self._h
        factor = self._sigma(R2) * (R2 / R1) * (length.expm1() / length - 1)
        return self.first(R2) - float(factor) * self._change(R1, states, denoised)

    def third(self, states: str, denoised: str) -> Expression:
        """Return the end of order 3, from the registers of the evaluation at the share r2."""
        factor = self._sigma(1.0) / R2 * (self._h.expm1() / self._h - 1)
        return self.first() - float(factor) * self._change(R2, states, denoised)

    def work(self, order: int) -> tuple[tuple[Call | Combine, ...], Expression]:
        """Return (the work before the last combination, the end of the step) of order 1, 2 or 3."""
        work: tuple[Call | Combine, ...] = (Call(self.sigma()),)
        if order == 1:
            return work, self.first()
        if order == 2:
            work += (Combine("u", self.first(0.5)), Call(self.sigma(0.5), "u", "D_u"))
            return work, self.second(0.5, "u", "D_u")
        work += (Combine("u1", self.first(R1)), Call(self.sigma(R1), "u1", "D_u1"))
        work += (
            Combine("u2", self.third_stage("u1", "D_u1")),
            Call(self.sigma(R2), "u2", "D_u2"),
        )
        return work, self.third("u2", "D_u2")

    @property
    def _h(self) -> Tensor:
        return self.t_next - self.t

    def _sigma(self, r: float) -> Tensor:
        # The end of the step is t_next itself, from which t + h may differ in the last digit.
        return (self.t_next if r == 1 else self.t + r * self._h).neg().exp()

    def _eps(self, states: str, denoised: str, r: float) -> Expression:
        return (register(states) - register(denoised)) / self.sigma(r)

    def _change(self, r: float, states: str, denoised: str) -> Expression:
        return self._eps(states, denoised, r) - self._eps("x", "D", 0.0)


def ancestral_move(t: Tensor, t_next: Tensor, t_end: Tensor, eta: float) -> tuple[Tensor, float]:
    """Return (the t where the deterministic move of a step ends, the standard deviation of the noise after it).

    The move goes beyond t_next, but not beyond t_end, and the noise brings the states back.
    """
    if not eta:
        return t_next, 0.0
    sigma, sigma_next = t.neg().exp(), t_next.neg().exp()
    up = (eta * (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5).minimum(sigma_next)
    down = (sigma_next**2 - up**2) ** 0.5
    end = down.log().neg().minimum(t_end)
    return end, float((sigma_next**2 - end.neg().exp() ** 2) ** 0.5)
