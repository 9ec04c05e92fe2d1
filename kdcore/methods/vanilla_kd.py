r"""KD, DKD and DIST: the three baselines of logit distillation that every other method is compared with.

* **KD** (Hinton et al., 2015): the student matches the teacher's softened class probabilities. What a teacher says
  about the *wrong* classes of an image ("dark knowledge") is where the information is; temperature makes it audible.
* **DKD** (Zhao et al., 2022): the same KL term is a sum of two, target against the rest (TCKD) and the shape of the
  rest (NCKD), and in the sum NCKD is multiplied by :math:`1 - p_y`: muted exactly where the teacher is sure. DKD gives
  each its own weight.
* **DIST** (Huang et al., 2022): a much stronger teacher cannot be matched exactly; matching the *correlation* of the
  probabilities, between classes and between samples, asks for the preferences only.

With :math:`p = \mathrm{softmax}(t / T)`, :math:`q = \mathrm{softmax}(s / T)`, hats for softmax over the classes other
than :math:`y`, and :math:`\rho` for Pearson correlation:

.. math::
    L_{KD}   &= T^2 \, \tfrac1N \sum_n \sum_c p_{nc} (\log p_{nc} - \log q_{nc}), \qquad
                \partial L_{KD} / \partial s = T (q - p) / N \\
    TCKD     &= T^2 \, \tfrac1N \sum_n KL([p_y, 1 - p_y] \,\|\, [q_y, 1 - q_y]), \quad
    NCKD      = T^2 \, \tfrac1N \sum_n KL(\hat p_n \,\|\, \hat q_n) \\
    L_{DKD}  &= \alpha \, TCKD + \beta \, NCKD, \qquad KL_n = TCKD_n + (1 - p_y) \, NCKD_n \\
    L_{DIST} &= T^2 \left(\beta \, (1 - \tfrac1N \sum_n \rho(q_{n:}, p_{n:})) +
                \gamma \, (1 - \tfrac1C \sum_c \rho(q_{:c}, p_{:c}))\right)

=================  ==============================  ==========================================
paper              argument                        shape
=================  ==============================  ==========================================
:math:`s, t`       student_logits, teacher_logits  ``(N, C)``; KD, DIST also ``(N, C, H, W)``
:math:`y`          labels                          ``(N,)``
:math:`T, \tau`    temperature                     > 0
:math:`\alpha`     alpha                           weight of TCKD (DKD)
:math:`\beta`      beta                            weight of NCKD (DKD), of ``inter`` (DIST)
:math:`\gamma`     gamma                           weight of ``intra`` (DIST)
=================  ==============================  ==========================================

The formulas live in :mod:`kdcore.functional.divergences`, as other papers build on them.
"""

from __future__ import annotations

from torch import Tensor

from ..card import Evidence, Knob, MethodCard, Parity
from ..functional.divergences import dist_loss, dkd_loss, kd_loss, kd_objective, linear_warmup
from ..method import Method, Signals, ce_weight_knob

_MDISTILLER = "megvii-research/mdistiller"
_DIST_KD = "hunto/DIST_KD"


class KD(Method):
    """Hinton's objective as named terms: ``ce_weight`` cross-entropy (added by the loop) + ``kd_weight`` KD."""

    name, label = "kd", "KD"
    knobs = (
        Knob(
            "temperature", 4.0, 1.0, 20.0, symbol="T", help="softens both distributions", source=_MDISTILLER, log=True
        ),
        Knob("kd_weight", 0.9, 0.0, 1.0, symbol="w_kd", help="weight of the distillation term", source=_MDISTILLER),
        ce_weight_knob(0.1, source=_MDISTILLER),
    )

    def terms(self, s: Signals) -> dict[str, Tensor]:
        loss = kd_loss(*s.logits, temperature=self.knob.temperature)
        return {"kd": self.knob.kd_weight * loss}


