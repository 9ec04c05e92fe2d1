"""The vocabulary of findings: stable codes, what each means, when it is said. ``docs/diagnose.md`` is made of it."""

from __future__ import annotations

from typing import NamedTuple

#: From this severity on a finding is an alarm; below it is a note about how the two models differ.
ALARM = 0.5


class Code(NamedTuple):
    """What a code means and the rule by which it is said."""

    meaning: str
    rule: str
    reason: str


CODES: dict[str, Code] = {
    "non_finite": Code(
        "a model gives NaN or infinity",
        "any logit, parameter or buffer that is not finite; severity 1",
        "everything after it is meaningless",
    ),
    "input_normalization_mismatch": Code(
        "a model is fed values scaled otherwise than it was trained on",
        "another scaling of the input raises accuracy by >= 3 points on samples it was not chosen on (McNemar p <= "
        "0.0005); severity 0.55 + 0.4 x the share of the lost accuracy that comes back, 0.06 less for each other "
        "repair of the model that is better (McNemar p <= 0.05), surer of the labels (3 standard errors) or as good "
        "with less freedom. Where none does but the statistics of the batch do: just above those (see "
        "batch_norm_statistics). With training samples given: one of the data has more (or less) mean or spread than "
        "one of them in >= 60 % of the comparisons, 0.7 to 0.9 where a model is 10 points worse here than there, else "
        "0.4. For a transform passed in that is not what the configuration states: p <= 0.05. A note "
        "(0.2) where the normalisation that the configuration states does harm",
        "the counterfactual is the proof: nothing but the input was changed",
    ),
    "swapped_channels": Code(
        "a model is fed its colour channels in another order",
        "as above, for the orders of the channels; or by >= 1 point while the labels become likelier (Wilcoxon p <= "
        "0.0001), for a model right in >= 70 %",
        "BGR images (OpenCV) look almost right to a person and wrong to a network",
    ),
    "colour_mismatch": Code(
        "a model trained on grey images is fed colours",
        "as above, for the image without its colours",
        "a student trained with a conversion to grey that is missing now",
    ),
    "input_resolution_mismatch": Code(
        "a model is fed images of another size, crop, interpolation or sharpness than in training",
        "as above, for the image blurred, sharpened (twice), freed of the steps between its pixels, in blocks of 2 x "
        "2, "
        "its middle scaled up, the whole scaled down, and (for weak models that take them) half and double size; or "
        "the "
        "scores' gradients have at most 90 % of the full rank along a side of the image, the other model's the full "
        "one "
        "(0.75, 0.45 where it is not 3 points less often right); or the images were scaled up (their singular values "
        "fall fourfold at once along both sides: 0.4, or just above the "
        "severest alarm that only says how a model errs); with training samples given, sharpness as mean and spread "
        "above",
        "a resize that is missing, or another one, keeps the shape of the tensor",
    ),
    "input_ignored": Code(
        "a model does not see a part of its input that the other one uses",
        "the scores move by < 1e-5 of their spread in every sample when colour, a channel or the rim of the image is "
        "taken away, the other model's by > 1 % (median); severity 0.75, 0.45 where it is not 3 points less often "
        "right",
        "a conversion inside the model (to grey, a crop) leaves no other trace",
    ),
    "test_on_training_data": Code(
        "the data are (in part) what the models were trained on",
        "with training samples given: >= 2 % of the data (two at least) are copies: their thumbnails (8 pixels a side, "
        "without brightness and contrast, also mirrored) are nearer to a training sample than a fifth of the usual "
        "distance (median) among training samples and of that sample's own; severity 0.6 to 0.95, fewer 0.4. Without "
        "them a note (0.45) where "
        "both models are right in >= 99.5 %",
        "accuracies then tell what is remembered",
    ),
    "trained_too_little": Code(
        "the training of the student ended before it learnt",
        "the history shows that less than half of the loss is gone (a cross-entropy starts at ln C, or at its first "
        "epoch where that is more) and that it was still falling (by 2 % of the start from the second to the last "
        "third of the epochs) or hardly began (fewer than 3 epochs and at most 300 steps), and the student is >= 10 "
        "points behind its teacher; severity 0.7 to 0.9, and what follows by itself (learnt by heart, one class only, "
        "statistics, doubt) steps back to 0.45",
        "nothing else can be said of a student before it has learnt",
    ),
    "temperature_twice": Code(
        "a temperature divides the logits more than once",
        "given the loss: its gradients are those of KL at >= 1.4 times the temperature stated (cosine > 0.999); "
        "severity 0.9",
        "T in the loss of logits that were divided before, or by a model that divides them itself",
    ),
    "input_geometry_mismatch": Code(
        "a model is fed mirrored, turned or transposed images",
        "as for the channels, with mirrors, turns and the transpose",
        "height and width are easily exchanged between libraries",
    ),
    "label_permutation": Code(
        "a model (or the data) numbers the classes in another order",
        "a renaming of the classes found on one half of the samples raises accuracy on the other by >= 3 points "
        "(McNemar p <= 0.0005), and some class goes to another name in more than half of its samples; severity as "
        "above. The common orders (shifted, reversed, sorted as text) are preferred to a free matching unless it "
        "fits better by a sample per class",
        "folders sorted as text, another class list, labels from 1: accuracy falls, the representation is intact",
    ),
    "class_bias": Code(
        "a model favours some classes",
        "one more bias per class (and a scale), found on one half of the samples, raises accuracy on the other by >= 3 "
        "points (McNemar p <= 0.0005; severity as for the input), or the shares of the classes it names are 22 points "
        "(total variation) from those due (0.6); 0.45 where it brings less than half of the loss back, 0.4 where "
        "another finding explains it",
        "a damaged last bias, or classes that were rarer in training than in these data",
    ),
    "head_mismatch": Code(
        "the last layer does not fit the features",
        "a ridge regression on the embeddings of one half of the samples is right on the other in >= 15 points more; "
        "0.5 + 0.13 x the share of the loss (a new last layer mends almost anything), 0.45 where another alarm "
        "explains "
        "it or less than half comes back",
        "a classifier of another checkpoint, or one that was never trained",
    ),
    "label_noise": Code(
        "the labels of the data are wrong",
        "both models agree on a class that is not the label, each with probability > 0.8, in >= 10 % of the samples; "
        "severity 0.5 + that share, at most 0.95; 0.35 where a label_permutation of both explains it",
        "two models trained apart seldom share confident errors",
    ),
    "batch_norm_train_mode": Code(
        "batch normalisation uses the statistics of the batch",
        "a batch norm was in train mode when the model came, or an answer changes by > 0.1 % of the logits' spread "
        "with its neighbours in the batch although the model was put in eval mode; severity 0.7, 0.92 where answers "
        "change class",
        "a teacher in train mode gives noisy targets and its statistics drift",
    ),
    "batch_norm_statistics": Code(
        "the running statistics of batch normalisation are wrong",
        "with the statistics of the batch accuracy rises by >= 3 points (McNemar p <= 0.0005); severity as for the "
        "input where they were never updated or do not fit the training samples given either; 0.45 where they fit "
        "those; else at most 0.64 and below any input that brings back half as much: they mend almost anything",
        "statistics never updated, reset, or of other data",
    ),
    "batch_dependent_output": Code(
        "an answer depends on the other samples of the batch",
        "as for batch norms, in a model without them; severity 0.7",
        "such a teacher has no fixed target to teach",
    ),
    "dropout_active": Code(
        "a model answers at random",
        "dropout (p > 0) was in train mode when the model came (0.6), or two passes in eval mode differ by > 0.1 % "
        "of the logits' spread (0.8)",
        "noise in the teacher's targets",
    ),
    "dead_stage": Code(
        "a layer gives the same output for every sample",
        "no sample moves >= 90 % of a layer's channels by more than 1e-5 of its largest value; severity 0.96 if all "
        "channels, else 0.6 where the model is 10 points behind the other and 0.45 where it is not; 0.45 where a "
        "wrongly scaled input explains 90 % of the loss",
        "nothing can pass through it, forwards or backwards",
    ),
    "frozen_stage": Code(
        "a part of a model was not trained",
        "all weights of one stage as an initialisation leaves them (normalisation and biases exactly constant, or "
        "biases in the bound of their draw; weights, 300 at least, pass a Kolmogorov-Smirnov test for a uniform draw "
        "in a known "
        "bound, 1000 for a normal one, and their rows, columns and singular values show no structure) or equal to the "
        "initial weights given, while other stages are trained (0.85); or a part of the student asks for no "
        "gradient, the rest does (0.65)",
        "frozen by accident, left out of the optimizer, or not in the checkpoint",
    ),
    "untrained_student": Code(
        "the student knows nothing",
        "no stage shows training and most weights are as initialised (0.97; what follows by itself, dead or frozen "
        "stages, one class only, steps back); or accuracy not above naming the commonest class (one-sided binomial p "
        "> 0.01): 0.8 where half of the weights are as initialised, else 0.75, 0.45 where another finding explains it",
        "a checkpoint that was not loaded",
    ),
    "untrained_teacher": Code(
        "the teacher knows nothing", "as for the student, 0.85 in place of 0.75", "a checkpoint that was not loaded"
    ),
    "zeroed_weights": Code(
        "weights are exactly zero",
        "half or more of a weight tensor that still passes something on; severity 0.7 where the model is 10 points "
        "behind the other, else 0.4",
        "pruned and not trained on, or a file read in part",
    ),
    "outlier_weights": Code(
        "a weight is out of all proportion",
        "the largest of a weight tensor exceeds 1000 times its median; severity 0.8",
        "a damaged file, or a step that diverged",
    ),
    "collapsed_output": Code(
        "a model names (almost) one class only",
        ">= 90 % of the answers are one class that labels at most half of the samples (without labels: that the "
        "other model names in at most half); 0.7, 0.45 where explained",
        "",
    ),
    "collapsed_features": Code(
        "the embeddings of a model lie on a line or in a point",
        "effective rank (participation ratio) of the penultimate features < 1.3 and < a third of the other model's, "
        "with at least 5 classes; or their variance < 0.5 % of their mean square and < a tenth of the other model's "
        "share; severity 0.8",
        "a collapsed embedding has forgotten everything but the training classes, or them too",
    ),
    "probabilities_not_logits": Code(
        "a model gives probabilities, or their logarithms, where raw scores are expected",
        "the logarithm of the summed exponentials is 0 (within 0.0001) in every row: log-probabilities, 0.7. All "
        "outputs in [0, 1] and every row sums to 1 within 0.001, or all in [0, 1] with both ends in use; "
        "severity 0.9",
        "the softmax of a softmax is almost flat: the soft targets say nothing",
    ),
    "temperature_without_t2": Code(
        "the soft term was too weak, or a temperature was left in the student",
        "given the loss or the history: the soft term is KL(T) and not T^2 KL(T) (0.9, from a history 0.75). Else: "
        "the student is right at least 32 points more often than it says and the temperature that fits it is <= 0.5 "
        "(0.6 to 0.85); without labels: it agrees with the teacher in >= 70 % and is 25 points less confident (0.6); "
        "or its logits are 4.5 times "
        "smaller than the teacher's, neither is odd by itself, and it is less than 15 points behind (0.55 to 0.7; a "
        "note of "
        "0.3 from 2.5 times on)",
        "without T^2 the gradient of the soft term shrinks by 1 / T^2 (Hinton et al. 2015, section 2)",
    ),
    "overconfident_teacher": Code(
        "the teacher is surer than it is right, its soft targets are hard",
        "confidence exceeds accuracy by >= 28 points; or the temperature that fits is >= 6 and gains >= 0.05 nat "
        "(ordinary networks: 1 to 3, Guo et al. 2017); or at T = 4 it still gives all other classes together less "
        "than 0.01 (median); severity 0.6 to 0.9",
        "one-hot soft targets carry no dark knowledge",
    ),
    "underconfident_teacher": Code(
        "the teacher's soft targets are almost flat",
        "right at least 32 points more often than it says and the temperature that fits is <= 0.5; severity 0.6 to "
        "0.8; "
        "or logits 4.5 times smaller than the student's, where the student fits at an ordinary temperature (at most "
        "3.3)",
        "flat targets pull the student towards nothing",
    ),
    "teacher_worse_than_student": Code(
        "the student is right more often than the teacher",
        "by >= 3 points with McNemar p <= 0.0005; severity 0.55 + 2 x the difference, at most 0.95",
        "there is nothing to learn from it, or it is not fed what it was trained on",
    ),
    "overfitted_student": Code(
        "the student has learnt by heart",
        "at least 15 points less often right than the teacher and at least 15 points surer than right, without "
        "another alarm; severity 0.55 to 0.62, with training samples given on which it is right 15 points more often "
        "0.55 to 0.75 (where it is not: nothing)",
        "too few samples, or too many epochs",
    ),
    "underfitted_student": Code(
        "the student has learnt too little",
        "at least 20 points less often right than the teacher and not surer than right, without another alarm; "
        "severity 0.55 to 0.75",
        "too small, too short, too few samples, or noisy labels",
    ),
    "missing_class": Code(
        "a model never gives a class that the other one knows",
        "recall <= 0.1 against >= 0.6 on >= 5 samples, in fewer than half of the classes; severity 0.7",
        "the class was not in its training data, or is lost in its last layer",
    ),
    "accuracy_gap": Code(
        "the student is right less often than the teacher",
        "by >= 1 point; severity 1.5 x the gap, at most 0.45; from a gap of 30 points on without another explanation "
        "0.55",
        "",
    ),
    "class_gap": Code(
        "one class is much better known to the teacher",
        "recall differs by >= 15 points beyond the mean gap on >= 8 samples; severity up to 0.4",
        "",
    ),
    "overconfident_student": Code(
        "the student is surer than it is right",
        "confidence exceeds accuracy by >= 10 points; severity up to 0.45. An alarm (0.6 to 0.85) where the "
        "temperature that fits is >= 6 and gains >= 0.05 nat",
        "ordinary networks fit at 1 to 3 (Guo et al. 2017)",
    ),
    "underconfident_student": Code(
        "the student was taught to doubt",
        "right at least 20 points more often than it says, although its logits fit at a temperature above 0.5; "
        "severity 0.55 to 0.75",
        "noisy training labels, strong smoothing or mixing",
    ),
    "layer_mismatch": Code(
        "a layer of the student does not hold what its partner in the teacher holds",
        "CKA of a proposed pair < 0.5; severity up to 0.35",
        "",
    ),
    "attention_mismatch": Code(
        "the two models look at different regions", "mean correlation of the occlusion maps < 0.3; severity 0.3", ""
    ),
    "fragile_to_masks": Code(
        "the student loses more than the teacher when blocks are hidden",
        "by >= 15 points at some ratio, beyond the gap without masks; severity up to 0.4",
        "",
    ),
    "soft_targets_ignored": Code(
        "the student has not learnt how the teacher orders the other classes",
        "Kendall's tau of the classes beside the label < 0.3 although both are right in >= 60 %; severity up to 0.3",
        "the dark knowledge did not arrive",
    ),
    "same_weights": Code(
        "teacher and student are the same network", "the same module or equal weights; severity 0.3", ""
    ),
}

__all__ = ["ALARM", "CODES", "Code"]
