"""The shared maths as pure functions of tensors; one home for each formula.

==================  =====================================================================================
module              formulas
==================  =====================================================================================
``checks``          border checks, error messages
``reductions``      per-sample loss -> number
``divergences``     temperature KL and relatives, soft cross-entropy, target/non-target split, KD, DKD, DIST
``correlation``     Pearson, cosine, batched Kendall
``ranking``         Plackett-Luce, rankings, list-wise weights, agreement of rankings
``landscape``       planes of logits over which a loss is looked at
``pooling``         maps and tokens as one vector per sample
``prototypes``      class means, streaming class means; length and direction of embeddings
``similarity``      Gram, HSIC, CKA (scalar, mini-batch map, exact stream), CCA family, Procrustes, RSA, k-NN
``distortions``     features changed on purpose: rotation, scaling, outlier, lost component
``agreement``       top-k agreement, confusion counts, best renaming of classes, McNemar
``calibration``     reliability, expected calibration error, fitted temperature
``alignment``       Procrustes-aligned principal coordinates, effective rank
``occlusion``       occlusion windows, sensitivity of all classes at once, maps
``masks``           occlusion masks, block masks, mask sampling
``boxes``           box formats, IoU family, heat-map focal loss
``graphs``          adjacency and Laplacian operators
``retrieval``       ranking metrics of retrieval
``segmentation``    region metrics
==================  =====================================================================================

The last rows name where later formulas go; a module is created with its first formula.
"""
