r"""Centred kernel alignment: how alike are two representations, and a student trained to be alike.

Two networks see the same N inputs. Layer X is ``(N, d1)``, layer Y is ``(N, d2)``; neurons have no common order and the
widths differ, so nothing can be compared column by column. What *can* be compared is which inputs each layer finds
alike: the Gram matrices K, L ``(N, N)``. CKA is the cosine between them once both are centred:

.. math::
    \mathrm{CKA}(K, L) &= \frac{\mathrm{HSIC}(K, L)}{\sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}}, \qquad
    K = X X^\top \;\text{ or }\; K_{ij} = e^{-\|x_i - x_j\|^2 / (2 t^2 \mathrm{med})} \\
    \mathrm{HSIC}_0(K, L) &= \frac{\langle H K H,\, H L H \rangle}{(N - 1)^2}, \qquad
    \mathrm{HSIC}_1(K, L) = \frac{\langle \hat K, \hat L \rangle}{N (N - 3)}

with :math:`H = I - 11^\top / N` and :math:`\hat K` U-centred (zero diagonal, rows that sum to zero). HSIC_0 is biased:
for d >> N any two layers look alike. HSIC_1 is not, and so it may be averaged over batches, which gives the map of all
pairs of layers in one pass (:class:`CKAMap`, :func:`kdcore.cka_maps.cka_map`). The value is unchanged by rotation,
isotropic scaling and translation of either side, but not by a general linear map, so it still means something for
d > N. As a loss, :math:`1 - \mathrm{CKA}` pulls the student's geometry towards the teacher's without a projector.

===========================  ==========================  ================================
symbol                       argument                    shape
===========================  ==========================  ================================
:math:`X, Y`                 x, y; student_features,     ``(N, ...)``, flattened
                             teacher_features
:math:`K, L`                 gram_x, gram_y              ``(N, N)``
:math:`t`                    bandwidth                   > 0
===========================  ==========================  ================================

CKA has blind spots (a few dominant directions, single outliers); companions that see other things stand beside it:
CCA, SVCCA, PWCCA, Procrustes, RSA, mutual k-NN, CKNNA. The formulas live in :mod:`kdcore.functional`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..card import Evidence, Knob, MethodCard, Parity
from ..cka_maps import CKAResult, cka_map
from ..functional.cca import cca_coefficients, cca_r2, mean_cca, pwcca, svcca
from ..functional.cka import CKAMap, cka, cka_loss
from ..functional.gram import center_gram, gram_linear, gram_rbf, hsic
from ..functional.similarity import cknna, mutual_knn, procrustes_disparity, procrustes_distance, rsa
from ..method import Method, Needs, Signals, ce_weight_knob

_DEMO = "google-research/google-research (representation_similarity)"
_HERE = "ours: no released recipe trains with it"


#: Key of the tap before :meth:`CKAAlignment.setup` has looked at the models, and in :meth:`CKAAlignment.example`.
_EMBEDDING = "embedding"


class CKAAlignment(Method):
    """``ce_weight`` cross-entropy (added by the loop) + ``weight`` (1 - CKA) between the embeddings.

    No projector and nothing learnable: widths may differ. Batches need at least 4 samples (2 with ``unbiased=False``),
    so a loader whose last batch may be smaller wants ``drop_last=True``. To align other layers, assign
    ``student_taps`` and ``teacher_taps`` (one name each) before the training starts.
    """

    name, label = "cka", "CKA"
    knobs = (
        Knob("weight", 1.0, 0.0, 10.0, symbol="w_cka", help="weight of 1 - CKA", source=_HERE),
        Knob(
            "kernel",
            "linear",
            symbol="k",
            help="linear, or rbf: near neighbours count more",
            source=_DEMO,
            choices=("linear", "rbf"),
        ),
        Knob(
            "unbiased",
            True,
            symbol="HSIC_1",
            help="unbiased HSIC: does not reward width; batches of at least 4",
            source="Nguyen et al. 2021, arXiv:2010.15327",
        ),
        Knob(
            "bandwidth",
            0.5,
            0.2,
            2.0,
            symbol="t",
            help="of the rbf kernel, a fraction of the median distance",
            source="ours; the paper explores 0.2 to 2 and mostly uses 0.8",
            log=True,
        ),
        ce_weight_knob(1.0, source=_HERE),
    )
    needs = Needs(teacher_logits=False)
    student_taps = (_EMBEDDING,)
    teacher_taps = (_EMBEDDING,)

    def setup(self, student: nn.Module, teacher: nn.Module | None, sample: Tensor) -> None:
        self.settle_taps(student, teacher, sample)

    def min_batch(self) -> int:
        return 4 if self.knob.unbiased else 2

    def terms(self, s: Signals) -> dict[str, Tensor]:
        k = self.knob
        loss = cka_loss(
            s.student_features[self.student_taps[0]],
            s.teacher_features[self.teacher_taps[0]],
            kernel=k.kernel,
            unbiased=k.unbiased,
            bandwidth=k.bandwidth,
        )
        return {"cka": k.weight * loss}

    @classmethod
    def example(
        cls, *, batch: int = 6, classes: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0, match: bool = False
    ) -> Signals:
        """As the method of the base class, with embeddings: the teacher's 7 wide, the student's 4 (7 at a match)."""
        signals = super().example(batch=batch, classes=classes, dtype=dtype, seed=seed, match=match)
        g = torch.Generator().manual_seed(seed + 1)
        teacher = torch.randn(batch, 7, generator=g, dtype=torch.float64)
        mixed = teacher @ torch.randn(7, 4, generator=g, dtype=torch.float64)
        noise = torch.randn(batch, 4, generator=g, dtype=torch.float64)
        student = teacher.clone() if match else mixed + noise
        signals.teacher_logits = None
        signals.student_features = {_EMBEDDING: student.to(dtype).requires_grad_()}
        signals.teacher_features = {_EMBEDDING: teacher.to(dtype)}
        return signals


CARD = MethodCard(
    slug="cka",
    summary="Centred kernel alignment compares what two layers represent on the same inputs, whatever their widths; "
    "here as a number, as a map of all layer pairs (minibatch CKA, arXiv:2010.15327), and as a loss.",
    objectives=(CKAAlignment,),
    losses=("cka_loss",),
    taps="penultimate embedding of both (the input of the classifier); any layer when set by hand",
    invariances=("zero_at_match", "minimal_at_match", "scale_invariant", "rotation_invariant", "sample_permutation"),
    parity=Parity(
        "exact",
        f"{_DEMO}, efficient_CKA.py, platonic-rep, torch_cka, google/svcca, scipy",
        1e-9,
        "values, float64; 1e-5 for the uniform weighting of torch_cka, which accumulates in float32",
    ),
    evidence=(
        Evidence(
            "estimator",
            paper="biased HSIC",
            code=f"{_DEMO}: both; the minibatch class: unbiased",
            here="unbiased by default, unbiased=False is the paper's",
        ),
        Evidence(
            "centring",
            paper="HSIC is invariant to a shift of the features",
            code="Grams of raw features: in float32 and at mean/std = 10, torch_cka gives NaN",
            here="features are centred before every Gram: error below 1e-6 up to mean/std = 1000",
        ),
        Evidence(
            "minibatch weights",
            paper="mean of HSIC over batches",
            code="efficient_CKA.py adds n(n-3) HSIC",
            here='"pairs" as the code (default), "uniform" as the paper and torch_cka',
        ),
        Evidence(
            "denominator",
            paper="no epsilon",
            code="platonic-rep adds 1e-6",
            here="none in CKA (constant features are refused, NaN in a map); 1e-6 in CKNNA, as released",
        ),
        Evidence(
            "PWCCA",
            paper="weights from canonical variates",
            code="google/svcca leaves out the whitening and fails when the second argument is narrower",
            here="the paper's definition; the released function is not followed",
        ),
        Evidence(
            "mutual k-NN",
            paper="normalised features",
            code="platonic-rep normalises in its driver",
            here="normalize=True by default, False is the released function",
        ),
        Evidence("as a loss", paper="not proposed there", code="none", here="1 - CKA, teacher detached"),
    ),
    deviations=(
        "PWCCA does not follow google/svcca, whose weights are not those of the paper.",
        "No epsilon in the denominator of CKA: constant features are an error, and NaN in a map.",
        "SVCCA keeps directions by their share of variance, the sum of squared singular values.",
        "Scalar functions compute in float64 and return the dtype of their first argument (CKA) or float64.",
    ),
)

__all__ = [
    "CARD",
    "CKAAlignment",
    "CKAMap",
    "CKAResult",
    "cca_coefficients",
    "cca_r2",
    "center_gram",
    "cka",
    "cka_loss",
    "cka_map",
    "cknna",
    "gram_linear",
    "gram_rbf",
    "hsic",
    "mean_cca",
    "mutual_knn",
    "procrustes_disparity",
    "procrustes_distance",
    "pwcca",
    "rsa",
    "svcca",
]
