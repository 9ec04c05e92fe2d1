"""Pictures that can also be read: pure builders ``xxx_view(data) -> View``; no state, no widgets."""

from __future__ import annotations

from kdcore._lazy import lazy

_HOME = {
    "View": "base",
    "LIGHT": "theme",
    "DARK": "theme",
    "Theme": "theme",
    "cka_map_view": "cka",
    "cka_compare_view": "cka",
    "cka_grid_view": "similarity",
    "cka_film_view": "similarity",
    "layer_identification_view": "similarity",
    "batch_estimates_view": "similarity",
    "similarity_profile_view": "similarity",
    "gram_view": "similarity",
    "training_curves_view": "curves",
    "history_frame": "curves",
    "probability_bars_view": "probabilities",
    "soft_target_view": "targets",
    "kd_split_view": "logit_losses",
    "worth_view": "ranking",
    "pld_weights_view": "ranking",
    "rank_agreement_view": "ranking",
    "ranking_view": "ranking",
    "correlation_heatmaps_view": "ranking",
    "class_positions_view": "ranking",
    "comparison_view": "comparison",
    "heatmap_view": "comparison",
    "confusion_view": "comparison",
    "scatter_view": "comparison",
    "lines_view": "comparison",
    "contours_view": "comparison",
    "image_grid_view": "images",
    "loss_landscape_view": "landscape",
    "findings_view": "diagnose",
    "occlusion_view": "diagnose",
    "attribution_pair_view": "diagnose",
    "alignment_view": "diagnose",
    "robustness_view": "diagnose",
    "reliability_view": "diagnose",
    "missed_view": "diagnose",
    "diagnosis_views": "diagnose",
}
__all__ = [*_HOME]

__getattr__, __dir__ = lazy(__name__, _HOME)
