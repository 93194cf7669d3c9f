"""The figures in words, in the groups that the page shows them in."""

from __future__ import annotations

from collections.abc import Mapping

#: The title of each group, and its figures: raw name and words.
GROUPS: Mapping[str, Mapping[str, str]] = {
    "Successes against failures": {
        "auc_mean": "Successes above failures, mean score",
        "auc_final": "Successes above failures, final score",
        "auc_sum": "Successes above failures, total",
        "auprc_mean": "Precision of the mean score",
        "auprc_final": "Precision of the final score",
        "auprc_sum": "Precision of the total",
        "base_rate": "Share of successes",
        "rank_tau_b": "Order of failure, partial, success (tau-b)",
        "rank_tau_a": "Order of failure, partial, success (tau-a)",
    },
    "Harder and altered episodes": {
        "near_auc_mean": "Successes above near-misses, mean score",
        "near_auc_final": "Successes above near-misses, final score",
        "shifted_auc": "With the camera shifted",
        "brightness_auc": "With another brightness",
        "reversed_auc": "Successes above the same played backwards",
    },
    "Progress along a success": {
        "voc_spearman": "How steadily it rises (VOC)",
        "voc_pearson": "How straight it rises",
        "voc_reversed": "How steadily it rises when played backwards",
    },
    "What can be farmed": {
        "static_place": "Standing still, between failure and success",
        "static_share": "Standing still, as a share of a success",
        "hover_share": "Stopping half-way, between failure and success",
        "near_share": "Near-misses, between failure and success",
    },
    "Beside the environment's own reward": {
        "env_correlation_step": "Correlation at each step",
        "env_correlation_episode": "Correlation over episodes",
        "epic_distance": "EPIC distance",
        "scale": "Scale",
    },
    "Is it alive?": {"spread": "Spread of the score"},
}
