"""Floor 5: what the docstrings of the estimators have in common."""

PARAMETERS = """\
hidden_layer_sizes : neurons of each hidden layer, default (100,)
activation : "identity", "logistic", "tanh" or "relu" (default); beyond scikit-learn any row of
    ``fastbp.activations``, a function such as ``lambda z: z * fb.math.tanh(z)``, or a list with one for each hidden
    layer
solver : "adam" (default), "sgd" or "lbfgs"
alpha : strength of the L2 penalty ``alpha / 2 * sum(w ** 2) / rows`` (weights, not biases), default 0.0001
batch_size : rows of a step, default "auto": 200, or all where there are fewer
learning_rate : for "sgd": "constant" (default), "invscaling" (``learning_rate_init / (t_ + 1) ** power_t`` after each
    epoch) or "adaptive" (divided by 5 whenever `n_iter_no_change` epochs bring no improvement); beyond scikit-learn one
    of ``fastbp.schedules``, for "sgd" and "adam", in place of `learning_rate_init`
learning_rate_init : step size, default 0.001
power_t : exponent of "invscaling", default 0.5
max_iter : most epochs, or iterations of "lbfgs", default 200
shuffle : whether each epoch has its own order of the rows, default True
random_state : of initial weights, held-out rows and orders: None, a number or a ``RandomState``
tol : an epoch counts as an improvement if it betters the best loss (or score) by this, default 1e-4
verbose : whether to print each epoch's loss
warm_start : whether `fit` goes on from the weights that are there, default False
momentum : for "sgd", share of the last step kept, 0 to 1, default 0.9
nesterovs_momentum : for "sgd", whether the momentum looks ahead, default True
early_stopping : hold out rows, end when their score stops improving, and keep the best weights, default False
validation_fraction : share of the rows held out, default 0.1
beta_1, beta_2 : for "adam", decay of its two moments, default 0.9 and 0.999
epsilon : for "adam", added to the root of the second moment, default 1e-8
n_iter_no_change : epochs without improvement that end a fit, default 10
max_fun : for "lbfgs", most evaluations of the loss, default 15000
dropout : beyond scikit-learn: share of each hidden layer's outputs that is dropped at random in each step of "sgd" or
    "adam" (Srivastava et al. 2014), or a list with a share for each hidden layer; default 0
batch_norm : beyond scikit-learn: whether each hidden layer is normalised over the batch before its activation (Ioffe
    and Szegedy 2015; moving statistics with momentum 0.9), with "sgd" or "adam"; default False
weight_decay : beyond scikit-learn: each step of "sgd" or "adam" also takes ``learning rate * weight_decay`` of every
    weight and bias away from it (Loshchilov and Hutter 2019), default 0
clipvalue, clipnorm, global_clipnorm : beyond scikit-learn: the gradient of a step, penalty included, is cut number by
    number, or scaled down to this norm, of each array or of all of them, with "sgd" or "adam"; None (default) for not;
    one can be given
callbacks : beyond scikit-learn: ``fastbp.callbacks``, called after each epoch with "loss", and with `early_stopping`
    the held-out rows' "val_accuracy" or "val_r2"; their ``model.estimator`` is the estimator
device : beyond scikit-learn: "cpu" (default), "cuda" for an NVIDIA GPU, or "auto": the GPU where there is one and the
    network is large
dtype : beyond scikit-learn: "float32" or "float64"; None for the type of X, and float64 with "lbfgs"
threads : beyond scikit-learn: most threads; None for those the process may use, shared by fits that run at once"""

ATTRIBUTES = """\
coefs_, intercepts_ : weights (I, O) and biases (O,) of each layer
batch_norms_ : of each hidden layer with `batch_norm` (4, O): gamma, beta, moving mean and moving variance
loss_ : loss of the last epoch, penalty included
loss_curve_ : loss of each epoch (not with "lbfgs")
best_loss_ : least of them; None with `early_stopping`
validation_scores_, best_validation_score_ : accuracy or R2 of the held-out rows at each epoch, and the best; None
    without `early_stopping`
n_iter_ : epochs or iterations of the last fit
t_ : rows seen so far, counted each time
n_features_in_, feature_names_in_ : width and column names of the rows
n_layers_, n_outputs_ : layers, inputs and outputs included; outputs
out_activation_ : activation of the outputs: "identity" (of several columns of classes too, each with its softmax behind
    it), "logistic", "softmax" or "exp" (by name)"""


def described(estimator: type) -> type:
    """Fill the docstring's places with what the estimators share."""
    shared = {"parameters": PARAMETERS, "attributes": ATTRIBUTES}
    texts = {name: text.replace("\n", "\n    ") for name, text in shared.items()}
    estimator.__doc__ = (estimator.__doc__ or "").format_map(texts)
    return estimator