class DKD(Method):
    """Cross-entropy + warm-up × (``alpha`` TCKD + ``beta`` NCKD); at epoch 0 the warm-up is 0."""

    name, label = "dkd", "DKD"
    knobs = (
        Knob("alpha", 1.0, 0.0, 4.0, symbol="α", help="weight of target against rest (TCKD)", source=_MDISTILLER),
        Knob(
            "beta",
            8.0,
            0.0,
            10.0,
            symbol="β",
            help="weight of the shape of the rest (NCKD)",
            source=f"{_MDISTILLER}; its configurations per pair use 2, 6 or 8",
        ),
        Knob("temperature", 4.0, 1.0, 8.0, symbol="T", help="softens both distributions", source=_MDISTILLER, log=True),
        Knob(
            "warmup_epochs",
            20,
            0,
            40,
            symbol="E_w",
            source=_MDISTILLER,
            help="epochs over which the term grows from 0 to its full weight",
        ),
        ce_weight_knob(1.0, source=_MDISTILLER),
    )

    def terms(self, s: Signals) -> dict[str, Tensor]:
        k = self.knob
        _, tckd, nckd = dkd_loss(*s.logits, s.labels, temperature=k.temperature, return_parts=True)
        weight = linear_warmup(s.epoch, k.warmup_epochs)
        return {"tckd": weight * k.alpha * tckd, "nckd": weight * k.beta * nckd}

    @classmethod
    def example(cls, **kwargs: object) -> Signals:
        """As :meth:`Method.example <kdcore.method.Method.example>`, past the warm-up."""
        signals = super().example(**kwargs)  # type: ignore[arg-type]
        signals.epoch = 20
        return signals


class DIST(Method):
    """Cross-entropy + ``dist_weight`` × DIST, its two relations as separate terms."""

    name, label = "dist", "DIST"
    invariances = ("shift_invariant", "class_permutation", "sample_permutation")  # eps keeps a match a hair above 0
    knobs = (
        Knob("beta", 1.0, 0.0, 4.0, symbol="β", help="weight of the relation between classes (inter)", source=_DIST_KD),
        Knob(
            "gamma", 1.0, 0.0, 4.0, symbol="γ", help="weight of the relation between samples (intra)", source=_DIST_KD
        ),
        Knob(
            "temperature",
            1.0,
            1.0,
            8.0,
            symbol="τ",
            help="softens both distributions",
            source=f"{_DIST_KD}: 1 on ImageNet, 4 on CIFAR-100",
            log=True,
        ),
        Knob(
            "dist_weight",
            2.0,
            0.0,
            4.0,
            symbol="w_dist",
            help="weight of the whole term",
            source="hunto/image_classification_sota (recipes of the authors)",
        ),
        ce_weight_knob(1.0, source="hunto/image_classification_sota"),
    )

    def terms(self, s: Signals) -> dict[str, Tensor]:
        k = self.knob
        _, inter, intra = dist_loss(*s.logits, temperature=k.temperature, return_parts=True)
        scale = k.dist_weight * k.temperature**2
        return {"inter": scale * k.beta * inter, "intra": scale * k.gamma * intra}


CARD = MethodCard(
    slug="vanilla_kd",
    summary="The student matches the teacher's softened probabilities (KD), their two parts with separate weights "
    "(DKD, arXiv:2203.08679), or only their correlations (DIST, arXiv:2205.10536).",
    objectives=(KD, DKD, DIST),
    losses=("kd_loss", "kd_objective", "dkd_loss", "dist_loss"),
    taps="logits of both",
    invariances=("zero_at_match", "minimal_at_match", "shift_invariant", "class_permutation", "sample_permutation"),
    parity=Parity(
        "exact",
        f"{_MDISTILLER} (KD, DKD) and {_DIST_KD} (DIST)",
        1e-8,
        "values and gradients, float64; recomputed independently from the equations",
    ),
    evidence=(
        Evidence(
            "KD: code",
            paper="none by the authors",
            code=f"{_MDISTILLER}: KL summed over classes, mean over samples, T² inside",
            here="the same",
        ),
        Evidence(
            "KD: weights",
            paper="the soft term should weigh much more than the hard one",
            code="0.1 CE + 0.9 KD, T = 4",
            here="the same defaults",
        ),
        Evidence(
            "DKD: softmax without the target",
            paper="softmax over the C − 1 other classes",
            code="subtracts 1000 from the target's logit",
            here="the target is taken out exactly: equal values, logits of any size",
        ),
        Evidence(
            "DKD: 1 − p_y",
            paper="1 − p_y",
            code="sum of the masked probabilities",
            here="logsigmoid of (logsumexp of the rest − logit_y)",
        ),
        Evidence(
            "DIST: batch of one", paper="undefined (correlation over samples)", code="silently 1 − 0", here="refused"
        ),
        Evidence("DIST: eps", paper="none", code="added to the product of the norms, 1e-8", here="as the code"),
        Evidence(
            "DIST: dense logits",
            paper="as classification",
            code="pixels as samples, T = 1",
            here="pixels as samples, any T",
        ),
    ),
    deviations=(
        "Half-precision logits are computed in float32.",
        "DIST refuses fewer than two samples, where the released code returns a constant.",
    ),
)

__all__ = ["CARD", "DIST", "DKD", "KD", "dist_loss", "dkd_loss", "kd_loss", "kd_objective", "linear_warmup"]
